"""The bench of training steps measures what it says."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from saebook.__main__ import main
from saebook.models import SAE
from saebook.training import TrainConfig
from saebook.training.speed import (
    WORKLOADS,
    Workload,
    begin_at_density,
    dense_products,
    examples,
    full_step,
    measure,
)

TINY = Workload(d_in=16, d_sae=64, batch_size=128, architecture="topk", k=4)


def test_a_measurement_holds_together():
    speed = measure(TINY, TrainConfig(device="cpu"), rounds=3, warmup=1)
    assert speed.step_ms > 0 and speed.floor_ms > 0
    assert speed.examples_per_s == pytest.approx(128 / speed.step_ms * 1000)
    assert 0 < speed.l0 <= 4


def test_a_stack_counts_the_examples_and_products_of_all_its_members(monkeypatch):
    products = []
    plain = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: products.append(a) or plain(*a, **k))
    stack = dataclasses.replace(TINY, n_models=3)
    speed = measure(stack, TrainConfig(device="cpu"), rounds=2, warmup=1)
    assert speed.examples_per_s == pytest.approx(3 * 128 / speed.step_ms * 1000)
    assert len(products) == 3 * 15  # before the rounds and in two of them, five for each member
    assert full_step(stack, TrainConfig(device="cpu"))()["l0"].shape == (3,)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu"])
@pytest.mark.parametrize("density", [0.5, 0.05])
def test_a_step_begins_at_the_density_asked_for(architecture, density):
    workload = Workload(16, 256, 512, architecture, k=8, density=density)
    sae, x = SAE(workload.config), examples(workload)
    sae.fit_inputs(x)
    begin_at_density(sae, x, density)
    active = sae.config.selection.active(sae.encode(x)).double().mean()
    assert float(active) == pytest.approx(density, rel=0.05)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_is_a_model(name):
    config = WORKLOADS[name].config
    assert (config.d_in, config.d_sae) == (WORKLOADS[name].d_in, WORKLOADS[name].d_sae)


def test_steps_go_through_all_batches_and_learn():
    step = full_step(TINY, TrainConfig(device="cpu", learning_rate=1e-2, warmup_fraction=0.0))
    errors = [float(step()["fvu"]) for _ in range(60)]
    assert errors[-1] < 0.8 * errors[0]


def test_the_floor_is_five_products(monkeypatch):
    products = []
    plain = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: products.append(a) or plain(*a, **k))
    dense_products(TINY)()
    flops = [2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in products]
    assert flops == [2 * 128 * 16 * 64] * 5


def test_the_command_lists_measures_and_keeps(tmp_path, monkeypatch, capsys):
    assert main(["bench", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in WORKLOADS)
    monkeypatch.setitem(WORKLOADS, "tiny", TINY)
    out = tmp_path / "speed.json"
    arguments = ["bench", "--workloads", "tiny", "--rounds", "2", "--device", "cpu"]
    assert main([*arguments, "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    assert kept["workloads"]["tiny"]["d_sae"] == 64 and kept["versions"]["torch"]
    assert "tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "nothing"], "no workload is named 'nothing'"),
        (["--workloads", "topk", "--rounds", "0"], "at least 1"),
        (["--workloads", "topk", "--engine", "turbo"], "engine"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
