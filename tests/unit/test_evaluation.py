"""Score cards, controls and recovery on planted truth."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saebook.errors import DataError, SelectionError
from saebook.evaluation import (
    RandomDictionary,
    control_table,
    decoder_directions,
    evaluate,
    pca_control,
    random_dictionary_control,
    raw_unit_control,
    recover_activity,
    recover_features,
    shuffle_control,
    shuffle_units,
)
from saebook.metrics import ReconstructionSums, fvu
from saebook.models import SAE, SAEConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse_data(n: int, d_in: int, n_features: int, seed: int = 0, dictionary_seed: int = 100):
    """Sparse nonnegative features through a random unit-norm dictionary."""
    directions = torch.randn(n_features, d_in, generator=generator(dictionary_seed))
    directions = directions / directions.norm(dim=1, keepdim=True)
    chances = torch.rand(n, n_features, generator=generator(seed))
    features = (chances < 2 / n_features) * (1 + chances)
    return features @ directions, features, directions


class Oracle:
    """Knows the dictionary and reads the features back by least squares."""

    def __init__(self, directions: torch.Tensor) -> None:
        self.W_dec = directions
        self.config = SimpleNamespace(
            d_in=directions.shape[1], d_sae=len(directions), architecture="relu", k=None
        )

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        latents = x @ torch.linalg.pinv(self.W_dec)
        return latents * (latents > 1e-3)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.W_dec


class Store:
    """The part of an example store that evaluation reads."""

    def __init__(self, x: torch.Tensor, split: list[str], kind: str = "counts") -> None:
        self.x, self.split, self.kind, self.d_in = x, np.array(split), kind, x.shape[1]

    def rows(self, split: str | None = None) -> np.ndarray:
        return np.flatnonzero(self.split == split) if split else np.arange(len(self.x))

    def tensor(self, split: str | None = None, rows: np.ndarray | None = None) -> torch.Tensor:
        return self.x[torch.from_numpy(self.rows(split) if rows is None else rows)]


def poisson(n: int, d_in: int, rate: float = 0.3, seed: int = 0) -> torch.Tensor:
    counts = torch.poisson(torch.full((n, d_in), rate), generator=generator(seed))
    return counts.to(torch.uint8)


def test_a_copying_sae_is_flagged_on_counts():
    counts = poisson(400, 10)
    copy = Oracle(torch.eye(10))
    card = evaluate(copy, counts)
    assert card.fvu == pytest.approx(0.0, abs=1e-10)
    assert card.raw_unit is not None
    assert card.raw_unit.fvu == 0.0
    assert {"identity", "raw_units"} <= card.flags.keys()
    assert card.l0 == card.active_units
    assert "raw units" in str(card)


def test_structure_beats_raw_units_and_is_not_flagged():
    # One shared feature drives all units: one latent says what ten raw units say.
    active = (torch.rand(500, 1, generator=generator()) < 0.3).float()
    counts = (3 * active).expand(500, 10).to(torch.uint8)
    card = evaluate(Oracle(torch.ones(1, 10)), counts)
    assert card.fvu == pytest.approx(0.0, abs=1e-6)
    assert card.raw_unit is not None
    assert card.raw_unit.fvu > 0.5
    assert not card.flags


def test_activations_need_no_raw_units():
    x, _, directions = sparse_data(300, 16, 8)
    card = evaluate(Oracle(directions), x)
    assert card.raw_unit is None
    assert card.fvu < 1e-6


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "relu"])
def test_real_models_do_not_depend_on_the_batches(architecture: str):
    counts = poisson(300, 8).float()
    config = SAEConfig(
        d_in=8, d_sae=16, architecture=architecture, k=None if architecture == "relu" else 3
    )
    sae = SAE(config, seed=0)
    sae.fit_inputs(counts)
    config.selection.finish(sae, counts)
    sae.train()
    whole, parts = evaluate(sae, counts), evaluate(sae, counts, batch_size=37)
    assert sae.training
    assert whole.fvu == pytest.approx(parts.fvu, rel=1e-5)
    assert whole.l0 == pytest.approx(parts.l0, abs=0.02)
    assert whole.raw_unit is not None
    json.dumps(whole.to_dict(), allow_nan=False)


def test_a_store_is_scored_on_its_split_with_the_training_mean():
    x = torch.cat([poisson(100, 6), poisson(50, 6, rate=2.0, seed=1)])
    store = Store(x, ["train"] * 100 + ["test"] * 50)
    random = RandomDictionary(6, 12, k=2)
    card = evaluate(random, store)
    assert (card.split, card.n_examples) == ("test", 50)
    assert card.fvu == pytest.approx(evaluate(random, x[100:]).fvu)
    expected = raw_unit_control(x[100:], 2, centre=x[:100].double().mean(0))
    assert card.raw_unit is not None
    assert card.raw_unit.fvu == pytest.approx(expected.fvu)
    assert evaluate(random, store, split="train").n_examples == 100
    assert evaluate(random, Store(x, list(store.split), kind="activations")).raw_unit is None
    with pytest.raises(SelectionError, match="validation"):
        evaluate(random, store, split="validation")


def test_data_of_another_width_are_refused():
    with pytest.raises(DataError, match="d_in = 16, the data have 4"):
        evaluate(Oracle(torch.eye(16)), torch.zeros(5, 4))
    with pytest.raises(DataError, match="list"):
        evaluate(Oracle(torch.eye(16)), [1, 2])
    with pytest.raises(DataError, match=r"\[n, d_in\]"):
        evaluate(Oracle(torch.eye(16)), torch.zeros(5))


def test_pca_agrees_with_sklearn():
    from sklearn.decomposition import PCA

    x = torch.randn(200, 6, generator=generator()) @ torch.randn(6, 6, generator=generator(1))
    train, test = x[:150].double(), x[150:].double()
    control = pca_control(train, test)
    for n in (1, 3, 6):
        model = PCA(n, svd_solver="full").fit(train.numpy())
        guess = torch.from_numpy(model.inverse_transform(model.transform(test.numpy())))
        assert float(control.curve[n]) == pytest.approx(fvu(test, guess), abs=1e-10)
    assert control.fvu_at(2.5) == pytest.approx(float(control.curve[2:4].mean()))
    assert control.fvu_at(64) == pytest.approx(0.0, abs=1e-10)
    stored = pca_control(Store(x, ["train"] * 150 + ["test"] * 50))
    torch.testing.assert_close(stored.curve, control.curve, rtol=1e-6, atol=1e-9)


def test_random_dictionary_matches_l0_and_is_deterministic():
    x, _, directions = sparse_data(2000, 16, 32)
    sae = RandomDictionary(16, 32, k=4, seed=50)
    control = random_dictionary_control(sae, x[:500], train_data=x[500:], seeds=(0, 1, 2))
    assert [card.l0 for card in control.cards] == pytest.approx([4.0] * 3, abs=0.2)
    again = random_dictionary_control(sae, x[:500], train_data=x[500:], seeds=(0, 1, 2))
    assert control.fvu == again.fvu
    assert 0.0 < control.fvu.mean < 1.0
    threshold = random_dictionary_control(
        Oracle(directions), x[:500], train_data=x[500:], l0=2.5, seeds=(0, 1)
    )
    assert threshold.l0.mean == pytest.approx(2.5, rel=0.1)


def test_gain_is_the_least_squares_one():
    x, _, _ = sparse_data(500, 8, 16)
    random = RandomDictionary(8, 16, k=2, seed=0)
    random.fit(x, x.mean(0))
    best = random.gain
    scores = {}
    for factor in (0.9, 1.0, 1.1):
        random.gain = factor * best
        scores[factor] = fvu(x, random.decode(random.encode(x)))
    assert min(scores, key=lambda factor: scores[factor]) == 1.0


def test_shuffling_keeps_units_and_breaks_their_company():
    active = (torch.rand(1000, 1, generator=generator()) < 0.3).float()
    x = active.expand(1000, 5)
    shuffled = shuffle_units(x, seed=0)
    assert torch.equal(shuffled.sum(0), x.sum(0))
    assert torch.equal(shuffled, shuffle_units(x, seed=0))
    assert not torch.equal(shuffled, shuffle_units(x, seed=1))
    control = shuffle_control(Oracle(torch.ones(1, 5)), x, seeds=(0, 1, 2))
    assert control.intact_fvu == pytest.approx(0.0, abs=1e-9)
    # The projection on the shared direction keeps 1/5 of independent variance.
    assert control.fvu.mean == pytest.approx(0.8, abs=0.05)


def test_control_table_sets_the_sae_beside_its_controls():
    x, _, directions = sparse_data(1500, 16, 24)
    table = control_table(Oracle(directions), x[:500], train_data=x[500:], seeds=(0, 1, 2))
    assert list(table.index) == [
        "SAE",
        "raw units",
        "random dictionary",
        "PCA",
        "SAE on shuffled units",
        "mean",
    ]
    assert table["fvu"].tolist()[0] < table["low"].tolist()[2]
    assert all(0 <= value <= 2 for value in table["fvu"].tolist())


def test_planted_features_are_recovered_and_random_ones_are_not():
    _, _, directions = sparse_data(10, 32, 20)
    found = recover_features(Oracle(directions * 5), directions)
    assert (found.scores.recall, found.scores.precision, found.null) == (1.0, 1.0, "gaussian")
    assert found.random_interval("recall").mean == 0.0
    assert found.random_interval("mmcs_true").n == 5
    assert found.table()["learned"].tolist()[0] == 1.0
    json.dumps(found.to_dict(), allow_nan=False)
    chance = recover_features(torch.randn(20, 32, generator=generator(5)), directions)
    by_chance = chance.random["mmcs_true"].tolist()
    low, high = min(by_chance) - 0.05, max(by_chance) + 0.05
    assert low < chance.scores.mmcs_true < high


def test_nonnegative_truth_gets_the_harder_null():
    true = torch.rand(6, 12, generator=generator())
    easy = recover_features(true, true, null="gaussian")
    hard = recover_features(true, true)
    assert hard.null == "nonnegative"
    assert hard.random_interval("mmcs_true").mean > easy.random_interval("mmcs_true").mean + 0.3
    with pytest.raises(DataError, match="null"):
        recover_features(true, true, null="uniform")


def test_directions_are_in_the_units_of_the_data():
    sae = SAE(SAEConfig(d_in=4, d_sae=8, architecture="topk", k=2), seed=0)
    sae.fit_inputs(50 * torch.rand(64, 4, generator=generator()))
    directions = decoder_directions(sae)
    ratio = directions / sae.W_dec.detach()
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert float(ratio[0, 0]) > 5


def test_activity_is_matched_on_train_and_scored_on_test():
    features = torch.rand(3000, 4, generator=generator()) ** 3
    noise = torch.randn(3000, 6, generator=generator(1))
    latents = torch.cat([features[:, [2, 0, 3]] + 0.01 * noise[:, :3], noise[:, 3:]], dim=1)
    found = recover_activity(latents[:2000], features[:2000], latents[2000:], features[2000:])
    assert found.features["latent"].tolist()[0] == 1
    assert found.features["latent"].tolist()[2:] == [0, 2]
    assert found.recall == 0.75
    assert found.shifted_interval("recall").mean == 0.0
    assert abs(found.shifted_interval("mean_r").mean) < 0.1
    expected = np.corrcoef(latents[:2000, 1], features[:2000, 0])[0, 1]
    assert found.features.loc[0, "r_train"] == pytest.approx(expected, abs=1e-5)
    again = recover_activity(latents[:2000], features[:2000], latents[2000:], features[2000:])
    assert found.features.equals(again.features)


def test_a_latent_chosen_by_luck_on_train_scores_nothing_on_test():
    features = torch.rand(60, 1, generator=generator())
    latents = torch.randn(60, 500, generator=generator(1))
    found = recover_activity(latents[:30], features[:30], latents[30:], features[30:])
    assert found.features["best_r_train"].tolist()[0] > 0.4
    assert abs(found.features["best_r_test"].tolist()[0]) < 0.35


def test_constant_features_are_set_aside_and_constant_latents_harmless():
    features = torch.rand(200, 3, generator=generator())
    latents = torch.cat([features, torch.full((200, 1), 0.1)], dim=1)
    features[:, 1] = 0.3
    found = recover_activity(
        latents[:100], features[:100], latents[100:], features[100:], feature_names=list("abc")
    )
    assert (found.n_features, found.n_constant, found.recall) == (2, 1, 1.0)
    assert found.features.loc["b", "latent"] == -1
    assert torch.equal(found.correlation[3], torch.zeros(3))
    with pytest.raises(DataError, match="width"):
        recover_activity(latents[:100], features[:100], latents[100:, :2], features[100:])


def test_a_large_common_offset_does_not_spoil_the_correlation():
    features = torch.rand(4000, 2, generator=generator()).double()
    latents = features.float() + 1000.0
    found = recover_activity(latents, features, latents, features, n_shifts=0)
    assert min(found.features["r_test"].tolist()) > 0.999


def test_the_streaming_mean_is_the_training_mean():
    sums = ReconstructionSums()
    counts = poisson(90, 4)
    for rows in counts.split(11):
        sums.update(rows, rows)
    torch.testing.assert_close(sums.mean, counts.double().mean(0))
