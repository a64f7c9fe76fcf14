"""Known dictionaries and counts: frequencies, noise, nesting and rates, each against its value."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from saebook.data.simulate import KnownExamples, simulate_counts, simulate_dictionary
from saebook.data.simulate.examples import BLOCK_ROWS, FeatureLaw, feature_law
from saebook.errors import ConfigError


def linear_fvu(x: np.ndarray, inputs: np.ndarray) -> float:
    inputs = np.column_stack([np.ones(len(inputs)), inputs]).astype(float)
    left = x - inputs @ np.linalg.lstsq(inputs, x, rcond=None)[0]
    return float((left**2).sum() / ((x - x.mean(axis=0)) ** 2).sum())


# --- features ---------------------------------------------------------------------------------


def test_features_fire_by_zipfs_law_with_the_l0_that_was_asked_for():
    law = feature_law(200, 10.0, 1.0)
    assert law.density.sum() == pytest.approx(10.0)
    assert law.density[0] == pytest.approx(0.5)  # capped, the others take over
    free = law.density[law.density < 0.5]
    rank = np.arange(201 - len(free), 201)
    np.testing.assert_allclose(free * rank, (free * rank)[0])
    active = law.draw(40_000, np.random.default_rng(0)) > 0
    spread = np.sqrt(law.density * (1 - law.density) / 40_000)
    assert np.abs((active.mean(axis=0) - law.density) / spread).max() < 4.5
    assert abs(active.sum(axis=1).mean() - 10.0) < 0.06


def test_features_are_independent_of_each_other_and_between_examples():
    active = feature_law(6, 2.0, 0.0).draw(60_000, np.random.default_rng(0)) > 0
    correlation = np.corrcoef(active.T) - np.eye(6)
    assert np.abs(correlation).max() < 0.02
    assert abs(np.corrcoef(active[:-1, 0], active[1:, 0])[0, 1]) < 0.02


def test_strengths_are_one_half_plus_an_exponential():
    features = feature_law(20, 5.0, 0.5).draw(40_000, np.random.default_rng(0))
    beyond = features[features > 0].astype(float) - 0.5
    assert features.dtype == np.float32
    assert beyond.min() >= 0
    assert abs(beyond.mean() - 0.5) < 0.01
    assert abs(np.median(beyond) - 0.5 * np.log(2)) < 0.01


def test_nested_features_are_families_of_seven():
    law = feature_law(70, 6.0, 0.5, nested=True)
    assert (law.parent < 0).sum() == 10
    children = np.bincount(law.parent[law.parent >= 0], minlength=70)
    assert set(children[:30]) == {2}
    assert set(children[30:]) == {0}
    assert law.density.sum() == pytest.approx(6.0)
    active = law.draw(60_000, np.random.default_rng(0)) > 0
    child = law.parent >= 0
    assert not (active[:, child] & ~active[:, law.parent[child]]).any()
    share = active[:, child].sum(axis=0) / active[:, law.parent[child]].sum(axis=0)
    np.testing.assert_allclose(share, 0.4, atol=0.05)
    np.testing.assert_allclose(active.sum(axis=1).mean(), 6.0, atol=0.1)


def test_a_parent_always_comes_before_its_children():
    for n_features in (1, 2, 6, 8, 100):
        law = feature_law(n_features, 0.1, 0.5, nested=True)
        assert (law.parent < np.arange(n_features)).all()


def test_density_multiplies_along_the_family():
    law = FeatureLaw(np.array([0.5, 0.4, 0.4]), np.array([-1, 0, 1]))
    np.testing.assert_allclose(law.density, [0.5, 0.2, 0.08])


# --- dictionaries -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "nested"])
def test_x_is_the_features_times_unit_directions_plus_the_noise_asked_for(kind):
    known = simulate_dictionary(20_000, 32, 70, mean_l0=5, noise=0.2, kind=kind)
    np.testing.assert_allclose(np.linalg.norm(known.directions, axis=1), 1.0)
    signal = known.features @ known.directions
    left = known.x - signal
    assert known.x.dtype == known.features.dtype == np.float32
    assert left.std() / signal.std(axis=0).mean() == pytest.approx(0.2, rel=0.03)
    assert abs(np.corrcoef(left[:, 0], signal[:, 0])[0, 1]) < 0.03
    assert (known.parent >= 0).any() == (kind == "nested")


def test_a_linear_map_of_nonlinearly_embedded_features_misses_a_third():
    settings: dict[str, Any] = {"mean_l0": 4, "noise": 0.0}
    known = simulate_dictionary(20_000, 32, 64, kind="nonlinear", **settings)
    assert 0.2 < linear_fvu(known.x, known.features) < 0.45
    straight = simulate_dictionary(20_000, 32, 64, **settings)
    assert linear_fvu(straight.x, straight.features) < 1e-9


def test_directions_of_embedded_features_are_what_a_small_change_adds_on_average():
    known = simulate_dictionary(40_000, 24, 40, mean_l0=4, noise=0.0, kind="nonlinear")
    # Without gates the best linear map is the average slope; with them it comes close.
    inputs = np.column_stack([np.ones(len(known)), known.features]).astype(float)
    best = np.linalg.lstsq(inputs, known.x, rcond=None)[0][1:]
    best /= np.linalg.norm(best, axis=1, keepdims=True)
    assert np.median((best * known.directions).sum(axis=1)) > 0.9


@pytest.mark.parametrize("kind", ["linear", "nonlinear", "nested"])
def test_the_first_examples_depend_on_the_seed_alone(kind):
    def draw(n: int, seed: int = 0) -> KnownExamples:
        return simulate_dictionary(n, 8, 20, mean_l0=2, kind=kind, seed=seed)

    few, many = draw(100), draw(BLOCK_ROWS + 5)
    np.testing.assert_array_equal(few.x, many.x[:100])
    np.testing.assert_array_equal(few.features, many.features[:100])
    np.testing.assert_array_equal(few.weights, many.weights)
    assert not np.array_equal(many.x[:5], many.x[BLOCK_ROWS:])
    assert not np.array_equal(few.x, draw(100, seed=1).x)


# --- counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["linear", "softplus"])
def test_counts_are_poisson_with_the_rates_that_the_features_give(link):
    known = simulate_counts(40_000, 50, 40, mean_rate_hz=6.0, bin_size_s=0.05, link=link)
    assert known.rates is not None
    drive = known.offset + known.features.astype(float) @ known.weights
    expected = drive if link == "linear" else np.logaddexp(0.0, drive)
    np.testing.assert_allclose(known.rates, expected, rtol=1e-3, atol=1e-3)
    assert known.rates.min() >= 0
    mean = known.rates * 0.05
    assert known.rates.mean() == pytest.approx(6.0, rel=0.03)
    assert (known.x == np.round(known.x)).all()
    # A Poisson count has the variance of its mean, and no more.
    assert ((known.x - mean) ** 2).mean() == pytest.approx(mean.mean(), rel=0.03)
    z = (known.x - mean).mean(axis=0) / np.sqrt(mean.mean(axis=0) / len(known))
    assert np.abs(z).max() < 4.5


def test_each_unit_has_its_rate_and_a_feature_to_follow():
    known = simulate_counts(40_000, 200, 30, mean_rate_hz=4.0, driven=0.1, link="linear")
    assert known.rates is not None
    per_unit = known.rates.mean(axis=0)
    assert 0.7 < np.log(per_unit).std() < 1.1
    driven = known.weights != 0
    assert driven.any(axis=0).all()
    assert driven.sum(axis=1).min() == 20
    gain = known.weights / known.offset
    assert gain[driven].min() >= 5.0
    assert gain.max() <= 15.0


def test_softplus_units_are_suppressed_too():
    known = simulate_counts(100, 100, 64)
    driven = known.weights != 0
    assert 0.1 < (known.weights[driven] < 0).mean() < 0.2


def test_first_counts_depend_on_the_seed_alone():
    few, many = (simulate_counts(n, 20, 10, mean_l0=2) for n in (50, BLOCK_ROWS + 1))
    np.testing.assert_array_equal(few.x, many.x[:50])
    assert few.rates is not None
    assert many.rates is not None
    np.testing.assert_array_equal(few.rates, many.rates[:50])


# --- door -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_examples": 0},
        {"d_in": 2.5},
        {"n_features": True},
        {"mean_l0": 11},
        {"mean_l0": float("nan")},
        {"noise": -0.1},
        {"zipf": "steep"},
        {"kind": "curved"},
        {"seed": -1},
    ],
)
def test_settings_of_dictionaries_out_of_range_are_refused(wrong):
    settings: dict[str, Any] = {"n_examples": 10, "d_in": 4, "n_features": 20, "mean_l0": 2}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        simulate_dictionary(**{**settings, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"n_units": 0}, {"mean_rate_hz": 0}, {"bin_size_s": -1}, {"driven": 1.5}, {"link": "exp"}],
)
def test_settings_of_counts_out_of_range_are_refused(wrong):
    settings: dict[str, Any] = {"n_examples": 10, "n_units": 20, "n_features": 20}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        simulate_counts(**{**settings, **wrong})


def test_drawing_examples_needs_numpy_only():
    code = (
        "import sys, saebook.data as d; d.simulate_counts(10, 20, 10, mean_l0=2);"
        "d.simulate_dictionary(10, 4, 8, mean_l0=1, kind='nonlinear');"
        "assert not {'torch', 'pynwb', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_million_examples_of_128_fit_in_4_gb():
    import resource

    known = simulate_dictionary(1_000_000, 128, 512, mean_l0=12)
    assert len(known) == 1_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4e6
