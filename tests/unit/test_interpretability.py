"""Interpretability by counting: predictors of tokens, contexts, neighbours, on planted latents."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from scipy import sparse

from saebook.errors import ConfigError, DataError, SelectionError
from saebook.evaluation.coherence import context_coherence, mean_cosines
from saebook.evaluation.interpretability import (
    RANDOM,
    interpretability_table,
    latent_interpretability,
    latents_of,
    nearest_directions,
)
from saebook.evaluation.random_dictionary import RandomDictionary
from saebook.evaluation.token_prediction import (
    TokenRows,
    as_sparse,
    auc_at_chance,
    grouped_auc,
    token_predictions,
)

N_DOCUMENTS, LENGTH, WORDS = 60, 200, 50


def world(seed: int = 0):
    """Tokens of documents on two subjects, and latents of known meaning."""
    rng = np.random.default_rng(seed)
    documents = np.repeat(np.arange(N_DOCUMENTS), LENGTH)
    subject = documents % 2
    own = rng.random(len(documents)) < 0.5
    common, special = rng.integers(0, WORDS, (2, len(documents)))
    tokens = np.where(own, 100 + 100 * subject + special % 20, common)
    rows = TokenRows.of(tokens, documents)
    latents = {
        "token": (tokens == 7) * rng.uniform(1, 2, len(tokens)),
        "bigram": ((tokens % 5 == 1) & (rows.before(1) % 5 == 2)) * 1.0,
        "subject": (rng.random(len(tokens)) < 0.05) * (subject == 0) * 1.0,
        "random": (rng.random(len(tokens)) < 0.05) * rng.exponential(size=len(tokens)),
        "dead": np.zeros(len(tokens)),
        "always": np.ones(len(tokens)),
    }
    return rows, np.stack(list(latents.values()), axis=1), list(latents)


ROWS, LATENTS, NAMES = world()
TRAIN, TEST = ROWS.documents < 40, ROWS.documents >= 40


def test_planted_latents_score_as_what_they_are():
    found = latent_interpretability(LATENTS, ROWS, TRAIN, TEST, order=2).set_axis(NAMES)
    token, bigram, random = (found.loc[name] for name in ("token", "bigram", "random"))
    assert token["token_auc"] == token["ngram_auc"] == token["top_token_share"] == 1.0
    assert token["token_r2"] > 0.9
    # Short of 1 by pairs of tokens that training documents never held.
    assert 0.7 < bigram["token_auc"] < bigram["ngram_auc"] - 0.05 < 0.95
    assert bigram["ngram_r2"] > bigram["token_r2"] + 0.3
    chance = auc_at_chance(int(random["n_active"]), int(TEST.sum() - random["n_active"]))
    assert abs(random["token_auc"] - 0.5) < 1.5 * chance and random["token_r2"] < 0.01
    assert found.loc["subject", "coherence_z"] > 3
    assert abs(random["coherence_z"]) < 3
    assert found.loc["dead", ["token_auc", "token_r2", "coherence"]].isna().all()
    assert found.loc["dead", "n_active"] == 0 and found.loc["always", "density"] == 1
    # There is no row to tell it from, and no variance to explain.
    assert found.loc["always", ["token_auc", "token_r2"]].isna().all()


def test_many_random_latents_lie_within_chance():
    rng = np.random.default_rng(1)
    latents = sparse.random_array((len(ROWS), 200), density=0.02, rng=rng)
    found = latent_interpretability(latents, ROWS, TRAIN, TEST)
    half = np.array([auc_at_chance(int(n), int(TEST.sum() - n)) for n in found["n_active"]])
    aucs, z = found[["token_auc", "ngram_auc"]].to_numpy(), found["coherence_z"].to_numpy()
    assert (np.abs(aucs - 0.5) > half[:, None]).mean(axis=0).max() < 0.11
    assert abs(z.mean()) < 0.3 and 0.7 < z.std() < 1.3
    assert abs(aucs.mean() - 0.5) < 0.01


def plain_scores(active, tokens_of, order, smoothing, train, test, n):
    """The predictor's estimates by dictionaries, row by row."""
    sums, counts = defaultdict(float), defaultdict(int)
    for row in train:
        for length in range(1, order + 1):
            sums[tokens_of(row, length)] += active[row]
            counts[tokens_of(row, length)] += 1
    made = []
    for row in test:
        estimate = active[train].mean()
        for length in range(1, order + 1):
            key = tokens_of(row, length)
            estimate = (sums[key] + smoothing * estimate) / (counts[key] + smoothing)
        made.append(estimate)
    return np.array(made)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_predictions_are_those_of_a_plain_loop(order):
    from sklearn.metrics import r2_score, roc_auc_score

    rng = np.random.default_rng(2)
    documents = np.repeat(np.arange(12), 40)
    rows = TokenRows.of(rng.integers(0, 6, 480), documents)
    earlier = [rows.tokens, rows.before(1), rows.before(2)]
    values = ((rows.tokens == 2) + (rows.before(1) == 3) + rng.random(480) - 0.9).clip(0)
    train, test = np.flatnonzero(documents < 8), np.flatnonzero(documents >= 8)

    def tokens_of(row, length):
        return tuple(part[row] for part in earlier[:length])

    found = token_predictions(values[:, None], rows, train, test, order=order, smoothing=1.5)
    for name, length in (("token", 1), ("ngram", order)):
        when, much = (
            plain_scores(v, tokens_of, length, 1.5, train, test, 480)
            for v in ((values > 0) * 1.0, values)
        )
        auc = roc_auc_score(values[test] > 0, when)
        assert found[f"{name}_auc"].iloc[0] == pytest.approx(auc, abs=1e-12)
        r2 = r2_score(values[test], much)
        assert found[f"{name}_r2"].iloc[0] == pytest.approx(r2, abs=1e-12)


