"""Consistency in time: Markov chains whose autocorrelation and information are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from saebook.data.simulate import simulate_slow_fast
from saebook.errors import ConfigError, DataError
from saebook.evaluation import (
    RandomDictionary,
    compare_at_fvu,
    consistency,
    decode_clock,
    paired_intervals,
    score_at_fvu,
    temporal_consistency,
)
from saebook.metrics import (
    activity_information,
    autocorrelation,
    decorrelation_time,
    lagged_rows,
)


def markov(n, density, dwell, rng, width=1):
    """Two-state chains [n, width] in equilibrium."""
    leave, enter = 1 / dwell, density / (1 - density) / dwell
    uniform = rng.random((n, width))
    states = np.empty((n, width))
    states[0] = uniform[0] < density
    for t in range(1, n):
        states[t] = np.where(states[t - 1] > 0, uniform[t] >= leave, uniform[t] < enter)
    return torch.from_numpy(states)


def entropy(*shares):
    return -sum(p * math.log(p) for p in shares if p > 0)


def one_sequence(n):
    return torch.zeros(n, dtype=torch.int64)


# --- autocorrelation -----------------------------------------------------------------------


def test_autocorrelation_of_a_chain_decays_as_its_persistence():
    density, dwell = 0.3, 10.0
    z = markov(30_000, density, dwell, np.random.default_rng(0), width=4)
    curves = autocorrelation(z, one_sequence(len(z)), max_lag=8)
    expected = (1 - 1 / (dwell * (1 - density))) ** torch.arange(9.0, dtype=torch.float64)
    torch.testing.assert_close(curves.mean(1), expected, atol=0.02, rtol=0)
    found = decorrelation_time(autocorrelation(z, one_sequence(len(z)), max_lag=40), step=0.05)
    assert abs(float(found.mean()) - 0.05 * -1 / math.log(expected[1])) < 0.03


def test_autocorrelation_of_a_sine_is_a_cosine_and_white_noise_has_none():
    t = torch.arange(20_000, dtype=torch.float64)
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.stack([torch.sin(2 * math.pi * t / 40), noise], dim=1)
    curves = autocorrelation(z, one_sequence(len(z)), max_lag=20)
    assert float(curves[20, 0]) == pytest.approx(-1.0, abs=2e-3)
    assert float(curves[10, 0]) == pytest.approx(0.0, abs=2e-3)
    assert float(curves[1:, 1].abs().max()) < 0.03


def test_autocorrelation_never_reaches_across_sequences():
    # Constant within each sequence, so that only pairs inside one are alike.
    z = torch.tensor([1.0, -1.0]).repeat(50).repeat_interleave(4)[:, None]
    group = torch.arange(100).repeat_interleave(4)
    curves = autocorrelation(z, group, max_lag=4)
    torch.testing.assert_close(curves[:4, 0], torch.ones(4, dtype=torch.float64))
    assert math.isnan(float(curves[4, 0]))


def test_gaps_and_returning_sequences_make_no_pairs():
    group = torch.tensor([0, 0, 0, 1, 0, 0])
    assert lagged_rows(group, None, 1).tolist() == [0, 1, 4]
    position = torch.tensor([0, 2, 3, 0, 4, 6])
    assert lagged_rows(group, position, 2).tolist() == []
    assert lagged_rows(group, position, 1).tolist() == [1]
    with pytest.raises(DataError, match="position goes from 3 to 1"):
        lagged_rows(torch.zeros(2, dtype=torch.int64), torch.tensor([3, 1]), 1)


def test_a_constant_latent_has_no_autocorrelation_even_where_its_mean_is_rounded():
    z = torch.full((1000, 2), 0.1)
    z[::7, 1] = 0.3
    curves = autocorrelation(z, one_sequence(1000), max_lag=2)
    assert bool(curves[:, 0].isnan().all()) and not bool(curves[:, 1].isnan().any())
    assert bool(decorrelation_time(curves)[0].isnan())


def test_decorrelation_is_infinite_where_the_longest_lag_is_still_above():
    assert decorrelation_time(torch.ones(5, 1, dtype=torch.float64)).tolist() == [math.inf]
    assert decorrelation_time(torch.ones(1, 1, dtype=torch.float64)).tolist() == [math.inf]


# --- information ---------------------------------------------------------------------------


@pytest.mark.parametrize("correction", ["none", "miller_madow", "shuffle"])
def test_information_of_a_chain_is_the_known_one(correction):
    density, dwell, lag = 0.3, 6.0, 3
    persistence = (1 - 1 / (dwell * (1 - density))) ** lag
    stays = density + (1 - density) * persistence  # on, given that it was on
    joint = entropy(
        density * stays,
        density * (1 - stays),
        density * (1 - stays),
        1 - density - density * (1 - stays),
    )
    own = entropy(density, 1 - density)
    z = markov(30_000, density, dwell, np.random.default_rng(1), width=6)
    found = activity_information(z, one_sequence(len(z)), lag=lag, correction=correction)
    assert float(found.mean()) == pytest.approx((2 * own - joint) / own, abs=0.01)


def test_independent_rows_have_no_information_on_average_only_once_corrected():
    rng = np.random.default_rng(2)
    z = torch.from_numpy((rng.random((200, 4000)) < 0.3).astype(float))
    group = one_sequence(200)
    raw, corrected, shuffled = (
        activity_information(z, group, lag=1, correction=name, n_shuffles=10)
        for name in ("none", "miller_madow", "shuffle")
    )
    error = float(corrected.std()) / math.sqrt(4000)
    # The bias is 1 / 2N nats, of an entropy of 0.61.
    assert float(raw.mean()) == pytest.approx(1 / (2 * 199) / 0.611, rel=0.15)
    assert abs(float(corrected.mean())) < 4 * error
    assert abs(float(shuffled.mean())) < 5 * error


def test_shuffles_take_off_the_bias_of_slow_latents_which_miller_madow_leaves():
    # Independent beyond some lag, slow: few effective rows.
    z = markov(600, 0.4, 30.0, np.random.default_rng(3), width=200)
    group = one_sequence(600)
    left = activity_information(z, group, lag=290, correction="miller_madow")
    gone = activity_information(z, group, lag=290, correction="shuffle", n_shuffles=20)
    assert float(left.nanmean()) > 0.03
    assert abs(float(gone.nanmean())) < 0.3 * float(left.nanmean())


def test_information_of_what_never_changes_is_undefined_and_of_what_lasts_is_one():
    lasting = torch.tensor([1.0, 0.0]).repeat(50).repeat_interleave(10)
    group = torch.arange(100).repeat_interleave(10)
    z = torch.stack([lasting, torch.ones(1000), torch.zeros(1000)], dim=1)
    found = activity_information(z, group, lag=3)
    assert float(found[0]) == pytest.approx(1.0, abs=1e-3)
    assert bool(found[1:].isnan().all())


def test_information_refuses_unknown_corrections_and_lags_without_pairs():
    z = torch.rand(10, 2)
    with pytest.raises(DataError, match="correction = 'jackknife'"):
        activity_information(z, one_sequence(10), lag=1, correction="jackknife")
    with pytest.raises(DataError, match="longer than lag = 10"):
        activity_information(z, one_sequence(10), lag=10)
    with pytest.raises(DataError, match="not finite"):
        autocorrelation(torch.full((4, 1), math.nan), one_sequence(4), max_lag=1)


# --- baselines -----------------------------------------------------------------------------


def test_silent_and_always_active_latents_are_counted_not_praised():
    z = torch.zeros(400, 4)
    z[:, 0] = markov(400, 0.5, 20.0, np.random.default_rng(0))[:, 0]
    z[:, 1] = 1 + torch.arange(400) / 400  # drifts, and is never off
    z[:3, 2] = 1.0
    found = consistency(z, one_sequence(400), max_lag=5)
    assert (found.n_latents, found.n_always_on, found.n_silent) == (1, 1, 2)
    assert found.l0 == pytest.approx(float((z > 0).sum()) / 400)
    none = consistency(z[:, 1:], one_sequence(400), max_lag=5)
    assert none.n_latents == 0 and math.isnan(none.at(1)) and math.isnan(none.decorrelation)


def test_baselines_stand_beside_the_latents():
    known = simulate_slow_fast(30, 100, 16, n_slow=4, n_fast=12, dwell=20.0, seed=3)
    sae = RandomDictionary(16, 24, k=3, seed=5)
    table = temporal_consistency(sae, known.x, known.group, known.position, prefix=8, max_lag=6)
    assert abs(table.loc["time-shuffled", "ac"]) < 0.03 < table.loc["latents", "ac"]
    x = torch.from_numpy(known.x)
    own = autocorrelation(x, torch.from_numpy(known.group), max_lag=1)[1].mean()
    assert table.loc["input", "ac"] == pytest.approx(float(own))
    # It is a random dictionary itself, so that another one is as consistent.
    other = table.loc["random dictionary"]
    assert other["ac"] == pytest.approx(table.loc["latents", "ac"], abs=0.1)
    assert other["l0"] == pytest.approx(3.0, abs=0.01)
    parts = table.loc[["prefix", "other latents"], "l0"].sum()
    assert parts == pytest.approx(table.loc["latents", "l0"])


# --- matched FVU ---------------------------------------------------------------------------


def test_scores_are_compared_at_the_same_fvu_only_within_reach():
    assert score_at_fvu([0.2, 0.1, 0.4], [2.0, 1.0, 4.0], 0.3) == pytest.approx(3.0)
    assert score_at_fvu([0.2, 0.1], [2.0, 1.0], 0.2049) == 2.0
    assert math.isnan(score_at_fvu([0.2, 0.1], [2.0, 1.0], 0.206))
    assert math.isnan(score_at_fvu([math.nan], [1.0], 0.2))


def test_paired_differences_are_taken_seed_by_seed_and_missing_ones_counted():
    rows = []
    for seed in range(4):
        for k, fvu in ((2, 0.3), (4, 0.1)):
            rows.append({"arm": "base", "seed": seed, "fvu": fvu, "found": 0.1 * seed})
            # Worse FVU at equal k: only the last seed's curve stays out of reach.
            shift = 0.05 if seed < 3 else 0.5
            found = 0.1 * seed + 0.2 + 0.01 * k
            rows.append({"arm": "tc", "seed": seed, "fvu": fvu + shift, "found": found})
    compared = compare_at_fvu(
        pd.DataFrame(rows), ["found"], dict.fromkeys(range(4), 0.2), base="base"
    )
    interval = paired_intervals(compared).iloc[0]
    assert (interval["n"], interval["n_seeds"]) == (3, 4)
    assert interval["difference"] == pytest.approx(0.235)
    assert interval["low"] == pytest.approx(interval["high"])  # the seeds' own spread is gone
    with pytest.raises(DataError, match="'nobody'"):
        compare_at_fvu(pd.DataFrame(rows), ["found"], {0: 0.2}, base="nobody")


# --- clock ---------------------------------------------------------------------------------


def test_a_drifting_code_knows_the_clock_and_a_stationary_one_does_not():
    rng = np.random.default_rng(0)
    time = np.arange(6000) * 0.05
    slow = np.cumsum(rng.normal(size=(6000, 1)), axis=0) * 0
    cycles = np.sin(2 * np.pi * time[:, None] / np.array([3.0, 7.0, 11.0]))
    stationary = cycles + rng.normal(size=(6000, 3)) + slow
    drifting = stationary + time[:, None] / 100 * np.array([1.0, 0.0, 0.0])
    knows, does_not = decode_clock(drifting, time), decode_clock(stationary, time)
    assert knows.r2 > 0.8 and does_not.r2 < 0.1
    assert knows.p <= 0.05 < does_not.p
    assert knows.n_stretches == pytest.approx(41, abs=21)


def test_a_clock_needs_time_in_order_and_enough_of_it():
    z = np.ones((100, 2))
    with pytest.raises(DataError, match="does not rise"):
        decode_clock(z, np.zeros(100))
    with pytest.raises(DataError, match="10 rows"):
        decode_clock(z[:10], np.arange(10.0))
    with pytest.raises(DataError, match="not finite"):
        decode_clock(z * np.nan, np.arange(100.0))


# --- the benchmark's data -------------------------------------------------------------------


def test_slow_features_last_as_stated_and_fast_ones_do_not():
    known = simulate_slow_fast(60, 400, 24, n_slow=6, n_fast=10, dwell=15.0, seed=4)
    active = torch.from_numpy((known.features > 0).astype(float))
    curves = autocorrelation(active, torch.from_numpy(known.group), max_lag=4)
    expected = torch.from_numpy(known.persistence)[None] ** torch.arange(5)[:, None]
    torch.testing.assert_close(curves, expected, atol=0.06, rtol=0)
    assert known.is_slow.sum() == 6 and known.is_slow[:6].all()
    bout = known.features[:, 0]
    same = (bout[1:] > 0) & (bout[:-1] > 0) & (known.group[1:] == known.group[:-1])
    # A bout has one strength; it differs only where one ends as the next begins.
    assert (bout[1:][same] == bout[:-1][same]).all()


def test_slow_features_are_as_weak_as_asked_and_x_is_their_sum():
    known = simulate_slow_fast(100, 100, 24, slow_strength=0.25, noise=0.0, seed=1)
    strengths = [
        known.features[:, part][known.features[:, part] > 0]
        for part in (known.is_slow, ~known.is_slow)
    ]
    assert strengths[0].mean() == pytest.approx(0.25 * strengths[1].mean(), rel=0.05)
    np.testing.assert_allclose(known.x, known.features @ known.directions, atol=1e-5)


def test_counts_follow_known_rates_at_the_mean_rate_asked_for():
    known = simulate_slow_fast(
        50, 200, 20, n_slow=4, n_fast=12, observed="counts", mean_rate_hz=8.0, seed=2
    )
    assert known.rates is not None and (known.x == np.round(known.x)).all()
    assert known.rates.mean() == pytest.approx(8.0, rel=0.1)
    residual = (known.x - 0.05 * known.rates).sum() / known.x.sum()
    assert abs(residual) < 0.02


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"observed": "spikes"}, "observed='spikes'"),
        ({"dwell": 0.5}, "dwell=0.5"),
        ({"slow_strength": 0.0}, "slow_strength=0.0"),
        ({"n_slow": 2, "slow_l0": 1.0, "dwell": 1.5}, "too short"),
        ({"slow_l0": 9.0}, "mean_l0=9.0"),
    ],
)
def test_impossible_sequences_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        simulate_slow_fast(2, 10, 8, **settings)
