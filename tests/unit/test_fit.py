"""A whole run: cards, exact resume, refusals."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from saebook.errors import CheckpointError, DataError, TrainingError
from saebook.models import SAEConfig, load_sae
from saebook.training import TrainConfig, Trainer, fit, load_run

CONFIG = SAEConfig(d_in=8, d_sae=32, k=3)
TRAIN = TrainConfig(n_steps=60, batch_size=64, device="cpu", n_checkpoints=6)


def examples(n: int = 600, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.rand(16, 8, generator=generator)
    sparse = torch.rand(n, 16, generator=generator) * (torch.rand(n, 16, generator=generator) < 0.1)
    return sparse @ dictionary


def train(**changes):
    return fit(CONFIG, examples(), TRAIN, progress=False, **changes)


class Stopped(Exception):
    """Stands for a kill in the middle of a run."""


def stop_at(step: int):
    def probe(trainer: Trainer) -> dict[str, float]:
        if trainer.step_number == step:
            raise Stopped
        return {}

    return probe


def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path):
    straight = train(out=tmp_path / "straight")
    with pytest.raises(Stopped):
        train(out=tmp_path / "stopped", probe=stop_at(37))
    assert not (tmp_path / "stopped" / "run.json").exists()
    resumed = train(out=tmp_path / "stopped")
    pd.testing.assert_frame_equal(straight.history, resumed.history)
    for a, b in zip(
        straight.sae.state_dict().values(), resumed.sae.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    assert straight.card == resumed.card
    assert not (tmp_path / "stopped" / "checkpoint.pt").exists()


def test_a_finished_run_is_read_back_not_trained_again(tmp_path):
    first = train(out=tmp_path / "run")

    def never(trainer):
        raise AssertionError("trained again")

    again = train(out=tmp_path / "run", probe=never)
    pd.testing.assert_frame_equal(first.history, again.history)
    assert again.card == first.card and again.findings == first.findings
    assert not again.sae.training
    x = examples(20, seed=9)
    assert torch.equal(first.sae(x)[0], again.sae(x)[0])
    assert torch.equal(
        load_sae(tmp_path / "run" / "sae")(x)[0], load_run(tmp_path / "run").sae(x)[0]
    )


def test_a_folder_of_another_run_is_refused_and_named(tmp_path):
    train(out=tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"sae\.k = 3 there, 4 here"):
        fit(SAEConfig(d_in=8, d_sae=32, k=4), examples(), TRAIN, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="sha256_of_sample"):
        fit(CONFIG, examples(seed=1), TRAIN, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="seed = 0 there, 1 here"):
        train(out=tmp_path / "run", seed=1)


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(Stopped):
        train(out=tmp_path / "run", probe=stop_at(37))
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: damaged"):
        train(out=tmp_path / "run")


def test_same_seed_same_numbers_and_another_seed_others():
    a, b, c = train(seed=5), train(seed=5), train(seed=6)
    assert a.card == b.card and torch.equal(a.sae.W_dec, b.sae.W_dec)
    assert a.card["fvu"] != c.card["fvu"]


def test_the_card_is_of_held_out_examples_when_there_are_any():
    assert train().card["split"] == "train"
    held_out = train(validation=examples(200, seed=0))
    assert held_out.card["split"] == "validation" and held_out.card["n_examples"] == 200
    assert held_out.card["explained_variance"] == pytest.approx(1 - held_out.card["fvu"])


def test_steps_can_be_counted_in_epochs():
    run = fit(
        CONFIG, examples(), TrainConfig(n_epochs=3, batch_size=100, n_logs=1000), progress=False
    )
    assert run.history["step"].iloc[-1] == 18
    assert run.history["examples"].iloc[-1] == 1800


def test_probe_adds_columns():
    run = train(probe=lambda trainer: {"norm": float(trainer.sae.W_dec.norm())})
    assert run.history["norm"].to_numpy() == pytest.approx(32**0.5, rel=1e-5)


def test_counts_train_as_they_are_stored():
    counts = torch.poisson(examples() * 3, generator=torch.Generator().manual_seed(0))
    as_bytes = fit(CONFIG, counts.to(torch.uint8), TRAIN, progress=False)
    as_floats = fit(CONFIG, counts, TRAIN, progress=False)
    assert as_bytes.card == as_floats.card


def test_broken_data_is_refused():
    x = examples()
    x[5, 1] = float("nan")
    with pytest.raises(DataError, match="1 of 600 training examples"):
        fit(CONFIG, x, TRAIN, progress=False)
    with pytest.raises(DataError, match=r"needs \[n, 8\]"):
        fit(CONFIG, torch.zeros(10, 7), TRAIN, progress=False)
    with pytest.raises(DataError, match="empty"):
        fit(CONFIG, torch.zeros(0, 8), TRAIN, progress=False)


def test_a_diverged_run_stops_and_names_the_step(tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+: .*Lower the learning rate"):
        fit(
            SAEConfig(d_in=8, d_sae=32, architecture="relu", input_scaling="none"),
            examples() * 1e3,
            TrainConfig(n_steps=60, learning_rate=1e30, clip_norm=None, device="cpu"),
            out=tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_data_set_smaller_than_a_batch_is_one_batch():
    run = fit(CONFIG, examples(10), TrainConfig(n_steps=5, device="cpu"), progress=False)
    assert run.history["examples"].iloc[-1] == 50


def test_copying_is_found_on_narrow_sparse_counts_alone():
    counts = torch.poisson(
        torch.full((500, 8), 0.2), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    run = fit(SAEConfig(d_in=8, d_sae=32, k=4), counts, TRAIN, progress=False)
    assert "identity" in run.findings
    assert "identity" not in train().findings


def test_a_k_that_the_data_cannot_fill_is_found():
    one_hot = torch.eye(8).repeat(50, 1)
    config = SAEConfig(d_in=8, d_sae=16, k=12, architecture="topk")
    run = fit(config, one_hot, TrainConfig(n_steps=300, batch_size=64), progress=False)
    assert run.card["l0"] < 9 and "l0_away_from_target" in run.findings


@pytest.mark.parametrize("architecture", ["batchtopk", "topk", "relu", "jumprelu", "gated"])
@pytest.mark.parametrize(
    "x",
    [
        torch.arange(60).remainder(3)[:, None].to(torch.uint8),
        torch.arange(60).remainder(17).eq(0)[:, None].to(torch.uint8),
        torch.linspace(0.0, 1.0, 60)[:, None],
        torch.ones(1, 4),
    ],
    ids=["one unit", "one quiet unit", "one dimension", "one example"],
)
def test_the_least_of_data_are_trained_on_and_examined(x, architecture):
    config = SAEConfig(d_in=x.shape[1], d_sae=6, architecture=architecture)
    run = fit(config, x, TrainConfig(n_steps=12, batch_size=16), progress=False)
    assert torch.isfinite(run.sae(x.float())[0]).all()
    assert all(isinstance(finding, str) for finding in run.findings)
