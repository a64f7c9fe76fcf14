"""Whole runs on a GPU, and what a step reads there."""

from __future__ import annotations

import pytest
import torch

from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, fit, fit_many
from saebook.training.dead import LAG, DeadCount
from saebook.training.dials import ROWS, Dials
from saebook.training.speed.gpu.cases import Case
from saebook.training.speed.gpu.measuring import measure_case
from saebook.training.speed.steps import examples, made_on
from saebook.training.speed.workloads import Workload

pytestmark = pytest.mark.filterwarnings("default", "error:this step can't be recorded")

X = torch.rand(400, 12, generator=torch.Generator().manual_seed(0))
CONFIG = SAEConfig(d_in=12, d_sae=32, k=4)


def difference(one: SAE, other: SAE) -> float:
    """Of all weights, as a share of their norm."""
    a, b = (
        torch.cat([p.detach().flatten().cpu() for p in sae.parameters()]) for sae in (one, other)
    )
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("data", ["floats", "counts"])
def test_a_run_goes_on_where_it_stopped(data, device, tmp_path):
    x = X if data == "floats" else (8 * X).to(torch.uint8)
    train = TrainConfig(n_steps=40, batch_size=32, device=device)
    whole = fit(CONFIG, x, train, validation=x[:50], progress=False)

    def stop(trainer):
        if trainer.step_number >= 17:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, x, train, validation=x[:50], out=tmp_path, probe=stop, progress=False)
    resumed = fit(CONFIG, x, train, validation=x[:50], out=tmp_path, progress=False)
    assert difference(resumed.sae, whole.sae) < 1e-3
    assert resumed.history["step"].tolist() == whole.history["step"].tolist()
    assert set(resumed.card) == set(whole.card) and whole.card


def test_many_learn_as_each_would_alone(device):
    train = TrainConfig(n_steps=40, batch_size=32, device=device, engine="dense")
    configs = [SAEConfig(d_in=12, d_sae=32, k=k) for k in (2, 4, 6)]
    members = [(config, train, seed) for seed, config in enumerate(configs)]
    runs = fit_many(members, X, progress=False)
    for (config, _, seed), run in zip(members, runs, strict=True):
        alone = fit(config, X, train, seed=seed, order_seed=0, progress=False)
        assert difference(run.sae, alone.sae) < 1e-3


def test_a_count_of_the_dead_lags_and_then_tells_the_truth(device):
    where = torch.device(device)
    count = DeadCount(2, 64, where)
    mask = torch.zeros(2, 64, dtype=torch.bool, device=where)
    assert count.at_most(lambda: mask) == (0, 0)
    mask[0, :5] = True
    told = [count.at_most(lambda: mask) for _ in range(2 * LAG + 1)]
    if device == "cpu":
        assert set(told) == {(5, 0)}
        return
    assert told[0] == (0, 0)
    # Room for twice as many, as a power of two, for all alike.
    assert told[-1] == (16, 16)
    mask[1] = True
    assert [count.at_most(lambda: mask) for _ in range(2 * LAG + 1)][-1] == (64, 64)
    mask.zero_()
    assert [count.at_most(lambda: mask) for _ in range(2 * LAG + 1)][-1] == (0, 0)


def test_dials_show_each_step_its_numbers(device):
    def numbers(step: int) -> list[float]:
        return [0.5 * step, -float(step)]

    dials = Dials(numbers, torch.device(device))
    rate = dials.rates[0]
    for step in (0, 1, 7, ROWS - 1, ROWS, ROWS + 9, 3):
        dials.turn(step)
        assert float(rate) == 0.5 * step and float(dials.share) == -step


def test_a_model_and_examples_are_made_on_the_device(device):
    where = torch.device(device)
    workload = Workload(16, 64, 256, "batchtopk", 4)
    x, sae = examples(workload, device=where), made_on(where, workload.config, 0)
    assert x.device.type == sae.W_dec.device.type == device
    assert {b.device.type for b in sae.buffers()} == {device}
    torch.testing.assert_close(sae.W_dec.norm(dim=1).cpu(), torch.ones(64))
    assert x.equal(examples(workload, device=where))
    sae.fit_inputs(x)
    assert float(sae.target_variance) > 0


@pytest.mark.parametrize("capture", ["never", "always"])
def test_a_step_is_measured(capture, device):
    if device == "cpu" and capture == "always":
        pytest.skip("a CPU records nothing")
    workload = Workload(16, 64, 128, "batchtopk", 4, n_models=2, dead=0.25)
    case = Case("tiny", "step", workload, "dense", capture=capture, profiled=True)
    found = measure_case(case, torch.device(device))
    assert found["recordings"] == (capture == "always") and found["dead"] == 0.25
    if device == "cpu":
        assert found["profile"]["busy_us"] > 0 and found["profile"]["kernels"]
    else:  # whose counters may be kept from us
        assert 0 < found["device_us"] <= 1.05 * found["wall_us"]
        assert found["peak_memory_gb"] > 0
