"""Piecewise-linear fits recover planted knots and refuse pieces that repetitions don't share."""

from __future__ import annotations

import numpy as np
import pytest

from saebook.errors import DataError
from saebook.metrics import choose_segments, fit_segments

X = np.linspace(0.0, 17.0, 103)  # with 16 knots, the grid is the whole numbers


def planted(knots: tuple[float, ...], slopes: tuple[float, ...]) -> np.ndarray:
    line = slopes[0] * X
    for knot, before, after in zip(knots, slopes[:-1], slopes[1:], strict=True):
        line = line + (after - before) * np.maximum(X - knot, 0.0)
    return line


@pytest.mark.parametrize("knots", [(4.0,), (4.0, 9.0), (3.0, 8.0, 13.0)])
def test_planted_knots_are_found_exactly(knots):
    line = planted(knots, (0.0, -1.0, -0.2, 1.0)[: len(knots) + 1])
    fit = fit_segments(X, line, len(knots) + 1)
    np.testing.assert_allclose(fit.knots, knots)
    np.testing.assert_allclose(fit.fitted, line, atol=1e-9)


def test_one_segment_is_the_least_squares_line():
    y = np.random.default_rng(1).normal(size=len(X))
    slope, offset = np.polyfit(X, y, 1)
    np.testing.assert_allclose(fit_segments(X, y, 1).fitted, slope * X + offset, atol=1e-9)


@pytest.mark.parametrize("n_segments", [1, 2, 3])
def test_left_out_curves_bear_the_planted_number(n_segments):
    knots, slopes = (4.0, 9.0)[: n_segments - 1], (0.0, -1.0, -0.2)[-n_segments:]
    noise = np.random.default_rng(2).normal(0, 0.1, (5, len(X)))
    choice = choose_segments(X, planted(knots, slopes) + noise)
    assert choice.n_segments == n_segments
    assert not choice.at_edge


def test_autocorrelated_noise_of_each_seed_pays_for_no_piece():
    walks = np.random.default_rng(3).normal(0, 0.02, (6, len(X))).cumsum(axis=1)
    assert choose_segments(X, X + walks).n_segments <= 2


def test_a_smooth_curve_has_no_special_number():
    noise = np.random.default_rng(4).normal(0, 1e-4, (4, len(X)))
    assert choose_segments(X, (X / 17) ** 3 + noise).at_edge


def test_a_constant_curve_takes_one_segment():
    choice = choose_segments(X, np.full((3, len(X)), 4.0))
    assert choice.n_segments == 1
    assert np.isnan(choice.unexplained).all()


@pytest.mark.parametrize(
    ("x", "curves"),
    [
        (X, np.zeros((1, len(X)))),
        (X[::-1], np.zeros((2, len(X)))),
        (X[:5], np.zeros((2, 5))),
        (X, np.full((2, len(X)), np.nan)),
        (X[:50], np.zeros((2, len(X)))),
    ],
)
def test_unusable_curves_are_refused(x, curves):
    with pytest.raises(DataError):
        choose_segments(x, curves)
