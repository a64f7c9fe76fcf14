"""Simulated sessions: task, features, mixing, spikes and planted defects, each against its value."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import gammaln

from saebook.data.simulate import (
    NESTED_PAIRS,
    REACH_FEATURES,
    ReachTask,
    Simulation,
    simulate_place_cells,
    simulate_reach,
    true_fields,
    true_rate_map,
)
from saebook.data.simulate.mixing import draw_selectivity
from saebook.data.simulate.place_cells import FIELDS
from saebook.data.simulate.spiking import (
    SAMPLING_RATE_HZ,
    add_foreign,
    drop_within,
    jittered_copy,
    poisson_train,
)
from saebook.data.simulate.task import draw_trials, hand, minimum_jerk, trial_at
from saebook.errors import ConfigError, RecordingError


@pytest.fixture(scope="module")
def reach() -> Simulation:
    return simulate_reach(seed=0)


@pytest.fixture(scope="module")
def place() -> Simulation:
    return simulate_place_cells(seed=0)


def counts_of(simulation: Simulation, bin_size_s: float) -> np.ndarray:
    n = int(np.floor(simulation.interval.duration / bin_size_s + 1e-9))
    edges = simulation.interval.start + bin_size_s * np.arange(n + 1)
    return np.stack([np.histogram(train, edges)[0] for train in simulation.spike_times], axis=1)


def bits_per_spike(counts: np.ndarray, expected: np.ndarray) -> float:
    def nll(rate):
        return (rate - counts * np.log(np.maximum(rate, 1e-12)) + gammaln(counts + 1.0)).sum()

    mean = np.broadcast_to(counts.mean(axis=0), counts.shape)
    return (nll(mean) - nll(expected)) / (counts.sum() * np.log(2.0))


def clean(simulation: Simulation) -> np.ndarray:
    return np.flatnonzero(simulation.units["true_defect"].to_numpy() == "none")


def hill_ratio(times: np.ndarray, duration: float, window: float = 0.002) -> float:
    n_violations = (np.diff(times) < window).sum()
    return n_violations * duration / (2.0 * len(times) ** 2 * window)


# --- task -----------------------------------------------------------------------------------


def test_trials_keep_the_timing_of_the_task():
    task = ReachTask()
    trials = draw_trials(task, 4000, np.random.default_rng(0))
    np.testing.assert_allclose(trials.target_on_time - trials.start_time, 0.5, atol=1e-9)
    np.testing.assert_allclose(trials.outcome_time - trials.movement_end_time, 0.5, atol=1e-9)
    assert trials.delay_s.between(0.0, 1.0).all()
    assert abs(trials.delay_s.mean() - 0.5) < 0.02
    assert abs(trials.reaction_s.mean() - 0.25) < 0.003
    assert abs(trials.reaction_s.std() - 0.04) < 0.003
    pause = trials.next_time - trials.outcome_time
    assert pause.between(1.0, 2.0).all()
    assert abs(trials.vigour.std() - 0.1) < 0.006
    np.testing.assert_allclose(trials.movement_s * trials.vigour, 0.4)
    assert (trials.outcome == "error").sum() == 400
    assert (trials.stop_time.to_numpy()[:-1] < trials.start_time.to_numpy()[1:]).all()
    assert set(trials.target.value_counts()) == {500}


def test_errors_and_only_errors_reach_a_neighbouring_target():
    trials = draw_trials(ReachTask(), 200, np.random.default_rng(1))
    apart = np.abs(np.angle(np.exp(1j * (trials.direction - trials.reach_direction))))
    is_error = (trials.outcome == "error").to_numpy()
    np.testing.assert_allclose(apart[is_error], np.pi / 4)
    np.testing.assert_allclose(apart[~is_error], 0.0, atol=1e-12)


def test_hand_reaches_10_cm_by_minimum_jerk_and_comes_home():
    task = ReachTask()
    trials = draw_trials(task, 16, np.random.default_rng(0))
    times = np.arange(0.0, trials["next_time"].iloc[-1], 0.001)
    trial = trial_at(trials, times)
    position, velocity = hand(task, trials, trial, times)
    np.testing.assert_allclose(np.gradient(position, times, axis=0), velocity, atol=5e-3)
    row: Any
    for row in trials.itertuples():
        at = np.searchsorted(times, [row.start_time + 0.01, row.outcome_time])
        np.testing.assert_allclose(position[at[0]], 0.0, atol=1e-9)
        goal = 0.1 * np.array([np.cos(row.reach_direction), np.sin(row.reach_direction)])
        np.testing.assert_allclose(position[at[1]], goal, atol=1e-9)
        moving = slice(*np.searchsorted(times, [row.movement_onset_time, row.movement_end_time]))
        peak = np.hypot(*velocity[moving].T).max()
        assert abs(peak - 0.46875 * row.vigour) < 1e-3


def test_minimum_jerk_formula():
    tau = 0.3
    assert minimum_jerk(np.array(tau)) == pytest.approx(10 * tau**3 - 15 * tau**4 + 6 * tau**5)


# --- features -------------------------------------------------------------------------------


def test_features_are_nonnegative_sparse_and_bounded(reach):
    data = reach.features.data
    active: Any = pd.Series((data > 0).mean(axis=0), index=reach.features.columns)
    assert data.dtype == np.float32
    assert data.min() == 0.0
    assert data.max() < 1.5
    assert active["silent"] == 0.0
    # Arousal, half of the time above its mean, is the one dense distractor.
    assert active.drop("arousal").max() < 0.4
    assert 0.05 < active.mean() < 0.2
    assert (active.drop("silent") > 0.005).all()
    assert len(reach.features.columns) == len(REACH_FEATURES) == 32


def test_narrow_features_are_nested_in_broad_ones(reach):
    frame: Any = pd.DataFrame(reach.features.data, columns=list(reach.features.columns))
    for broad, narrow in NESTED_PAIRS:
        assert not ((frame[narrow] > 0) & (frame[broad] == 0)).any()
        share = (frame[narrow] > 0).sum() / (frame[broad] > 0).sum()
        assert 0.1 < share < 0.6


def test_distractors_are_a_correlated_pair_and_slow_arousal():
    simulation = simulate_reach(n_units=20, n_trials=600, seed=3, defects=False)
    frame = simulation.features.to_frame()
    assert 0.75 < np.corrcoef(frame.pair_a, frame.pair_b)[0, 1] < 0.98
    arousal = frame.arousal.to_numpy()[::200]  # one sample per second
    lag = 10
    correlation = np.corrcoef(arousal[:-lag], arousal[lag:])[0, 1]
    assert 0.45 < correlation < 0.9  # exp(-10/30) = 0.72, before rectification


def test_movement_features_lead_the_hand_by_100_ms(reach):
    step = reach.step_s
    speed = np.hypot(*reach.behavior["hand_velocity"].data.T)
    feature = reach.features.to_frame()["speed"].to_numpy()
    lags = np.arange(0, 60)
    match = [np.corrcoef(feature[: len(speed) - k], speed[k:])[0, 1] for k in lags]
    assert abs(lags[int(np.argmax(match))] * step - 0.1) <= 0.01
    assert max(match) < 0.9999  # the jitter of 20 ms from trial to trial


def test_direction_features_follow_target_and_reach(reach):
    frame = reach.features.to_frame()
    for row in reach.trials.itertuples():
        angle = f"{round(np.rad2deg(row.direction)) % 360:03d}"
        reached = f"{round(np.rad2deg(row.reach_direction)) % 360:03d}"
        near = frame.iloc[frame.index.searchsorted([row.go_time + 0.05, row.movement_onset_time])]
        assert near[f"prepare_{angle}"].iloc[0] > 0.5 or row.delay_s < 0.15
        assert near[f"move_{reached}"].iloc[1] > 0.3


# --- mixing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_units", "n_features"), [(60, 32), (400, 32), (100, 40)])
def test_each_feature_drives_5_to_15_percent_and_60_percent_of_units_are_mixed(n_units, n_features):
    driven = draw_selectivity(n_units, n_features, np.random.default_rng(0))
    assert driven.mean(axis=0).min() >= 0.05
    assert driven.mean(axis=0).max() <= 0.15
    per_unit = driven.sum(axis=1)
    assert (per_unit >= 2).sum() == round(0.6 * n_units)
    assert per_unit.max() <= 4
    assert per_unit.min() == 1


def test_more_features_than_units():
    simulation = simulate_reach(n_units=40, n_trials=20, n_features=80)
    driven = (simulation.mixing != 0).to_numpy()
    assert driven.shape == (40, 80)
    assert driven.mean(axis=0).min() >= 0.05
    assert driven.mean(axis=0).max() <= 0.15


def test_mixing_of_a_session_with_defects_stays_in_range(reach):
    driven = (reach.mixing != 0).to_numpy()
    assert driven.mean(axis=0).min() >= 0.05
    assert driven.mean(axis=0).max() <= 0.15
    assert abs((driven.sum(axis=1) >= 2).mean() - 0.6) <= 1 / 60 + 1e-9


def test_sessions_of_an_animal_share_units_features_and_nearly_their_weights():
    first, second = (simulate_reach(60, 20, session=i, defects=False) for i in (0, 1))
    other = simulate_reach(60, 20, animal=1, defects=False)
    shared = first.units.index.intersection(second.units.index)
    assert len(shared) == 36
    assert first.features.columns == second.features.columns
    a, b = first.mixing.loc[shared].to_numpy(), second.mixing.loc[shared].to_numpy()
    np.testing.assert_array_equal(a != 0, b != 0)
    change = (b / np.where(a == 0, 1, a))[a != 0] - 1.0
    assert 0.06 < change.std() < 0.14
    same = (
        first.units.loc[shared, "true_refractory_s"]
        == second.units.loc[shared, "true_refractory_s"]
    )
    assert same.all()
    assert not np.array_equal(other.mixing.to_numpy() != 0, first.mixing.to_numpy() != 0)
    own = first.units.index.difference(shared)
    assert not set(own) & set(second.units.index)


# --- spikes ---------------------------------------------------------------------------------


def test_poisson_train_follows_its_rate_and_keeps_the_refractory_period():
    rng = np.random.default_rng(0)
    rate = np.tile(np.repeat([5.0, 100.0], 200), 500)  # 1 s each, 1,000 s
    samples = poisson_train(rate, 0.005, 2.0, 90, rng)
    times = samples / SAMPLING_RATE_HZ
    assert np.diff(samples).min() >= 90
    assert times.min() >= 2.0
    fast = ((times - 2.0) % 2.0) >= 1.0
    assert abs(fast.sum() / 500 - 100.0) < 2.0  # the hazard makes up for 26 % dead time
    assert abs((~fast).sum() / 500 - 5.0) < 0.5


def test_intervals_beyond_the_refractory_period_are_exponential():
    samples = poisson_train(np.full(20_000, 40.0), 0.05, 0.0, 75, np.random.default_rng(1))
    beyond = np.diff(samples) / SAMPLING_RATE_HZ - 75 / SAMPLING_RATE_HZ
    assert abs(beyond.std() / beyond.mean() - 1.0) < 0.02


def test_dead_time_filter_agrees_with_a_loop():
    rng = np.random.default_rng(2)
    samples = np.sort(rng.integers(0, 20_000, 1500))
    kept = [samples[0]]
    for sample in samples[1:]:
        if sample - kept[-1] >= 60:
            kept.append(sample)
    np.testing.assert_array_equal(drop_within(samples, 60), kept)


def test_all_spikes_are_on_the_grid_once_and_inside_the_session(reach):
    for train in reach.spike_times:
        samples = train * SAMPLING_RATE_HZ
        np.testing.assert_allclose(samples, np.round(samples), atol=1e-4)
        assert (np.diff(np.round(samples)) > 0).all()
        assert train[0] >= reach.interval.start
        assert train[-1] < reach.interval.stop


def test_shortest_interval_of_clean_units_is_the_refractory_period(reach):
    for row in clean(reach):
        refractory = reach.units["true_refractory_s"].iloc[row]
        assert 0.002 <= refractory <= 0.003
        assert np.diff(reach.spike_times[row]).min() >= refractory - 1e-9
    shortest = min(np.diff(reach.spike_times[row]).min() for row in clean(reach))
    assert shortest < 0.003


def test_foreign_share_and_jitter_are_as_planted():
    rng = np.random.default_rng(0)
    samples = poisson_train(np.full(1000, 20.0), 1.0, 0.0, 75, rng)
    merged, share = add_foreign(samples, 0.4, 0.0, 1000.0, rng)
    assert abs(share - 0.4) < 0.002
    assert (np.diff(merged) > 0).all()
    assert np.isin(samples, merged).all()
    copy = jittered_copy(samples, 0.0, 1000.0, rng)
    after = np.searchsorted(samples, copy).clip(1, len(samples) - 1)
    moved = np.minimum(np.abs(copy - samples[after - 1]), np.abs(copy - samples[after]))
    assert moved.max() == 9  # 0.3 ms
    assert len(copy) > 0.99 * len(samples)


@pytest.mark.parametrize("link", ["exp", "softplus"])
def test_true_rates_explain_held_out_spikes_by_0_2_to_0_5_bits(link):
    simulation = simulate_reach(link=link, seed=0)
    counts = counts_of(simulation, 0.02)
    expected = simulation.rates(0.02, gain=False) * 0.02
    assert 0.2 <= bits_per_spike(counts, expected) <= 0.5
    with_gain = simulation.rates(0.02, gain=True) * 0.02
    assert bits_per_spike(counts, with_gain) > bits_per_spike(counts, expected)
    shuffled = np.roll(expected, len(expected) // 3, axis=0)
    assert bits_per_spike(counts, shuffled) < 0


def test_counts_have_the_mean_of_the_true_rates_and_a_fano_factor_of_1_to_1_5(reach):
    rows = clean(reach)
    mean = counts_of(reach, 0.05).mean(axis=0)[rows] / 0.05
    np.testing.assert_allclose(mean, reach.units["true_rate_hz"].iloc[rows], rtol=0.12)
    start = reach.trials["start_time"].to_numpy()
    fano = []
    for row in rows:
        inside = np.searchsorted(reach.spike_times[row], [start + 0.1, start + 0.4])
        held = inside[1] - inside[0]
        if held.mean() > 0.3:
            fano.append(held.var(ddof=1) / held.mean())
    assert len(fano) > 20
    assert 1.0 <= np.mean(fano) <= 1.5


def test_gain_varies_by_20_percent_between_trials(reach):
    gains = reach.rate_model.gains
    assert abs(gains.std() / gains.mean() - 0.2) < 0.01
    assert abs(gains.mean() - 1.0) < 0.01


def test_baselines_are_lognormal_with_median_4_hz():
    units = simulate_reach(n_units=400, n_trials=8, defects=False).units
    baseline: Any = units["true_baseline_hz"]
    assert abs(np.log(baseline).median() - np.log(4.0)) < 0.15
    assert abs(np.log(baseline).std() - 0.9) < 0.1
    assert baseline.max() <= 60.0 + 1e-9


def test_links_give_the_rates_that_they_say():
    for link in ("exp", "softplus"):
        simulation = simulate_reach(n_units=20, n_trials=10, link=link, defects=False)
        weights, base = simulation.mixing.iloc[3], simulation.units["true_baseline_hz"].iloc[3]
        drive = simulation.features.data.astype(float) @ weights.to_numpy()
        rate = simulation.rate_model.from_features(3)
        if link == "exp":
            np.testing.assert_allclose(rate, base * np.exp(drive), rtol=1e-5)
        else:
            bias = base + np.log(-np.expm1(-base))
            np.testing.assert_allclose(rate, np.log1p(np.exp(bias + drive)), rtol=1e-5)


def test_binned_rates_conserve_the_integral(reach):
    fine, coarse = reach.rates(0.005, rows=[5]), reach.rates(0.05, rows=[5])
    np.testing.assert_allclose(fine.reshape(-1, 10).mean(axis=1), coarse[:, 0], rtol=1e-4)
    np.testing.assert_allclose(fine[:, 0], reach.rate_model.total(5), rtol=1e-5)


# --- defects --------------------------------------------------------------------------------


def test_defects_are_planted_at_their_share(reach):
    count = reach.units["true_defect"].value_counts()
    assert dict(count) == {
        "none": 48, "contaminated": 6, "low_rate": 3, "drifting": 1, "lost": 1, "duplicate": 1,
    }  # fmt: skip
    large = simulate_reach(n_units=400, n_trials=10)
    count = large.units["true_defect"].value_counts()
    assert dict(count) == {
        "none": 320, "contaminated": 40, "low_rate": 20, "drifting": 6, "lost": 6, "duplicate": 8,
    }  # fmt: skip
    levels = large.units["true_contamination"].value_counts()
    assert {level: levels[level] for level in (0.05, 0.1, 0.2, 0.4)} == dict.fromkeys(
        (0.05, 0.1, 0.2, 0.4), 10
    )


def test_contamination_shows_in_the_intervals_as_theory_says():
    simulation = simulate_reach(n_units=200, n_trials=300, seed=1)
    duration = simulation.interval.duration
    for level in (0.05, 0.1, 0.2, 0.4):
        rows = np.flatnonzero(simulation.units["true_contamination"] == level)
        ratio = np.median([hill_ratio(simulation.spike_times[r], duration) for r in rows])
        # Pairs with one or two foreign spikes; the foreign ones know no refractory period.
        expected = level * (1.0 - level) + level**2 / 2.0
        assert 0.6 * expected < ratio < 1.4 * expected
        share = simulation.units["true_foreign_fraction"].iloc[rows]
        np.testing.assert_allclose(share, level, atol=0.01)
    for row in clean(simulation):
        assert hill_ratio(simulation.spike_times[row], duration) == 0.0


def test_low_rate_lost_drifting_and_duplicated_units_behave_so(reach):
    units, half = reach.units, reach.interval.duration / 2
    by = {name: np.flatnonzero(units["true_defect"] == name) for name in units.true_defect.unique()}
    for row in by["low_rate"]:
        assert 0 < len(reach.spike_times[row]) / reach.interval.duration < 0.5
    for row in by["lost"]:
        assert reach.spike_times[row][-1] <= half
    for row in by["drifting"]:
        early, late = np.histogram(reach.spike_times[row], [0, half, 2 * half])[0]
        assert late < 0.8 * early
    for row in by["duplicate"]:
        source = units.index.get_loc(units["true_duplicate_of"].iloc[row])
        a, b = reach.spike_times[row], reach.spike_times[source]
        assert abs(len(a) - len(b)) <= 0.01 * len(b)
        assert np.abs(a[:, None] - b[None, :]).min(axis=1).max() <= 0.0003 + 1e-9
        np.testing.assert_array_equal(reach.mixing.iloc[row], reach.mixing.iloc[source])


def test_every_feature_keeps_clean_units(reach):
    excited = (reach.mixing.to_numpy() > 0)[clean(reach)]
    assert excited.sum(axis=0).min() >= 2


@pytest.mark.parametrize("seed", [0, 1])
def test_quality_rules_find_the_planted_units_where_strength_allows(seed):
    from saebook.data.spikes import UnitCriteria, select_units

    simulation = simulate_reach(n_units=100, n_trials=300, seed=seed)
    criteria = UnitCriteria(labels=None)
    quality: Any = select_units(simulation.to_recording(), criteria)[1]
    truth: Any = simulation.units.loc[quality.index]
    failed = quality["isi_violations_ratio"] > 0.1
    strong = truth["true_contamination"] == 0.4
    assert failed[strong].all()
    assert (quality["verdict"] == "fail")[strong].mean() >= 0.5
    weak = truth["true_contamination"] == 0.05
    assert not (quality["verdict"] == "fail")[weak].any()
    low = truth["true_defect"] == "low_rate"
    assert not quality["kept"][low].any()
    good = (truth["true_defect"] == "none") & (truth["true_rate_hz"] > 0.6)
    assert quality["kept"][good].all()


# --- what can be recovered --------------------------------------------------------------------


def infer_features(counts: np.ndarray, weights: np.ndarray, bias: np.ndarray, width: float):
    """Nonnegative sparse features under Poisson counts with known weights (exp link)."""
    features = np.zeros((len(counts), weights.shape[1]))
    size = np.abs(weights) * np.abs(weights).sum(axis=1, keepdims=True)
    for _ in range(100):
        expected = np.exp(np.minimum(bias + features @ weights.T, 6.0)) * width
        slope = (counts - expected) @ weights - 0.5
        features = np.clip(features + slope / ((expected + 1.0) @ size), 0.0, 3.0)
    return features


def test_an_oracle_with_the_true_weights_recovers_the_features():
    simulation = simulate_reach(n_units=120, n_trials=30, seed=0)
    rows, width = clean(simulation), 0.1
    weights = simulation.mixing.to_numpy()[rows]
    bias = np.log(simulation.units["true_baseline_hz"].to_numpy()[rows])
    counts = counts_of(simulation, width)[:, rows]
    truth = simulation.binned_features(width)[: len(counts)]

    def median_correlation(found):
        used = [i for i, name in enumerate(simulation.mixing) if name != "silent"]
        pairs = [(found[:, i], truth[:, i]) for i in used]
        return np.median([np.corrcoef(a, b)[0, 1] if a.any() else 0.0 for a, b in pairs])

    assert median_correlation(infer_features(counts, weights, bias, width)) > 0.6
    wrong = np.random.default_rng(0).permutation(len(rows))
    assert median_correlation(infer_features(counts, weights[wrong], bias, width)) < 0.25


def test_dense_control_has_eight_dimensions_and_the_reach_many():
    def dimensions(simulation, share=0.95):
        log_rates = np.log(simulation.rates(0.05, rows=clean(simulation), gain=False))
        values = np.linalg.svd(log_rates - log_rates.mean(axis=0), compute_uv=False) ** 2
        return int(np.searchsorted(np.cumsum(values) / values.sum(), share)) + 1

    dense = simulate_reach(n_trials=60, kind="dense_control", defects=False)
    sparse = simulate_reach(n_trials=60, defects=False)
    assert dimensions(dense) <= 8
    assert dimensions(sparse) > 15
    assert (np.abs(dense.mixing.to_numpy()) > 0).all()
    counts = counts_of(dense, 0.02)
    assert 0.2 < bits_per_spike(counts, dense.rates(0.02, gain=False) * 0.02) < 0.5


# --- place cells ------------------------------------------------------------------------------


def test_place_recording_has_the_values_of_the_notes(place):
    assert place.n_units == 100
    assert place.interval.duration == 600.0
    assert place.step_s == 0.01
    position = place.behavior["position"].data[:, 0]
    velocity = place.behavior["velocity"].data[:, 0]
    assert position.min() >= 0
    assert position.max() <= 1
    assert (velocity < 0).mean() > 0.3
    assert 0.2 < velocity.std() < 0.37  # σ/√(2θ) = 0.283
    inside = (position[1:] > 0.02) & (position[1:] < 0.98)
    steps = np.diff(position)[inside]
    np.testing.assert_allclose(steps, velocity[1:][inside] * 0.01, atol=1e-12)
    noise = place.mixing.eq(0).all(axis=1).to_numpy()
    assert noise.sum() == 96
    assert place.units["true_baseline_hz"][noise].between(1, 5).all()


def test_place_velocity_is_an_ornstein_uhlenbeck_process():
    from saebook.data.simulate.place_cells import run_on_track

    _, velocity = run_on_track(400_000, 0.01, np.random.default_rng(0))
    speed = np.abs(velocity)  # turning round flips the sign, never the speed
    assert abs(np.sqrt((speed**2).mean()) - 0.4 / np.sqrt(2)) < 0.02
    square = velocity**2
    correlation = np.corrcoef(square[:-50], square[50:])[0, 1]
    assert abs(correlation - np.exp(-2 * 0.5)) < 0.06  # squares forget twice as fast


def test_place_cells_fire_in_their_fields_and_the_narrow_one_is_nested(place):
    position = place.behavior["position"].data[:, 0]
    frame: Any = place.features.to_frame()
    for name, centre, *_ in FIELDS:
        row = int(np.argmax(place.mixing[name]))
        where = np.interp(place.spike_times[row], place.features.timestamps, position)
        spikes, _ = np.histogram(where, np.linspace(0, 1, 21))
        time, edges = np.histogram(position, np.linspace(0, 1, 21))
        best = int(np.argmax(spikes / np.maximum(time, 1)))
        assert abs(edges[best] + 0.025 - centre) <= 0.051
    narrow, broad = frame["place_0.7_narrow"] > 0, frame["place_0.7_broad"] > 0
    assert not (narrow & ~broad).any()
    assert narrow.sum() < 0.5 * broad.sum()


def test_place_spikes_are_bernoulli_at_10_ms(place):
    counts = counts_of(place, 0.01)
    assert counts.max() == 1
    np.testing.assert_allclose(counts.mean(axis=0) / 0.01, place.units["true_rate_hz"], rtol=0.2)
    assert counts.sum() == sum(map(len, place.spike_times))


def test_place_fields_have_the_shapes_of_the_notes():
    assert [field[1] for field in FIELDS] == [0.2, 0.4, 0.7, 0.7]
    assert all(left != right for _, _, left, right, _ in FIELDS)  # split Gaussians
    broad, narrow = FIELDS[2:]
    assert broad[2] > 3 * narrow[2]
    assert broad[3] > 3 * narrow[3]


def test_true_fields_of_a_read_file_are_the_features_at_each_position(tmp_path):
    from saebook.data.simulate import simulate_session
    from saebook.data.spikes import read_recording, select_units

    path = simulate_session(tmp_path / "a.nwb", kind="place_cells", duration_s=60.0)
    recording = read_recording(path)
    run = recording.behavior["position"].data[:, 0]
    truth = recording.ground_truth
    assert truth is not None
    fields = true_fields(recording, run)
    np.testing.assert_allclose(fields, truth["features"].data, atol=1e-6)
    grid = np.linspace(0.005, 0.995, 100)
    rates: Any = true_rate_map(recording, grid)
    assert rates.shape == (100, 100)
    for name, centre, _, _, peak in FIELDS:
        cell = truth["mixing"][name].idxmax()
        assert abs(rates[cell].idxmax() - centre) <= 0.0051
        assert abs(rates[cell].max() - peak - 0.5) < 0.5
    noise = truth["mixing"].eq(0).all(axis=1).to_numpy()
    assert (rates.loc[:, noise].std() < 1e-12).all()
    kept, _ = select_units(recording)
    assert true_rate_map(kept, grid).columns.tolist() == kept.units.index.tolist()


def test_true_rate_map_is_what_the_cells_fire(place):
    position = place.behavior["position"].data[:, 0]
    grid = np.linspace(0.025, 0.975, 20)
    rates = true_rate_map(place.to_recording(), grid)
    bins = np.linspace(0, 1, 21)
    time = np.histogram(position, bins)[0] * place.step_s
    for name, *_ in FIELDS:
        row = int(np.argmax(place.mixing[name]))
        where = np.interp(place.spike_times[row], place.features.timestamps, position)
        found = np.histogram(where, bins)[0] / time
        assert np.corrcoef(found, rates.iloc[:, row])[0, 1] > 0.97


def test_fields_of_anything_else_are_refused(reach):
    with pytest.raises(RecordingError, match="no simulated place cells"):
        true_fields(reach.to_recording(), np.array([0.5]))
    changed = simulate_place_cells(duration_s=20.0).to_recording()
    assert changed.ground_truth is not None
    changed.ground_truth["features"].data[:, 0] *= 0.5
    with pytest.raises(RecordingError, match=r"place_0\.2"):
        true_fields(changed, np.array([0.5]))


# --- door ---------------------------------------------------------------------------------------


def test_same_seed_same_session_other_seed_another():
    a, b, c = (simulate_reach(n_units=20, n_trials=10, seed=s) for s in (4, 4, 5))
    for x, y in zip(a.spike_times, b.spike_times, strict=True):
        np.testing.assert_array_equal(x, y)
    assert sum(map(len, a.spike_times)) != sum(map(len, c.spike_times))
    assert json.dumps(a.parameters) == json.dumps(b.parameters)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_units": 19},
        {"n_trials": 3},
        {"seed": -1},
        {"seed": 1.5},
        {"link": "relu"},
        {"n_features": 8},
        {"kind": "maze"},
        {"session": True},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(ConfigError, match=name):
        simulate_reach(**wrong)


def test_bins_that_do_not_fit_are_refused(reach):
    for width in (0.0, -1.0, 1e6):
        with pytest.raises(ConfigError, match="bin_size_s"):
            reach.rates(width)


def test_import_is_free_of_heavy_packages():
    code = (
        "import sys, saebook.data.simulate as s; s.simulate_reach;"
        "assert not {'torch', 'pynwb', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_simulation_is_a_recording_without_a_file(reach):
    recording = reach.to_recording()
    assert recording.n_units == 60
    assert len(recording.trials) == 150
    assert recording.ground_truth["mixing"].shape == (60, 32)
    assert recording.interval == reach.interval
