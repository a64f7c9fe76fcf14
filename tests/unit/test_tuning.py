"""Choosing and testing one latent: analytic answers, and nulls that stay null."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saebook.data import Recording, Series, UnitCriteria, prepare
from saebook.errors import DataError
from saebook.evaluation.tuning import score_tuning, tuning_curves, tuning_r2, tuning_table
from saebook.evaluation.variables import Variable, candidate_variables

ANY_UNIT = UnitCriteria(min_rate_hz=None, max_isi_violations=None)


def stepped(group: np.ndarray, n: int, name: str = "place") -> Variable:
    return Variable(name, "continuous", group.astype(float), group, np.arange(float(n)))


def make_recording(**extra) -> Recording:
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 300, 1500)) for _ in range(24)]
    return Recording.from_spike_times(trains, interval=(0, 300), **extra)


def store_of(recording: Recording, tmp_path):
    return prepare(recording, tmp_path / "store", criteria=ANY_UNIT, progress=False)


def test_curves_leave_unknown_rows_out():
    curves = tuning_curves([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [0, 0, -1], 2)
    assert curves[0].tolist() == [2.0, 3.0]
    assert np.isnan(curves[1]).all()


def test_r2_of_curve_and_noise_is_the_ratio_of_variances():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 200_000)
    activity = 2.0 * group + rng.normal(size=len(group))
    # Variance between the groups is 1, within them 1.
    assert float(tuning_r2([0.0, 2.0], activity, group)) == pytest.approx(0.5, abs=0.01)


def test_many_groups_gain_nothing_by_chance():
    rng = np.random.default_rng(0)
    activity = rng.normal(size=(1000, 20))
    fine = stepped(rng.integers(0, 200, 1000), 200)
    table = tuning_table(activity, [fine], np.arange(1000))
    assert table["place"].to_numpy().max() < 0.0
    in_sample = tuning_r2(tuning_curves(activity, fine.group, 200), activity, fine.group)
    assert in_sample.min() > 0.1


def test_table_equals_scores_of_folds_taken_one_by_one():
    rng = np.random.default_rng(1)
    group = rng.integers(-1, 4, 500)
    activity = rng.normal(size=(500, 3)) + group[:, None] * [0.0, 0.5, 2.0]
    table = tuning_table(activity, [stepped(group, 4)], np.arange(500), n_folds=5)
    fold, known = np.arange(500) * 5 // 500, group >= 0
    predicted = np.full_like(activity, np.nan)
    for i in range(5):
        curves = tuning_curves(activity[fold != i], group[fold != i], 4)
        rows = known & (fold == i)
        predicted[rows] = curves[group[rows]]
    left = ((activity - predicted)[known] ** 2).sum(0)
    total = ((activity[known] - activity[known].mean(0)) ** 2).sum(0)
    assert table["place"].to_numpy() == pytest.approx(1 - left / total, abs=1e-10)


def test_slow_but_unrelated_signals_are_not_significant():
    # Two random walks look related to any test that takes bins as independent.
    hits = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kernel = np.ones(200) / 200
        latent, place = (np.convolve(rng.normal(size=6000), kernel, "same") for _ in range(2))
        group = np.digitize(place, np.quantile(place, [0.25, 0.5, 0.75]))
        rows = np.arange(6000)
        score = score_tuning(
            latent[:3000], latent[3000:], stepped(group, 4), rows[:3000], rows[3000:],
            bin_size_s=0.05, n_shifts=99, n_resamples=1,
        )  # fmt: skip
        hits += score.p <= 0.05
    assert hits <= 4


@pytest.mark.parametrize("kind", ["continuous", "event"])
def test_every_shift_equals_scoring_rolled_rows(kind):
    rng = np.random.default_rng(2)
    group, rows = rng.integers(-1, 4, 400), np.arange(400)
    activity = rng.normal(size=400) + group
    variable = Variable("place", kind, group * 1.0, group, np.arange(4.0))
    score = score_tuning(
        activity[:200], activity[200:], variable, rows[:200], rows[200:],
        bin_size_s=1.0, n_shifts=10_000, n_resamples=1,
    )  # fmt: skip
    curve, at, moved = tuning_curves(activity[:200], group[:200], 4), group[200:], activity[200:]
    if kind == "continuous":
        at, moved = at[at >= 0], moved[at >= 0]
    rolled = [np.roll(moved, offset) for offset in range(2, len(moved) - 1)]
    expected = [np.corrcoef(curve[at[at >= 0]], a[at >= 0])[0, 1] for a in rolled]
    assert np.sort(score.null) == pytest.approx(np.sort(expected), abs=1e-9)
    assert score.r == pytest.approx(np.corrcoef(curve[at[at >= 0]], moved[at >= 0])[0, 1])
    curves = [tuning_curves(a, at, 4) for a in rolled]
    assert np.sort(score.null_curves, axis=0) == pytest.approx(np.sort(curves, axis=0), abs=1e-9)


def test_shifts_never_bring_trials_back_into_place():
    # Windows of 20 rows in trials of 30 to 45: cut out and joined, they would repeat exactly.
    rng = np.random.default_rng(5)
    lag, activity = [], []
    for length in rng.integers(30, 46, 80):
        lag += [*range(20), *[-1] * (length - 20)]
        activity += [*(np.arange(20) < 5) * 4.0, *np.zeros(length - 20)]
    group, activity = np.array(lag), np.array(activity) + rng.normal(size=len(lag))
    go = Variable("go_time", "event", group * 1.0, group, np.arange(20.0))
    rows, half = np.arange(len(group)), len(group) // 2
    score = score_tuning(
        activity[:half], activity[half:], go, rows[:half], rows[half:], bin_size_s=0.05
    )
    assert score.r2 > 0.5
    assert score.p < 0.01
    assert np.quantile(score.null, 0.95) < 0.5


def test_resampling_every_stretch_once_gives_the_score():
    rng = np.random.default_rng(3)
    group, rows = rng.integers(0, 2, 4000), np.arange(4000)
    activity = rng.normal(size=4000) + group
    score = score_tuning(
        activity[:2000], activity[2000:], stepped(group, 2), rows[:2000], rows[2000:],
        bin_size_s=0.1, n_resamples=2000,
    )  # fmt: skip
    assert score.low < score.r2 < score.high
    assert np.mean(score.resampled) == pytest.approx(score.r2, abs=0.01)


def test_two_signals_are_resampled_on_the_same_stretches():
    rng = np.random.default_rng(4)
    place = np.convolve(rng.normal(size=3000), np.ones(30) / 30, "same")
    group = np.digitize(place, [-0.1, 0.0, 0.1])
    fast = group + rng.normal(size=3000)
    # Slower by itself, so that its own autocorrelation would give longer stretches.
    slow = fast + np.convolve(rng.normal(size=3000), np.ones(200) / 200, "same")
    rows, variable = np.arange(3000), stepped(group, 4)
    resampled = [
        score_tuning(
            a[:1500], a[1500:], variable, rows[:1500], rows[1500:], bin_size_s=0.05
        ).resampled
        for a in (fast, slow)
    ]
    assert np.corrcoef(resampled[0], resampled[1])[0, 1] > 0.9


def test_too_few_rows_give_no_p():
    group = np.arange(40) % 2
    rows = np.arange(40)
    score = score_tuning(
        group[:30], group[30:], stepped(group, 2), rows[:30], rows[30:], bin_size_s=1.0
    )
    assert score.r2 == pytest.approx(1.0)
    assert np.isnan(score.p)


def test_a_variable_never_known_on_test_rows_scores_nothing():
    group = np.r_[np.arange(100) % 2, np.full(50, -1)]
    rows = np.arange(150)
    activity = np.ones(150) * rows
    score = score_tuning(
        activity[:100], activity[100:], stepped(group, 2), rows[:100], rows[100:], bin_size_s=1.0
    )
    assert np.isnan(score.r2)
    assert np.isnan(score.p)


def test_activity_of_another_length_is_named():
    with pytest.raises(DataError, match="for 5 rows"):
        tuning_table(np.ones((4, 2)), [], np.arange(5))


def test_without_behaviour_only_the_population_is_left(tmp_path):
    recording = make_recording()
    (variable,) = candidate_variables(recording, store_of(recording, tmp_path))
    assert (variable.name, variable.kind) == ("population rate", "population")


def test_motion_and_events_land_in_the_right_groups(tmp_path):
    time = np.arange(0.005, 300, 0.01)
    angle = 2 * np.pi * time / 10
    velocity = Series("velocity", np.c_[np.cos(angle), np.sin(angle)], time, "m/s", ("x", "y"))
    trials = pd.DataFrame(
        {
            "start_time": np.arange(0.0, 300, 6),
            "stop_time": np.arange(5.0, 305, 6),
            "go_time": np.arange(2.0, 302, 6),
            "side": ["left", "right"] * 25,
        }
    )
    recording = make_recording(trials=trials, behavior={"velocity": velocity})
    store = store_of(recording, tmp_path)
    variables = {v.name: v for v in candidate_variables(recording, store)}
    # Its speed is constant, so no latent can be named after it.
    assert set(variables) == {
        "velocity x", "velocity y", "velocity direction", "start_time", "start_time, by side",
        "go_time", "go_time, by side",
    }  # fmt: skip
    bins = store.index["time"].to_numpy()
    off = variables["velocity direction"].values - np.degrees(2 * np.pi * (bins + 0.025) / 10)
    assert np.abs((off + 180) % 360 - 180).max() < 1.0
    go = variables["go_time, by side"]
    (row,) = np.flatnonzero(np.isclose(bins, 8.0))
    # The second trial goes at 8 s: side "right", the step from 0.0 to 0.1 s.
    assert go.conditions == ("left", "right")
    assert go.group[row] == len(go.centres) + 5
    assert go.group[np.flatnonzero(np.isclose(bins, 6.0))[0]] == -1


def test_gaps_of_a_signal_are_unknown_outside_its_clock(tmp_path):
    time = np.arange(100, 200, 0.02)
    signal = Series("pupil", np.sin(time)[:, None], time, "mm", ("pupil",))
    signal.data[10] = np.nan
    recording = make_recording(behavior={"pupil": signal})
    store = store_of(recording, tmp_path)
    (pupil,) = candidate_variables(recording, store)
    bins = store.index["time"].to_numpy()
    assert (pupil.group[bins < 99.9] == -1).all()
    assert np.isfinite(pupil.values[(bins > 101) & (bins < 199)]).all()
    assert pupil.axis == "pupil (mm)"
