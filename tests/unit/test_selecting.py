"""Selecting a run: the best by a fair score, and refusals of those that aren't."""

from __future__ import annotations

import pytest
import torch

from saebook.errors import ConfigError, DataError
from saebook.models import SAEConfig
from saebook.training import Run, TrainConfig, fit, select_run


def relu(coefficient: float, **changes) -> SAEConfig:
    settings = {"architecture": "relu", "sparsity_coefficient": coefficient, **changes}
    return SAEConfig(d_in=8, d_sae=16, **settings)


def examples(n: int = 256, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.randn(16, 8, generator=torch.Generator().manual_seed(9))
    sparse = torch.rand(n, 16, generator=generator) * (torch.rand(n, 16, generator=generator) < 0.1)
    return sparse @ dictionary


def train(config: SAEConfig, n_steps: int = 40, validation: bool = True, **changes) -> Run:
    settings = TrainConfig(n_steps=n_steps, batch_size=64, device="cpu", retire_at=None, **changes)
    held_out = examples(seed=1) if validation else None
    return fit(config, examples(), settings, validation=held_out, progress=False)


PAIRS = [
    (relu(0.1), {"total": 0.4, "recall": 0.2, "fvu": 0.10, "l0": 8.0}),
    (relu(1.0), {"total": 1.2, "recall": 0.9, "fvu": 0.30, "l0": 3.0}),
    (relu(5.0), {"total": 3.0, "recall": 0.5, "fvu": 0.80, "l0": 0.5}),
]


def test_the_best_by_recall_is_returned_as_it_was_given():
    assert select_run(PAIRS, by="recall") is PAIRS[1]
    assert select_run(iter(PAIRS), by=lambda pair: -pair[1]["l0"]) is PAIRS[2]


@pytest.mark.parametrize("name", ["total", "loss", "l1"])
def test_losses_are_refused_across_coefficients(name):
    with pytest.raises(ConfigError, match=r"sparsity_coefficient = 0\.1, 1 and 5: losses with"):
        select_run(PAIRS, by=name)


def test_the_total_is_allowed_where_the_objective_is_one_and_the_same():
    pairs = [(relu(1.0), {"total": total}) for total in (2.0, 1.5, 1.7)]
    assert select_run(pairs, by="total") is pairs[1]


@pytest.mark.parametrize(
    "other",
    [
        {"input_scaling": "center_scale"},
        {"reconstruction": "lmse"},
        {"auxiliary": "ghost"},
        {"sparsity": "tanh"},
    ],
)
def test_other_parts_of_the_objective_count_as_coefficients(other):
    pairs = [(relu(1.0), {"total": 2.0}), (relu(1.0, **other), {"total": 1.0})]
    with pytest.raises(ConfigError, match=next(iter(other))):
        select_run(pairs, by="total")


def test_a_controller_makes_coefficients_differ():
    pairs = [(relu(1.0, target_l0=3.0), {"total": total}) for total in (2.0, 1.0)]
    with pytest.raises(ConfigError, match="controller moved"):
        select_run(pairs, by="total")


def test_fvu_is_refused_across_l0_and_allowed_within_the_tolerance():
    with pytest.raises(ConfigError, match=r"L0 from 0\.5 to 8, more than 10% apart"):
        select_run(PAIRS, by="fvu")
    near = [(relu(1.0), {"fvu": 0.3, "l0": 4.0}), (relu(1.1), {"fvu": 0.2, "l0": 4.4})]
    assert select_run(near, by="fvu") is near[1]
    with pytest.raises(ConfigError, match=r"L0 from 4 to 4\.4"):
        select_run(near, by="fvu", l0_tolerance=0.05)


def test_explained_variance_is_bound_to_l0_as_well_and_more_of_it_is_better():
    pairs = [(relu(1.0), {"explained_variance": v, "l0": 4.0}) for v in (0.7, 0.9)]
    assert select_run(pairs, by="explained_variance") is pairs[1]
    unmatched = [(relu(1.0), {"explained_variance": 0.9, "l0": l0}) for l0 in (2.0, 4.0)]
    with pytest.raises(ConfigError, match="match L0"):
        select_run(unmatched, by="explained_variance")


def test_runs_are_scored_by_their_cards():
    topk = {"architecture": "topk", "k": 2}
    runs = [train(SAEConfig(8, 16, **topk), n_steps=n) for n in (1, 60)]
    assert all(run.card["split"] == "validation" for run in runs)
    assert select_run(runs, by="fvu") is runs[1]
    assert runs[1].card["fvu"] < runs[0].card["fvu"]


def test_totals_of_runs_come_from_their_histories():
    slow, fast = (train(relu(0.5), learning_rate=rate) for rate in (1e-6, 1e-2))
    assert select_run([slow, fast], by="total") is fast
    with pytest.raises(ConfigError, match="not comparable"):
        select_run([fast, train(relu(0.1))], by="total")


def test_fvu_of_training_rows_is_refused():
    topk = SAEConfig(8, 16, architecture="topk", k=2)
    runs = [train(topk, n_steps=n, validation=False) for n in (1, 2)]
    with pytest.raises(ConfigError, match="learn by heart"):
        select_run(runs, by="fvu")
    scored = [(run, {"fvu": fvu, "l0": 2.0}) for run, fvu in zip(runs, (0.5, 0.4), strict=True)]
    assert select_run(scored, by="fvu") is scored[1]


def test_unknown_scores_need_a_direction():
    pairs = [(relu(1.0), {"speed": speed}) for speed in (1.0, 3.0, 2.0)]
    with pytest.raises(ConfigError, match="say better="):
        select_run(pairs, by="speed")
    assert select_run(pairs, by="speed", better="higher") is pairs[1]
    assert select_run(pairs, by="speed", better="lower") is pairs[0]


def test_undefined_scores_cannot_win_and_ties_go_to_the_first():
    nan = float("nan")
    pairs = [(relu(1.0), {"recall": value}) for value in (nan, 0.4, 0.4)]
    assert select_run(pairs, by="recall") is pairs[1]
    with pytest.raises(DataError, match="finite"):
        select_run(pairs[:1], by="recall")


def test_nothing_to_select_from_and_missing_scores_are_refused():
    with pytest.raises(DataError, match="at least one"):
        select_run([], by="recall")
    with pytest.raises(DataError, match="it has fvu, l0, recall, total"):
        select_run(PAIRS, by="bits_per_spike")
    with pytest.raises(DataError, match="no such score"):
        select_run([(relu(1.0), {"fvu": 0.1}), (relu(1.0), {"fvu": 0.1})], by="fvu")
