"""Baselines against their packages, called by hand: the same numbers."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from saebook.baselines import (
    GPFA,
    ICA,
    NMF,
    PCA,
    CEBRABehavior,
    CEBRATime,
    FactorAnalysis,
    KMeans,
    SliceTCA,
)
from saebook.baselines.cebra_trials import keep_within_trials
from saebook.baselines.method import import_package, split_trials
from saebook.baselines.spike_trains import spike_trains
from saebook.errors import DataError

RNG = np.random.default_rng(0)
LENGTHS = [25, 31, 22, 46, 24, 23]
TRIALS = np.repeat(np.arange(6), LENGTHS)
TIME = np.arange(len(TRIALS)) / 6
X = RNG.poisson(
    np.stack([1 + np.sin(TIME), 1 + np.cos(0.7 * TIME)], axis=1) @ RNG.exponential(1, (2, 8))
)
TRAIN, TEST = TRIALS < 4, TRIALS >= 4
SEED = 3


@pytest.mark.parametrize("scaled", [np.float64, np.sqrt])
@pytest.mark.parametrize("name", ["PCA", "FA", "ICA"])
def test_dense_methods_of_scikit_learn(name, scaled):
    from sklearn import decomposition

    transform = "sqrt" if scaled is np.sqrt else "none"
    settings: dict[str, Any] = {"n_components": 3, "random_state": SEED}
    method, package = {
        "PCA": (PCA, decomposition.PCA(**settings, svd_solver="full")),
        "FA": (FactorAnalysis, decomposition.FactorAnalysis(**settings)),
        "ICA": (ICA, decomposition.FastICA(**settings, whiten="unit-variance", max_iter=200)),
    }[name]
    method = method(**settings, input_transform=transform).fit(X[TRAIN])
    package.fit(scaled(X[TRAIN]))
    latents = package.transform(scaled(X[TEST]))
    if name == "PCA":  # another solver: signs are free
        latents = latents * np.sign((latents * method.transform(X[TEST])).sum(axis=0))
    assert_allclose(method.transform(X[TEST]), latents, rtol=1e-5, atol=1e-6)
    if name != "FA" and transform == "none":
        expected = package.inverse_transform(package.transform(X[TEST].astype(float)))
        assert_allclose(method.reconstruct(X[TEST]), np.maximum(expected, 0), atol=1e-5)


def test_factor_analysis_reconstructs_the_posterior_mean():
    method = FactorAnalysis(n_components=2, svd_method="lapack", tol=1e-8).fit(X[TRAIN])
    package = method.estimator
    loadings, noise = package.components_, package.noise_variance_
    covariance = loadings.T @ loadings + np.diag(noise)
    gain = loadings.T @ loadings @ np.linalg.inv(covariance)
    expected = package.mean_ + (X[TEST] - package.mean_) @ gain.T
    assert_allclose(method.reconstruct(X[TEST]), np.maximum(expected, 0), atol=1e-5)


@pytest.mark.parametrize("loss", ["frobenius", "kullback-leibler"])
def test_nmf(loss):
    from sklearn.decomposition import NMF as Package

    settings: dict[str, Any] = {
        "n_components": 3,
        "random_state": SEED,
        "max_iter": 1000,
        "init": "random",
    }
    package = Package(**settings, beta_loss=loss, solver="mu" if loss != "frobenius" else "cd")
    package.fit(X[TRAIN].astype(float))
    latents = package.transform(X[TEST].astype(float))
    method = NMF(**settings, beta_loss=loss).fit(X[TRAIN])
    assert_array_equal(method.transform(X[TEST]), latents.astype(np.float32))
    assert_allclose(method.reconstruct(X[TEST]), package.inverse_transform(latents), atol=1e-5)


def test_k_means():
    from sklearn.cluster import KMeans as Package

    package = Package(4, random_state=SEED).fit(X[TRAIN].astype(float))
    settings: dict[str, Any] = {"n_clusters": 4, "random_state": SEED}
    members = KMeans(**settings).fit(X[TRAIN])
    labels = package.predict(X[TEST].astype(float))
    assert_array_equal(members.transform(X[TEST]).argmax(axis=1), labels)
    assert_allclose(
        members.reconstruct(X[TEST]), package.cluster_centers_[labels], rtol=1e-6, atol=1e-12
    )
    distances = KMeans(**settings, latents="distance").fit(X[TRAIN]).transform(X[TEST])
    assert_allclose(distances, package.transform(X[TEST].astype(float)), rtol=1e-6)


@pytest.fixture
def quiet_quantities():
    import_package("elephant.gpfa")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'copy' argument in Quantity")
        yield


@pytest.mark.parametrize("bin_size_s", [0.05, 0.01, 0.1 / 3, 1 / 60, 0.0014])
def test_gpfa_gets_back_the_counts_it_was_given(quiet_quantities, bin_size_s):
    import quantities as pq
    from elephant.conversion import BinnedSpikeTrain

    trials = split_trials(np.repeat([2, 9, 4], [1, 37, 1000]), 1038)
    counts = np.random.default_rng(1).poisson(0.8, (1038, 3)).astype(float)
    for rows, trains in zip(trials.values(), spike_trains(counts, trials, bin_size_s)):
        binned = BinnedSpikeTrain(trains, bin_size=bin_size_s * 1000 * pq.ms).to_array()
        assert_array_equal(binned.T, counts[rows])


def test_gpfa(quiet_quantities):
    import neo
    import quantities as pq
    from elephant.gpfa import GPFA as Package

    def trains(which):
        """Spikes anywhere within their bins, in seconds."""
        made = []
        for trial in which:
            counts = X[trial == TRIALS]
            made.append([])
            for unit in counts.T:
                bins = np.repeat(np.arange(len(unit)), unit)
                times = np.sort((bins + RNG.uniform(0.01, 0.99, len(bins))) * 0.02)
                made[-1].append(neo.SpikeTrain(times * pq.s, t_stop=len(unit) * 0.02 * pq.s))
        return made

    package = Package(x_dim=2, bin_size=20 * pq.ms, em_max_iters=10)
    np.random.seed(SEED)  # noqa: NPY002
    with contextlib.redirect_stdout(io.StringIO()):
        package.fit(trains(range(4)))
    latents = np.hstack(list(package.transform(trains([4, 5])))).T
    method = GPFA(x_dim=2, bin_size_s=0.02, em_max_iters=10, random_state=SEED)
    method.fit(X[TRAIN], TRIALS[TRAIN])
    assert_allclose(method.transform(X[TEST], TRIALS[TEST]), latents, rtol=1e-5, atol=1e-6)
    roots = latents @ package.transform_info["Corth"].T + package.params_estimated["d"]
    excess = method.reconstruct(X[TEST], TRIALS[TEST]) - np.maximum(roots, 0) ** 2
    assert_allclose(excess, excess[:1].repeat(len(excess), axis=0), atol=1e-5)
    assert (excess > 0).all()


def test_gpfa_says_which_trials_it_could_not_learn_from():
    rows = (TRIALS < 3) | (np.arange(len(TRIALS)) % 2 == 0)
    method = GPFA(x_dim=1, em_max_iters=3).fit(X[rows], TRIALS[rows])
    assert "2 trials of under 20 bins were left out" in method.fit_messages
    alone = GPFA(x_dim=1, em_max_iters=3).fit(X[rows & (TRIALS < 4)], TRIALS[rows & (TRIALS < 4)])
    assert_array_equal(method.transform(X, TRIALS), alone.transform(X, TRIALS))
    short = GPFA(x_dim=1, em_max_iters=3).fit(X[::3], TRIALS[::3])
    assert "all trials are under 20 bins: they were used whole" in short.fit_messages
    assert short.transform(X[:1]).shape == (1, 1)


def test_gpfa_bears_a_unit_that_spikes_in_short_trials_only():
    """The package keeps such a unit, with a variance of 0 and an infinite likelihood."""
    x = np.where((TRIALS == 0)[:, None] | (np.arange(8) < 7), X, 0)[10:]
    method = GPFA(x_dim=1, em_max_iters=3).fit(x, TRIALS[10:])
    assert np.isfinite(method.reconstruct(x, TRIALS[10:])).all()
    assert np.isfinite(method.estimator.fit_info["log_likelihoods"][0])


def test_gpfa_refuses_what_it_cannot_do():
    with pytest.raises(DataError, match=r"x is \d.5 in row 0, unit 0: .* whole numbers"):
        GPFA(x_dim=1).fit(X + 0.5, TRIALS)
    with pytest.raises(DataError, match=r"trial 0 has 5001 bins: .* at most 5000 bins"):
        GPFA(x_dim=2).fit(np.tile(X[0], (5001, 1)))
    with pytest.raises(DataError, match="8 units that spike, over 171 bins, are not linearly"):
        GPFA(x_dim=2).fit(X[:, [0, 1, 2, 3, 4, 5, 6, 6]], TRIALS)


def test_gpfa_shows_its_likelihood(capsys):
    method = GPFA(x_dim=1, em_max_iters=4, progress=True).fit(X, TRIALS)
    printed = capsys.readouterr()
    assert printed.out == "" and "log_likelihood=" in printed.err and "4/4" in printed.err
    from elephant.gpfa import gpfa_core

    assert gpfa_core.exact_inference_with_ll.__module__ == "elephant.gpfa.gpfa_core"
    quiet = GPFA(x_dim=1, em_max_iters=4).fit(X, TRIALS)
    assert capsys.readouterr() == ("", "")
    assert_array_equal(method.transform(X, TRIALS), quiet.transform(X, TRIALS))


CEBRA: dict[str, Any] = {
    "output_dimension": 3,
    "max_iterations": 20,
    "batch_size": 32,
    "device": "cpu",
}
POSITION = np.stack([np.sin(TIME), np.cos(TIME)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("method", "y", "settings"),
    [
        (CEBRATime, None, {"conditional": "time"}),
        (CEBRABehavior, POSITION, {"conditional": "time_delta"}),
        (CEBRABehavior, POSITION, {"conditional": "delta_normal", "delta": 0.1}),
        (CEBRABehavior, (POSITION[:, 0] > 0).astype(int), {"conditional": "time_delta"}),
        (CEBRATime, None, {"conditional": "time", "model_architecture": "offset1-model"}),
    ],
    ids=["time", "time_delta", "delta_normal", "discrete", "one bin"],
)
def test_cebra(monkeypatch, method, y, settings):
    import torch

    package = import_package("cebra")
    from cebra.distributions.base import HasGenerator

    # The package seeds its generators at random; here in the order in which it makes them.
    seeds = (
        int(sequence.generate_state(1)[0]) for sequence in np.random.SeedSequence(SEED).spawn(4)
    )

    def seeded(self, device, seed):
        package.io.HasDevice.__init__(self, device=device)
        self._device, self._seed = device, next(seeds)

    monkeypatch.setattr(HasGenerator, "__init__", seeded)
    by_hand = package.CEBRA(
        **{"model_architecture": "offset10-model", "time_offsets": 10, **CEBRA, **settings}
    )
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    n = 120
    by_hand.fit(X[:n].astype(np.float32), *([] if y is None else [y[:n]]))
    monkeypatch.undo()

    own = {key: value for key, value in settings.items() if method is not CEBRATime}
    own |= {key: value for key, value in settings.items() if key == "model_architecture"}
    wrapped = method(**CEBRA, random_state=SEED, **own).fit(X[:n], y=None if y is None else y[:n])
    assert_array_equal(wrapped.estimator.state_dict_["loss"], by_hand.state_dict_["loss"])
    latents = wrapped.transform(X[TEST], TRIALS[TEST])
    for trial in (4, 5):
        direct = by_hand.transform(X[trial == TRIALS].astype(np.float32))
        assert_allclose(latents[TRIALS[TEST] == trial], direct, atol=1e-6)


def loader_of(y=None, **settings):
    """A loader of the package over all rows, before and after it knows of trials."""
    made = import_package("cebra").CEBRA(
        model_architecture="offset10-model",
        batch_size=512,
        max_iterations=1,
        time_offsets=4,
        device="cpu",
        **settings,
    )
    loader = made._prepare_fit(X.astype(np.float32), *([] if y is None else [y]))[2]
    return loader


def test_cebra_pairs_and_windows_stay_within_trials():
    import torch

    loader = loader_of(conditional="time")
    everything = torch.arange(len(X))
    package_windows = loader.dataset.expand_index(everything)
    assert len(np.unique(TRIALS[package_windows[25]])) == 2
    keep_within_trials(loader, split_trials(None, len(X)))
    assert torch.equal(loader.dataset.expand_index(everything), package_windows)

    loader = loader_of(conditional="time")
    keep_within_trials(loader, split_trials(TRIALS, len(X)))
    windows = loader.dataset.expand_index(everything).numpy()  # [n, 10]
    assert (TRIALS[windows] == TRIALS[:, None]).all()
    away = (TIME[windows] != TIME[:, None]).all(axis=1)
    assert not away[np.r_[5:20]].any()
    batch = loader.get_indices(5000)
    assert_array_equal(batch.positive - batch.reference, 4)
    assert_array_equal(TRIALS[batch.positive], TRIALS[batch.reference])
    assert len(batch.reference.unique()) == len(X) - 6 * 4


def test_cebra_changes_of_behaviour_stay_within_trials():
    jumping = (1000.0 * TRIALS + TIME)[:, None].astype(np.float32)
    loader = loader_of(jumping, conditional="time_delta")
    assert loader.distribution.time_difference.max() > 900
    keep_within_trials(loader, split_trials(TRIALS, len(X)))
    differences = loader.distribution.time_difference.numpy()
    assert len(differences) == len(X) - 6 * 4
    assert_allclose(differences, 4 / 6, atol=1e-3)


def test_cebra_draws_changes_apart_from_the_bins_they_are_added_to():
    """Generators of one seed would draw the same bins for both."""
    from saebook.baselines.cebra import seed_sampling

    distribution = loader_of(POSITION, conditional="time_delta").distribution
    seed_sampling(distribution, 0)
    draws = [owner.randint(0, 1000, (50,)) for owner in (distribution, distribution.prior)]
    assert (draws[0] == draws[1]).float().mean() < 0.1


def test_cebra_leaves_out_trials_that_are_too_short():
    trials = np.r_[np.full(9, -1), TRIALS[9:]]
    cebra = CEBRATime(**CEBRA).fit(X, trials)
    assert cebra.fit_messages == ("1 trials of under 11 bins were left out",)
    alone = CEBRATime(**CEBRA).fit(X[9:], trials[9:])
    assert_array_equal(cebra.transform(X, trials), alone.transform(X, trials))
    with pytest.raises(DataError, match="longest of 19 trials has 9 bins, and 11 are needed"):
        CEBRATime(**CEBRA).fit(X, np.arange(len(X)) // 9)


def test_cebra_pads_a_trial_with_its_own_ends():
    cebra = CEBRATime(**CEBRA).fit(X, TRIALS)
    short = cebra.transform(X[:3])
    padded = np.r_[X[[0] * 20], X[:3], X[[2] * 20]]
    assert_allclose(short, cebra.transform(padded)[20:23], atol=1e-6)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "give fit"),
        (POSITION[:-1], "for 171 bins"),
        (np.where(TIME > 20, np.nan, TIME), "y is nan in row 121, column 0"),
        (np.zeros(171), "y is the same in every bin"),
        (np.zeros(171, int), "y is 0 in every bin"),
        (np.array(["left"] * 171), "give floats"),
        (np.zeros((171, 2), int), "give floats"),
    ],
)
def test_cebra_behaviour_needs_behaviour(y, message):
    with pytest.raises(DataError, match=message):
        CEBRABehavior(**CEBRA).fit(X, TRIALS, y=y)


def test_cebra_takes_labels_of_any_numbers():
    sides = np.where(POSITION[:, 0] > 0, 70, -3)
    runs = [
        CEBRABehavior(**CEBRA).fit(X, TRIALS, y=y).transform(X, TRIALS) for y in (sides, sides > 0)
    ]
    assert_array_equal(runs[0], runs[1])


EQUAL = np.repeat(np.arange(6), 22)
FIRST = np.concatenate([np.flatnonzero(trial == TRIALS)[:22] for trial in range(6)])


@pytest.mark.parametrize("positive", [False, True])
def test_slicetca(positive):
    import torch

    package = import_package("slicetca")
    x = X[FIRST]
    data = torch.tensor(np.stack([x[trial == EQUAL].T for trial in range(6)]), dtype=torch.float32)
    _, model = package.decompose(
        data,
        (2, 2, 1),
        positive=positive,
        initialization="uniform-positive" if positive else "uniform",
        seed=SEED,
        max_iter=60,
        progress_bar=False,
    )
    method = SliceTCA(
        number_components=(2, 2, 1), positive=positive, random_state=SEED, max_iter=60, device="cpu"
    ).fit(x, EQUAL)
    with torch.no_grad():
        fitted = model.construct().numpy()
        parts = [
            model.construct_single_component(axis, k).numpy()
            for axis, number in enumerate((2, 2, 1))
            for k in range(number)
        ]
    expected = np.concatenate([trial.T for trial in np.maximum(fitted, 0)])
    assert_allclose(method.reconstruct(x, EQUAL), expected, atol=1e-6)
    norms = np.stack([np.concatenate(np.linalg.norm(part, axis=1)) for part in parts], axis=1)
    latents = method.transform(x, EQUAL)
    assert_allclose(np.abs(latents), norms, rtol=1e-4, atol=1e-5)
    assert (latents >= 0).all() == positive
    assert any("max_iter=60" in message for message in method.fit_messages)


def test_slicetca_describes_only_its_own_trials():
    method = SliceTCA(number_components=(1, 1, 1), max_iter=20, device="cpu").fit(X[FIRST], EQUAL)
    whole = method.transform(X[FIRST], EQUAL)
    some = np.isin(EQUAL, [1, 4])
    assert_array_equal(method.transform(X[FIRST][some], EQUAL[some]), whole[some])
    with pytest.raises(DataError, match=r"not fitted on trial 7\. It is transductive"):
        method.transform(X[FIRST][:22], EQUAL[:22] + 7)
    with pytest.raises(DataError, match=r"counts of trial 0 are not those .* transductive"):
        method.reconstruct(X[FIRST][::-1], EQUAL)
    with pytest.raises(DataError, match=r"trial 2 has 22 bins and trial 3 46: .* one length"):
        SliceTCA().fit(X, TRIALS)


def test_slicetca_converges_when_nothing_moves_any_more():
    method = SliceTCA(number_components=(0, 1, 0), min_std=1.0, max_iter=300, device="cpu")
    assert method.fit(X[FIRST], EQUAL).fit_messages == ()
    assert len(method.model.losses) < 300
