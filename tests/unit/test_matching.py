"""Matching of learned to true directions."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from saebook.errors import DataError
from saebook.metrics import cosine_similarity_matrix, match_one_to_one, match_scores, mmcs


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_is_scale_free_and_safe_at_zero():
    a, b = normal(4, 6), normal(5, 6, seed=1)
    expected = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    scales = torch.tensor([1e-30, 1.0, 1e30, 7.0])
    torch.testing.assert_close(cosine_similarity_matrix(a * scales[:, None], b), expected)
    zero = cosine_similarity_matrix(torch.zeros(1, 6), b)
    assert torch.equal(zero, torch.zeros(1, 5))
    assert cosine_similarity_matrix(a.double(), b).dtype == torch.float64
    with pytest.raises(DataError, match="widths 6 and 5"):
        cosine_similarity_matrix(a, normal(3, 5))
    with pytest.raises(DataError, match="not finite"):
        cosine_similarity_matrix(a * math.nan, b)


def test_match_beats_every_other_assignment():
    similarity = normal(5, 4)
    rows, columns = match_one_to_one(similarity)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == 4
    best = max(
        sum(float(similarity[row, column]) for column, row in enumerate(order))
        for order in permutations(range(5), 4)
    )
    assert float(similarity[rows, columns].sum()) == pytest.approx(best, rel=1e-5)


def test_a_shuffled_scaled_copy_is_fully_recovered():
    true = normal(10, 16)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    scores = match_scores(3.0 * true[order], true)
    assert (scores.recall, scores.precision) == (1.0, 1.0)
    assert torch.equal(order[scores.latent_of_feature], torch.arange(10))
    assert scores.mmcs_true == pytest.approx(1.0)
    assert scores.mmcs_learned == pytest.approx(1.0)


def test_copies_of_one_feature_count_once():
    true = torch.eye(4)
    scores = match_scores(true[:1].repeat(8, 1), true)
    assert scores.recall == 0.25
    assert scores.precision == 0.125
    # MMCS of the learned side is blind to it, which is why recall is one-to-one.
    assert (scores.mmcs_true, scores.mmcs_learned) == (0.25, 1.0)


def test_opposite_directions_do_not_match():
    assert match_scores(-torch.eye(3), torch.eye(3)).recall == 0.0


def test_dead_and_zero_latents_are_no_discoveries():
    true = torch.eye(3)
    learned = torch.cat([true, torch.zeros(2, 3)])
    assert match_scores(learned, true).precision == 1.0
    alive = torch.tensor([True, False, True, True, True])
    scores = match_scores(learned, true, alive=alive)
    assert (scores.n_alive, scores.n_matched) == (2, 2)
    assert scores.recall == pytest.approx(2 / 3)
    assert scores.latent_of_feature.tolist() == [0, -1, 2]
    assert math.isnan(float(scores.cosine_of_feature[1]))


def test_a_true_feature_without_direction_is_set_aside():
    true = torch.cat([torch.eye(3), torch.zeros(1, 3)])
    scores = match_scores(torch.eye(3), true)
    assert (scores.recall, scores.n_features, scores.n_degenerate) == (1.0, 3, 1)


def test_nothing_alive_is_zero_recall_and_undefined_precision():
    scores = match_scores(torch.zeros(4, 3), torch.eye(3))
    assert scores.recall == 0.0
    assert math.isnan(scores.precision)
    assert scores.mmcs_true == 0.0
    assert math.isnan(scores.mmcs_learned)
    assert mmcs(torch.zeros(4, 3), torch.eye(3))[0] == 0.0


def test_threshold_is_inclusive_and_checked():
    learned = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    scores = match_scores(learned.double(), torch.eye(2).double(), threshold=0.8)
    assert scores.n_matched == 2
    with pytest.raises(DataError, match="threshold is 0"):
        match_scores(learned, torch.eye(2), threshold=0.0)
    with pytest.raises(DataError, match="true directions"):
        match_scores(learned, torch.zeros(0, 2))
