"""Scores of the comparison of methods: analytic answers, and the packages that define them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from saebook.errors import ConfigError, DataError
from saebook.metrics import (
    bits_per_spike,
    consistency_between_runs,
    consistency_between_sessions,
    dci,
    deviance_explained,
    knn_decoder,
    mean_correlation_coefficient,
    poisson_deviance,
    predict_factors,
    psth,
    psth_r2,
    r2,
    ridge_decoder,
    ridge_path,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def regression(rng):
    """400 rows of 20 trials: five latents, two columns of behaviour, noise."""
    latents = rng.normal(size=(400, 5)) * [1, 3, 0.1, 1, 1] + 2
    weights = rng.normal(size=(5, 2))
    behaviour = latents @ weights + rng.normal(size=(400, 2)) * [0.5, 2.0]
    return latents, behaviour, np.repeat(np.arange(20), 20)


@pytest.mark.parametrize(
    "average,name", [("uniform", "uniform_average"), ("variance_weighted",) * 2]
)
def test_r2_is_that_of_scikit_learn(rng, average, name):
    from sklearn.metrics import r2_score

    values = rng.normal(size=(50, 3)) * [1, 5, 0.2]
    predicted = values + rng.normal(size=(50, 3))
    expected = r2_score(values, predicted, multioutput=name)
    assert r2(values, predicted, average=average) == pytest.approx(expected, abs=1e-12)


def test_r2_of_the_mean_is_zero_and_constant_columns_are_left_out():
    values = np.array([[0.0, 7.0], [4.0, 7.0]])
    assert r2(values, np.full((2, 2), 2.0)) == 0.0
    assert r2(values, values + np.array([0.0, 5.0])) == 1.0
    assert math.isnan(r2(values[:, 1:], values[:, 1:]))


@pytest.mark.parametrize("rows", [20, 400])
def test_ridge_is_the_benchmarks(regression, rows):
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, PredefinedSplit

    latents, behaviour, trial = (part[:rows] for part in regression)
    trial = np.arange(rows) if rows == 20 else trial
    decoder = ridge_decoder(latents, behaviour, groups=trial)
    fold = trial * 5 // (trial.max() + 1)
    search = GridSearchCV(Ridge(), {"alpha": np.logspace(-4, 0, 9)}, cv=PredefinedSplit(fold))
    search.fit(latents, behaviour)
    assert decoder.alpha == pytest.approx(search.best_params_["alpha"])
    np.testing.assert_allclose(decoder(latents), search.predict(latents), atol=1e-8)


def test_ridge_closed_form_and_singular_latents():
    x = np.array([[-2.0], [0.0], [2.0]])
    weights, offset = next(ridge_path(x, 3 * x + 1, (8.0,)))  # 8 of x, 8 of the penalty
    assert weights[0, 0] == pytest.approx(1.5) and offset[0] == pytest.approx(1.0)
    twice = np.concatenate([x, x, np.full((3, 1), 9.0)], axis=1)
    weights, _ = next(ridge_path(twice, 3 * x, (0.0,)))
    np.testing.assert_allclose(weights[:, 0], [1.5, 1.5, 0.0], atol=1e-9)


def test_ridge_folds_are_made_of_whole_trials(rng):
    """Rows of a trial are copies: a fold that cut trials would take the weakest penalty."""
    trial = np.repeat(np.arange(10), 30)
    latents = rng.normal(size=(10, 40))[trial]
    behaviour = rng.normal(size=(10, 1))[trial]
    alphas = (1e-6, 1e6)
    assert ridge_decoder(latents, behaviour, groups=trial, alphas=alphas).alpha == 1e6
    order = rng.permutation(300)
    cut = ridge_decoder(latents[order], behaviour[order], alphas=alphas)
    assert cut.alpha == 1e-6


def test_rows_of_unknown_behaviour_are_left_out(regression):
    latents, behaviour, trial = regression
    unknown = behaviour.copy()
    unknown[40:60] = np.nan
    known = np.ones(400, bool)
    known[40:60] = False
    found = ridge_decoder(latents, unknown, groups=trial)
    expected = ridge_decoder(latents[known], behaviour[known], groups=trial[known])
    np.testing.assert_allclose(found.weights, expected.weights)
    with pytest.raises(DataError, match="unknown in all 400 rows"):
        ridge_decoder(latents, np.full((400, 2), np.nan))
    with pytest.raises(DataError, match="one trial"):
        ridge_decoder(latents, behaviour, groups=np.zeros(400))
    with pytest.raises(DataError, match="not finite"):
        ridge_decoder(np.where(latents > 4, np.nan, latents), behaviour)


def test_neighbours_are_those_of_scikit_learn(rng):
    from sklearn.neighbors import KNeighborsRegressor

    latents, behaviour = rng.normal(size=(300, 4)), rng.normal(size=(300, 2))
    behaviour[:, 0] += 5 * latents[:, 0] / np.linalg.norm(latents, axis=1)
    parts = [slice(0, 200), slice(200, 250), slice(250, 300)]
    train, validation, test = parts
    decoder = knn_decoder(
        latents[train], behaviour[train], (latents[validation], behaviour[validation])
    )
    by_k = {}
    for k in (1, 4, 9, 16, 25, 36, 49, 64, 81, 100):
        model = KNeighborsRegressor(k, metric="cosine").fit(latents[train], behaviour[train])
        by_k[k] = r2(behaviour[validation], model.predict(latents[validation]))
        if k == decoder.k:
            np.testing.assert_allclose(decoder(latents[test]), model.predict(latents[test]))
    assert decoder.k == max(by_k, key=lambda k: by_k[k])


def test_neighbours_ignore_length_but_not_direction():
    latents = np.array([[1.0, 0.0], [0.0, 1.0]])
    behaviour = np.array([[1.0], [2.0]])
    decoder = knn_decoder(latents, behaviour, (latents, behaviour), ks=(1, 50))
    assert decoder.k == 1
    assert decoder(np.array([[100.0, 1.0], [0.01, 0.1]])).ravel().tolist() == [1.0, 2.0]


def test_psth_averages_and_missing_cells():
    counts = np.array([[1.0], [3.0], [5.0], [100.0]])
    course = psth(counts, np.array([0, 0, 1, -1]), np.array([0, 0, 1, 0]))
    assert course.shape == (2, 2, 1)
    assert course[0, 0, 0] == 2.0 and course[1, 1, 0] == 5.0 and np.isnan(course[0, 1, 0])
    with pytest.raises(DataError, match="none of 4 rows"):
        psth(counts, np.full(4, -1), np.zeros(4, int))


def test_psth_r2_scores_the_average_and_not_the_trials(rng):
    condition, step = np.repeat([0, 1], 200), np.tile(np.arange(10), 40)
    course = rng.uniform(1, 5, (2, 10, 3))
    rates = course[condition, step]
    shift = np.repeat(rng.normal(size=(40, 1)), 10, axis=0)
    shift -= np.where(condition[:, None] == 0, shift[:200].mean(), shift[200:].mean())
    assert psth_r2(rates + shift, rates, condition, step) == pytest.approx(1.0)
    assert psth_r2(rates, np.broadcast_to(rates.mean(0), rates.shape), condition, step) < 1e-9
    # Whether the condition matters: with it forgotten, only the common course is left.
    forgotten = course.mean(axis=0)[step]
    assert 0.1 < psth_r2(rates, forgotten, condition, step) < 0.9


def test_psth_smoothing_keeps_constants_and_helps_against_noise(rng):
    condition, step = np.zeros(400, int), np.tile(np.arange(20), 20)
    slow = 3 + 2 * np.sin(step / 4)[:, None]
    noisy = rng.poisson(slow).astype(float)
    assert psth_r2(noisy, slow, condition, step, smoothing=1.0) > psth_r2(
        noisy, slow, condition, step
    )
    with pytest.raises(DataError, match="must agree"):
        psth_r2(noisy, np.ones((400, 2)), condition, step)


def test_deviance_is_that_of_scikit_learn(rng):
    from sklearn.metrics import d2_tweedie_score, mean_poisson_deviance

    rates = rng.uniform(0.1, 4, (200, 1))
    counts = rng.poisson(rates)
    n, r = torch.from_numpy(counts), torch.from_numpy(rates)
    assert poisson_deviance(n, r) == pytest.approx(
        mean_poisson_deviance(counts.ravel(), rates.ravel())
    )
    assert deviance_explained(n, r) == pytest.approx(
        d2_tweedie_score(counts.ravel(), rates.ravel(), power=1)
    )
    assert deviance_explained(n, n.double()) == 1.0
    assert math.isnan(deviance_explained(torch.zeros(3, 2), torch.zeros(3, 2)))


def test_deviance_and_bits_are_the_same_likelihood(rng):
    counts = torch.from_numpy(rng.poisson(1.5, (100, 4)))
    rates = torch.from_numpy(rng.uniform(0.5, 3, (100, 4)))
    null = counts.double().mean(0).expand(100, -1)
    lost = (poisson_deviance(counts, null) - poisson_deviance(counts, rates)) * counts.numel() / 2
    expected = lost / (float(counts.sum()) * math.log(2))
    assert bits_per_spike(counts, rates) == pytest.approx(expected)


def test_runs_that_differ_by_a_linear_map_agree(rng):
    first = rng.normal(size=(300, 3))
    second = first @ rng.normal(size=(3, 5)) + 2
    scores = consistency_between_runs([first, second, rng.normal(size=(300, 3))])
    assert scores[0, 1] == pytest.approx(1) and scores[1, 0] == pytest.approx(1)
    assert np.isnan(np.diag(scores)).all()
    # Chance of a fit on its own rows: d of n - 1.
    assert scores[0, 2] == pytest.approx(3 / 299, abs=0.02)
    dead = np.concatenate([first, np.zeros((300, 4))], axis=1)
    assert consistency_between_runs([first, dead])[0, 1] == pytest.approx(1)
    with pytest.raises(DataError, match="perfect whatever"):
        consistency_between_runs([first[:4], second[:4]])


@pytest.mark.filterwarnings("ignore")
def test_consistency_is_cebras(rng):
    cebra = pytest.importorskip("cebra")
    runs = [rng.normal(size=(200, 3)) for _ in range(3)]
    runs[1] += runs[0]
    expected, pairs, _ = cebra.sklearn.metrics.consistency_score(runs, between="runs")
    found = consistency_between_runs(runs)
    np.testing.assert_allclose([found[i, j] for i, j in pairs], expected, atol=1e-9)

    # Its hundred bins, each of which holds rows; those at the largest label it drops.
    labels = [rng.permutation(np.r_[np.arange(99).repeat(3) + 0.5, 0.0, 99.0]) for _ in runs]
    rows = [rng.normal(size=(299, 3)) + np.sin(label / 9)[:, None] for label in labels]
    codes = [np.digitize(label, np.linspace(0, 99, 100)) for label in labels]
    codes = [np.where(code == 100, -1, code) for code in codes]
    ids = ["a", "b", "c"]
    expected, pairs, _ = cebra.sklearn.metrics.consistency_score(
        rows, between="datasets", labels=labels, dataset_ids=ids
    )
    found = consistency_between_sessions(rows, codes)
    by_name = [found[ids.index(i), ids.index(j)] for i, j in pairs]
    np.testing.assert_allclose(by_name, expected, atol=1e-9)


def test_sessions_need_a_label_in_common(rng):
    rows = rng.normal(size=(20, 2))
    with pytest.raises(DataError, match="no label is in every session"):
        consistency_between_sessions([rows, rows], [np.arange(20), np.arange(20) + 50])
    with pytest.raises(DataError, match="one label per row"):
        consistency_between_sessions([rows, rows], [np.arange(20), np.arange(19)])


def test_mcc_counts_each_latent_once(rng):
    factors = rng.normal(size=(2000, 3))
    order = factors[:, [2, 0, 1]] * [-1, 5, 0.1]
    assert mean_correlation_coefficient(order, factors) == pytest.approx(1)
    # Three copies of one factor find one.
    copies = np.repeat(factors[:, :1], 3, axis=1)
    assert mean_correlation_coefficient(copies, factors) == pytest.approx(1 / 3, abs=0.03)
    # One latent for three factors leaves two without any.
    assert mean_correlation_coefficient(factors[:, :1], factors) == pytest.approx(1 / 3)
    turned = factors @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert mean_correlation_coefficient(turned, factors) < 0.95
    assert mean_correlation_coefficient(np.exp(order), factors) < 0.9
    assert mean_correlation_coefficient(np.exp(order), factors, method="spearman") == pytest.approx(
        1
    )


def test_mcc_matched_on_other_rows_is_not_flattered(rng):
    noise, factors = rng.normal(size=(100, 200)), rng.normal(size=(100, 4))
    inside = mean_correlation_coefficient(noise[:50], factors[:50])
    outside = mean_correlation_coefficient(
        noise[:50], factors[:50], matched_on=(noise[50:], factors[50:])
    )
    assert inside > 0.35 > 0.25 > outside
    constant = np.ones((50, 2))
    assert math.isnan(mean_correlation_coefficient(noise[:50], constant))
    with pytest.raises(ConfigError, match="kendall"):
        mean_correlation_coefficient(noise, factors, method="kendall")  # type: ignore[arg-type]


def test_dci_of_known_matrices():
    one = dci(np.diag([1.0, 2.0, 3.0]))
    assert (one.disentanglement, one.completeness) == (1.0, 1.0)
    flat = dci(np.ones((4, 3)))
    assert flat.disentanglement == pytest.approx(0) and flat.completeness == pytest.approx(0)
    # Two latents for each factor: disentangled, half complete (log 2 of log 4).
    split = dci(np.kron(np.eye(2), np.ones((2, 1))))
    assert split.disentanglement == 1.0 and split.completeness == pytest.approx(0.5)
    # Weights: the row that matters nine times as much counts so.
    mixed = dci(np.array([[9.0, 0.0], [0.5, 0.5]]))
    assert mixed.disentanglement == pytest.approx(0.9)
    assert math.isnan(dci(np.zeros((2, 2))).disentanglement)
    with pytest.raises(DataError, match="not"):
        dci(-np.eye(2))


@pytest.mark.parametrize("model", ["lasso", "boosting"])
def test_factors_predicted_from_their_own_latents(rng, model):
    factors = rng.uniform(-1, 1, size=(400, 3))
    latents = np.concatenate([factors * [1, 2, 0.1], rng.normal(size=(400, 2))], axis=1)
    factors = np.concatenate([factors, np.ones((400, 1))], axis=1)
    halves = (latents[:200], factors[:200]), (latents[200:], factors[200:])
    found = predict_factors(*halves, model=model)
    assert found.informativeness > 0.9 and math.isnan(found.r2[3])
    np.testing.assert_allclose(found.importance[:, :3].argmax(axis=0), [0, 1, 2])
    assert found.importance[:, 3].sum() == 0
    scores = dci(found.importance[:, :3])
    assert scores.disentanglement > 0.9 and scores.completeness > 0.9


def test_trees_see_what_the_lasso_does_not(rng):
    factors = rng.uniform(-1, 1, size=(600, 1))
    latents = np.concatenate([factors**2, rng.normal(size=(600, 1))], axis=1)
    target = np.cos(6 * latents[:, :1])
    halves = (latents[:300], target[:300]), (latents[300:], target[300:])
    assert predict_factors(*halves, model="boosting").informativeness > 0.9
    assert predict_factors(*halves).informativeness < 0.4