def test_auc_of_groups_is_that_of_rows():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    scores = rng.integers(0, 5, (30, 4)) / 4
    positive, negative = rng.integers(0, 4, (30, 4)), rng.integers(0, 4, (30, 4))
    found = grouped_auc(scores, positive, negative)
    for j in range(4):
        labels = np.r_[np.ones(positive[:, j].sum()), np.zeros(negative[:, j].sum())]
        rows = np.r_[
            np.repeat(scores[:, j], positive[:, j]), np.repeat(scores[:, j], negative[:, j])
        ]
        assert found[j] == pytest.approx(roc_auc_score(labels, rows))
    assert np.isnan(grouped_auc(scores, positive * 0, negative)).all()


def test_the_form_of_the_latents_does_not_matter():
    few = (LATENTS * (np.arange(6) < 4))[:, :4]
    negative = few - (few == 0) * 0.5  # below zero is not active
    dense = token_predictions(few, ROWS, TRAIN, TEST)
    for given in (sparse.csc_array(few), torch.from_numpy(few).float(), negative):
        other = token_predictions(given, ROWS, np.flatnonzero(TRAIN), np.flatnonzero(TEST))
        np.testing.assert_allclose(dense, other, atol=1e-6)
    assert (as_sparse(negative).data > 0).all() and negative.min() < 0


def test_rows_that_a_mask_left_out_are_gaps():
    rows = TokenRows.of([1, 2, 3, 4], documents=[0, 0, 0, 1], positions=[1, 3, 4, 1])
    assert rows.before(1).tolist() == [-1, -1, 2, -1]
    assert rows.before(2).tolist() == [-1, -1, -1, -1]


@pytest.mark.parametrize(
    ("documents", "positions"),
    [([0, 1, 0], [0, 0, 1]), ([0, 0, 0], [0, 2, 1]), ([0, 0], [0, 1])],
)
def test_rows_out_of_order_are_refused(documents, positions):
    with pytest.raises(DataError):
        TokenRows.of([1, 2, 3], documents, positions)


def test_a_document_in_both_parts_is_refused():
    with pytest.raises(SelectionError, match="in both parts"):
        token_predictions(LATENTS, ROWS, ROWS.documents <= 40, TEST)
    with pytest.raises(SelectionError, match="train: 0 rows"):
        token_predictions(LATENTS, ROWS, TRAIN & TEST, TEST)
    with pytest.raises(DataError, match="rows of latents"):
        context_coherence(LATENTS[:5], ROWS, TRAIN, TEST)
    with pytest.raises(DataError, match="finite"):
        token_predictions(LATENTS * np.nan, ROWS, TRAIN, TEST)
    with pytest.raises(ConfigError):
        token_predictions(LATENTS, ROWS, TRAIN, TEST, order=0)


