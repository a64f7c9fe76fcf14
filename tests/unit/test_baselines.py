"""What every baseline holds to: trials, bad input, silent units, seeds, missing packages."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from saebook.baselines import (
    GPFA,
    ICA,
    LFADS,
    METHODS,
    NMF,
    PCA,
    CEBRABehavior,
    CEBRATime,
    FactorAnalysis,
    GaussianSmoothing,
    KMeans,
    LFADSConfig,
    RawUnits,
    SliceTCA,
    TrueRates,
)
from saebook.baselines.method import split_trials
from saebook.errors import ConfigError, DataError, EnvironmentProblem

N_TRIALS, N_BINS, N_UNITS = 6, 24, 10
TRIALS = np.repeat(np.arange(N_TRIALS), N_BINS)
FAST: dict[str, Any] = {
    "max_iterations": 3,
    "batch_size": 16,
    "output_dimension": 3,
    "device": "cpu",
}
MADE = {
    "raw units": lambda: RawUnits(),
    "smoothing": lambda: GaussianSmoothing(sigma_s=0.1),
    "PCA": lambda: PCA(n_components=3),
    "FA": lambda: FactorAnalysis(n_components=3),
    "ICA": lambda: ICA(n_components=3, max_iter=1000, tol=1e-3),
    "NMF": lambda: NMF(n_components=3, max_iter=5000, tol=1e-8),
    "k-means": lambda: KMeans(n_clusters=4),
    "GPFA": lambda: GPFA(x_dim=2, em_max_iters=5),
    "LFADS": lambda: LFADS(
        n_components=3, config=LFADSConfig.tiny(max_epochs=1, n_samples=2), device="cpu"
    ),
    "CEBRA-Time": lambda: CEBRATime(**FAST),
    "CEBRA-Behaviour": lambda: CEBRABehavior(**FAST),
    "sliceTCA": lambda: SliceTCA(number_components=(1, 2, 1), max_iter=30, device="cpu"),
    "true rates": lambda: TrueRates(rates=rates(), trials=TRIALS),
}


def rates() -> np.ndarray:
    """Expected spikes per bin [n, n_units] of two slow factors; the last unit never spikes."""
    rng = np.random.default_rng(0)
    time = np.arange(N_TRIALS * N_BINS) / 6
    factors = np.stack([1 + np.sin(time), 1 + np.cos(0.7 * time)], axis=1)
    loadings = rng.exponential(0.7, (2, N_UNITS))
    loadings[:, -1] = 0
    return factors @ loadings


def counts() -> np.ndarray:
    return np.random.default_rng(1).poisson(rates())


BEHAVIOR = np.sin(np.arange(len(TRIALS)) / 6)


@pytest.fixture(scope="module")
def fitted():
    return {name: make().fit(counts(), TRIALS, y=BEHAVIOR) for name, make in MADE.items()}


def test_registry_names_every_method():
    assert set(METHODS) == set(MADE)
    for name, method in METHODS.items():
        settings = inspect.signature(method).parameters
        assert ("random_state" in settings) or not method.stochastic or name == "CEBRA-Behaviour"
        assert method.dimension is None or method.dimension in {
            **settings,
            **inspect.signature(method.__mro__[1]).parameters,
        }


@pytest.mark.parametrize("name", MADE)
def test_latents_and_reconstruction_have_one_row_per_bin(fitted, name):
    method = fitted[name]
    latents = method.transform(counts(), TRIALS)
    assert latents.dtype == np.float32 and len(latents) == len(TRIALS)
    assert np.isfinite(latents).all()
    if method.components is not None:
        assert method.components.shape == (latents.shape[1], N_UNITS)
    if not method.reconstructs:
        with pytest.raises(ConfigError, match="has no decoder"):
            method.reconstruct(counts(), TRIALS)
        return
    expected = method.reconstruct(counts(), TRIALS)
    assert expected.dtype == np.float32 and expected.shape == counts().shape
    assert np.isfinite(expected).all() and (expected >= 0).all()


@pytest.mark.parametrize("name", MADE)
def test_a_trial_is_described_by_itself(fitted, name):
    """Latents must not depend on which other trials are asked for, or in which order."""
    method = fitted[name]
    whole = method.transform(counts(), TRIALS)
    rows = np.r_[3 * N_BINS : 4 * N_BINS, N_BINS : 2 * N_BINS]
    np.testing.assert_allclose(
        method.transform(counts()[rows], TRIALS[rows]), whole[rows], atol=2e-5
    )


@pytest.mark.parametrize("name", MADE)
def test_number_types_give_the_same_latents(name):
    results = [
        MADE[name]().fit(x, TRIALS, y=BEHAVIOR).transform(x, TRIALS)
        for x in (counts().astype(np.uint8), counts().astype(np.float32))
    ]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ["PCA", "FA", "ICA", "NMF", "k-means", "GPFA"])
def test_a_unit_that_was_silent_in_training_is_expected_to_stay_so(fitted, name):
    x = counts().copy()
    x[:, -1] = 1
    expected = fitted[name].reconstruct(x, TRIALS)
    assert np.isfinite(expected).all()
    assert expected[:, -1].max() < 1e-6


@pytest.mark.parametrize("name", [name for name in MADE if name not in ("true rates", "sliceTCA")])
def test_one_trial_is_enough(name):
    method = MADE[name]().fit(counts(), y=BEHAVIOR)
    assert len(method.transform(counts())) == len(TRIALS)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.astype(float) * np.nan, "nan in row 0, unit 0"),
        (lambda x: np.where(np.eye(*x.shape, k=-2), -4, x), "-4.0 in row 2, unit 0: counts are"),
        (lambda x: x[:, 0], "give counts"),
        (lambda x: x[:0], "at least one of each"),
        (lambda x: x.astype(str), "give counts"),
    ],
)
def test_bad_counts_are_refused(name, spoil, message):
    with pytest.raises(DataError, match=message):
        MADE[name]().fit(spoil(counts()), TRIALS, y=BEHAVIOR)


@pytest.mark.parametrize("name", MADE)
def test_a_trial_in_two_pieces_is_refused(name):
    trials = TRIALS.copy()
    trials[-3:] = 0
    with pytest.raises(DataError, match="trial 0 begins again in row 141"):
        MADE[name]().fit(counts(), trials, y=BEHAVIOR)


@pytest.mark.parametrize("trials", [TRIALS[:-1], TRIALS.astype(float), TRIALS[:, None]])
def test_trials_are_one_integer_per_row(trials):
    with pytest.raises(DataError, match="one integer per row"):
        PCA(n_components=1).fit(counts(), trials)


@pytest.mark.parametrize("name", MADE)
def test_methods_say_that_they_were_not_fitted_or_on_other_units(fitted, name):
    with pytest.raises(DataError, match="not fitted"):
        MADE[name]().transform(counts(), TRIALS)
    with pytest.raises(DataError, match=r"x has 9 units; .* was fitted on 10"):
        fitted[name].transform(counts()[:, 1:], TRIALS)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (PCA(n_components=11), "n_components=11, but there are 10 units"),
        (FactorAnalysis(n_components=11), "n_components=11, but there are 10 units"),
        (ICA(n_components=10), "n_components=10, but the 10 units vary in 9 dimensions"),
        (NMF(n_components=11), "n_components=11, but there are 10 units"),
        (KMeans(n_clusters=145), "n_clusters=145, but there are 144 bins"),
        (GPFA(x_dim=10), "x_dim=10, but only 9 of 10 units spike"),
        (GPFA(x_dim=11), "x_dim=11, but there are 10 units"),
        (CEBRATime(output_dimension=11), "output_dimension=11, but there are 10 units"),
        (CEBRABehavior(output_dimension=11), "output_dimension=11, but there are 10 units"),
        (SliceTCA(number_components=(7, 0, 0)), "there are 6 trials"),
        (SliceTCA(number_components=(0, 11, 0)), "there are 10 units"),
        (SliceTCA(number_components=(0, 0, 25)), "there are 24 bins"),
        (PCA(n_components=0), "n_components=0: ask for at least 1"),
    ],
)
def test_more_dimensions_than_the_data_have(method, message):
    with pytest.raises(DataError, match=message):
        method.fit(counts(), TRIALS, y=BEHAVIOR)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PCA(input_transform="log"),  # pyright: ignore[reportArgumentType]
        lambda: NMF(beta_loss="itakura-saito"),  # pyright: ignore[reportArgumentType]
        lambda: KMeans(latents="soft"),  # pyright: ignore[reportArgumentType]
        lambda: GPFA(bin_size_s=0.0),
        lambda: GaussianSmoothing(sigma_s=float("nan")),
        lambda: CEBRATime(max_iterations=0),
        lambda: CEBRABehavior(conditional="delta_normal"),
        lambda: CEBRABehavior(conditional="near"),  # pyright: ignore[reportArgumentType]
        lambda: SliceTCA(number_components=(0, 0, 0)),
        lambda: SliceTCA(number_components=8),  # pyright: ignore[reportArgumentType]
        lambda: CEBRATime(model_architecture="offset11-model", output_dimension=3).fit(counts()),
    ],
)
def test_settings_that_make_no_sense(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("name", [name for name in MADE if METHODS[name].stochastic])
def test_a_seed_repeats_a_fit_and_leaves_other_generators_alone(name):
    import torch

    def draws(seed, between=lambda: None):
        """What the global generators give after something was done between."""
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        between()
        return torch.rand(1).item(), np.random.rand()  # noqa: NPY002

    latents = []

    def fit():
        method = MADE[name]().fit(counts(), TRIALS, y=BEHAVIOR)
        latents.append(method.transform(counts(), TRIALS))

    assert [draws(seed, fit) for seed in (5, 6)] == [draws(5), draws(6)]
    np.testing.assert_array_equal(latents[0], latents[1])


def test_unconverged_fits_say_so_without_noise():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (
            NMF(n_components=3, max_iter=2),
            ICA(n_components=3, max_iter=1, tol=1e-12),
            FactorAnalysis(n_components=3, max_iter=1, tol=1e-12),
            GPFA(x_dim=1, em_max_iters=2),
            SliceTCA(number_components=(0, 1, 0), max_iter=5, device="cpu"),
        ):
            assert len(method.fit(counts(), TRIALS).fit_messages) >= 1, method.name
    method = NMF(n_components=3, max_iter=2).fit(counts())
    method.max_iter = 5000
    assert method.fit(counts()).fit_messages == ()


def test_fewer_distinct_bins_than_clusters_is_said():
    x = np.repeat([[0, 1], [2, 3]], 5, axis=0)
    clusters = KMeans(n_clusters=3).fit(x)
    assert "distinct clusters" in clusters.fit_messages[0]
    np.testing.assert_allclose(clusters.reconstruct(x), x)


@pytest.mark.parametrize(("make", "package"), [(CEBRATime, "cebra"), (SliceTCA, "slicetca")])
def test_a_missing_package_names_the_extra(monkeypatch, make, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        EnvironmentProblem, match=rf"package {package}\. .*pip install 'saebook\[baselines\]'"
    ):
        make().fit(counts(), TRIALS)


def test_importing_the_room_waits_for_no_package():
    done = subprocess.run(
        [sys.executable, "-c", "import saebook.baselines, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not {"sklearn", "scipy", "torch", "cebra", "elephant", "neo", "slicetca"} & loaded


def test_smoothing_keeps_constants_and_does_not_cross_trials():
    smoothing = GaussianSmoothing(sigma_s=0.1, bin_size_s=0.05).fit(counts())
    steps = (TRIALS[:, None] + 1) * np.ones((1, N_UNITS))
    np.testing.assert_allclose(smoothing.transform(steps, TRIALS), steps, rtol=1e-6)
    impulse = np.zeros((41, 1))
    impulse[20] = 1
    smoothing = GaussianSmoothing(sigma_s=0.1, bin_size_s=0.05).fit(impulse)
    weights = np.exp(-0.5 * (np.arange(-8, 9) / 2) ** 2)
    np.testing.assert_allclose(
        smoothing.reconstruct(impulse)[12:29, 0], weights / weights.sum(), rtol=1e-5
    )


def test_roots_come_back_as_counts_with_the_right_means():
    x = counts()
    for method in (
        PCA(n_components=2, input_transform="sqrt"),
        ICA(n_components=2, input_transform="sqrt"),
        GPFA(x_dim=2, em_max_iters=5),
    ):
        expected = method.fit(x, TRIALS).reconstruct(x, TRIALS)
        np.testing.assert_allclose(expected.mean(axis=0), x.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_two_factors_are_denoised_best_by_the_method_that_knows_they_are_slow():
    x, truth = counts(), rates()
    error = {
        method.name: np.square(method.fit(x, TRIALS).reconstruct(x, TRIALS) - truth).mean()
        for method in (RawUnits(), PCA(n_components=2), GPFA(x_dim=2, em_max_iters=40))
    }
    assert error["GPFA"] < 0.5 * error["PCA"] < 0.25 * error["raw units"]


def test_true_rates_are_found_by_trial():
    truth = TrueRates(rates=rates(), trials=TRIALS).fit(counts()[:24])
    np.testing.assert_allclose(
        truth.reconstruct(counts()[48:72], TRIALS[48:72]), rates()[48:72], rtol=1e-6
    )
    with pytest.raises(DataError, match="no rates of trial 9"):
        truth.transform(counts()[:24], np.full(24, 9))
    with pytest.raises(DataError, match="trial 2 has 23 bins, but rates of 24"):
        truth.transform(counts()[48:71], TRIALS[48:71])
    spiking = counts()[:24].copy()
    spiking[5, -1] = 1
    with pytest.raises(DataError, match="unit 9 spikes in row 5, where its rate is 0"):
        truth.transform(spiking, TRIALS[:24])
    held_in = TrueRates(rates=rates(), trials=TRIALS).fit(counts()[:, :4])
    assert held_in.transform(counts()[:24, :4], TRIALS[:24]).shape == (24, N_UNITS)
    with pytest.raises(DataError, match="10 rates for 4 units"):
        held_in.reconstruct(counts()[:24, :4], TRIALS[:24])
    with pytest.raises(DataError, match="give expected spikes per bin"):
        TrueRates(rates=-rates())


def test_trials_keep_their_order_and_all_rows():
    found = split_trials(np.array([5, 5, -1, 3, 3, 3]), 6)
    assert list(found) == [5, -1, 3]
    assert [(rows.start, rows.stop) for rows in found.values()] == [(0, 2), (2, 3), (3, 6)]