def test_coherence_is_the_mean_cosine_of_bags_of_words():
    rng = np.random.default_rng(4)
    rows = TokenRows.of(rng.integers(0, 12, 120), np.repeat(np.arange(6), 20))
    train, window = np.arange(60), 3
    group = np.array([62, 80, 119])
    counts = np.bincount(rows.tokens[train], minlength=12)
    weight = -np.log(np.maximum(counts, 1) / 61)
    bags = []
    for row in group:
        at = [r for r in range(row - window, row + window + 1) if r != row and 0 <= r < 120]
        words = {int(rows.tokens[r]) for r in at if rows.documents[r] == rows.documents[row]}
        bag = np.zeros(12)
        bag[list(words)] = weight[list(words)]
        bags.append(bag / np.linalg.norm(bag))
    pairs = [bags[i] @ bags[j] for i, j in ((0, 1), (0, 2), (1, 2))]
    found = mean_cosines([group, group[:1], group[:0]], rows, train, window)
    assert found[0] == pytest.approx(np.mean(pairs)) and np.isnan(found[1:]).all()


def test_contexts_come_from_different_documents():
    value = np.arange(len(ROWS)) * 1.0  # strongest at the end of the last document
    found = context_coherence(value[:, None], ROWS, TRAIN, TEST, n_contexts=50)
    assert found["n_contexts"].iloc[0] == 20  # as many as there are test documents
    one = ((ROWS.documents == 41) * 1.0)[:, None]
    alone = context_coherence(one, ROWS, TRAIN, TEST)
    assert alone["n_contexts"].iloc[0] == 1 and np.isnan(alone["coherence"].iloc[0])


def test_the_current_token_does_not_make_a_context_coherent():
    found = context_coherence(LATENTS[:, :1], ROWS, TRAIN, TEST, n_random=30)
    assert abs(found["coherence_z"].iloc[0]) < 3


def test_the_nearest_direction_is_found_in_any_chunk():
    directions = torch.randn(40, 6, generator=torch.Generator().manual_seed(5))
    directions[3] = 2 * directions[30]
    directions[7] = 0
    neighbour, cosine = nearest_directions(directions)
    unit = torch.nn.functional.normalize(directions, dim=1)
    similar = (unit @ unit.T).fill_diagonal_(-math.inf)
    torch.testing.assert_close(cosine, similar.max(1).values)
    assert neighbour[3] == 30 and cosine[3] == pytest.approx(1) and cosine[7] == 0
    again = nearest_directions(directions, chunk=7)
    assert torch.equal(neighbour, again[0])
    torch.testing.assert_close(cosine, again[1])


class OneHot:
    """A latent per token, from activations that are the tokens' one-hot codes."""

    def __init__(self, n: int):
        self.W_dec = torch.eye(n)

    def encode(self, x):
        return (x - 0.5).relu()

    def decode(self, latents):
        return latents


def embedded(seed: int = 6):
    rng = np.random.default_rng(seed)
    rows = TokenRows.of(rng.integers(0, 16, 3000), np.repeat(np.arange(30), 100))
    x = torch.eye(16)[torch.from_numpy(rows.tokens)]
    noise = torch.randn(3000, 16, generator=torch.Generator().manual_seed(seed))
    return rows, x, noise


def test_a_table_sets_saes_beside_a_random_dictionary_and_a_random_model():
    rows, x, noise = embedded()
    train, test = rows.documents < 20, rows.documents >= 20
    random = RandomDictionary(16, 16, k=1, seed=3)
    random.fit(noise, noise.mean(0))
    summary, latents = interpretability_table(
        {"SAE": OneHot(16), "noise": (random, noise)}, x, rows, train, test
    )
    assert summary.index.tolist() == ["SAE", "noise", RANDOM]
    assert summary.loc["SAE", "token_auc"] == 1 and summary.loc["SAE", "trivial"] == 1
    assert abs(summary.loc["noise", "token_auc"] - 0.5) < 0.06
    assert summary.loc["noise", "trivial"] == 0
    # Even random directions tell tokens from tokens here: why the control is in the table.
    assert summary.loc[RANDOM, "token_auc"] > 0.95
    assert len(latents.loc["SAE"]) == 16 and summary.loc["SAE", "scored"] == 16
    dense = latents_of(random, noise).toarray()
    np.testing.assert_allclose(dense, random.encode(noise).numpy())


def test_a_table_refuses_what_would_be_misread():
    rows, x, noise = embedded()
    train, test = rows.documents < 20, rows.documents >= 20
    with pytest.raises(ConfigError, match="named"):
        interpretability_table({RANDOM: OneHot(16)}, x, rows, train, test)
    with pytest.raises(ConfigError, match="no SAE"):
        interpretability_table({}, x, rows, train, test)
    with pytest.raises(DataError, match="activations"):
        interpretability_table({"SAE": (OneHot(16), noise[:9])}, x, rows, train, test,
                               random_seeds=())  # fmt: skip
    with pytest.raises(DataError, match="directions"):
        latent_interpretability(LATENTS, ROWS, TRAIN, TEST, directions=torch.eye(3))
