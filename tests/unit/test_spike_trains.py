"""Checks of spike trains, and recordings made from arrays."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saebook.data.spikes import Interval, Recording, Series
from saebook.data.spikes.trains import check_train, drop_duplicates, not_in_seconds
from saebook.errors import RecordingError, RecordingWarning

times = hnp.arrays(
    np.float64,
    st.integers(0, 30),
    elements=st.floats(-10, 100, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]),
)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ([], "empty train"),
        ([1.0, 0.5, 2.0], "unsorted: 1 of 2 intervals is negative, first at spike 1"),
        ([3.0, 2.0, 1.0], "unsorted: 2 of 2 intervals are negative"),
        ([0.1, np.nan, 0.2], "1 of 3 spike times not finite, first at spike 1 (nan)"),
        ([np.nan], "1 of 1 spike times not finite"),
        ([0.1, np.inf], "1 of 2 spike times not finite"),
        ([-np.inf, 0.1], "first at spike 0 (-inf)"),
        ([np.inf, np.inf], "2 of 2 spike times not finite"),
    ],
)
def test_fault_of_a_train_is_named(train: list[float], words: str) -> None:
    check = check_train(np.array(train))
    assert check.fault is not None and words in check.fault
    assert not check.ordered


def test_train_past_the_end_is_a_fault_but_a_rounded_last_spike_is_not() -> None:
    train = np.array([0.5, 9.9, 10.0005, 10.002, 11.0])
    check = check_train(train, end=10.0)
    assert check.fault == "2 of 5 spikes past the recording's end (last at 11 s, end 10 s)"
    assert check.ordered
    assert check_train(train[:3], end=10.0).fault is None
    assert check_train(train).fault is None


def test_odd_but_usable_trains_are_counted() -> None:
    check = check_train(np.array([-2.0, -1.0, -1.0, 0.0, 3.0, 3.0, 3.0]))
    assert (check.fault, check.n_duplicates, check.n_negative) == (None, 3, 3)


@given(times)
def test_check_agrees_with_the_definition(train: np.ndarray) -> None:
    check = check_train(train)
    usable = len(train) > 0 and np.isfinite(train).all() and (np.sort(train) == train).all()
    assert (check.fault is None) == usable
    if usable:
        assert check.n_duplicates == len(train) - len(np.unique(train))
        assert check.n_negative == (train < 0).sum()
        np.testing.assert_array_equal(drop_duplicates(train), np.unique(train))


def poisson(rate_hz: float, seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate_hz * seconds)))


@pytest.mark.parametrize(
    ("factor", "whole", "words"),
    [
        (30_000, True, "whole numbers .*as samples at 30,000 Hz: 59"),
        (30_000, False, "days with a median rate .*as samples at 30,000 Hz"),
        (1_000, True, "whole numbers .*as milliseconds: 59"),
        (1_000, False, "no two spikes of a unit would come within"),
        (1e6, True, "whole numbers .*as microseconds"),
        (1 / 3600, False, "the median unit would fire at"),
    ],
)
def test_other_units_of_time_are_recognised(factor: float, whole: bool, words: str) -> None:
    # A refractory period of 2 ms, as any neuron has, is what tells milliseconds from seconds.
    trains = [poisson(5, 600, seed) for seed in range(4)]
    trains = [t[np.r_[True, np.diff(t) > 0.002]] * factor for t in trains]
    if whole:
        trains = [np.round(t) for t in trains]
    evidence = not_in_seconds(trains)
    assert evidence is not None
    with pytest.raises(RecordingError, match=words) as error:
        Recording.from_spike_times(trains)
    assert "times_in_seconds=True" in str(error.value)
    assert "not in seconds" in str(error.value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        recording = Recording.from_spike_times(trains, times_in_seconds=True)
    assert any("on request" in note for note in recording.notes)


@pytest.mark.parametrize(
    "trains",
    [
        [poisson(0.02, 7200, 0), poisson(0.003, 7200, 1)],
        [poisson(120, 30, 0)],
        [poisson(0.004, 200_000, seed) for seed in range(5)],
        [poisson(5, 20 * 86_400, 0)[:20_000]],
        [np.array([1.0, 2.0, 3.0])],
        [np.array([5.0])],
    ],
    ids=["quiet", "fast", "two quiet days", "long", "few whole seconds", "one spike"],
)
def test_plausible_seconds_pass(trains: list[np.ndarray]) -> None:
    assert not_in_seconds(trains) is None


def test_claiming_other_units_is_refused() -> None:
    with pytest.raises(RecordingError, match="Convert the spike times first"):
        Recording.from_spike_times([[0.1, 0.2]], times_in_seconds=False)


def test_faulty_units_are_set_aside_with_their_reason() -> None:
    trains = [[0.1, 0.2], [0.3, 0.1], [], [0.4, np.nan], [0.5, 2.0], [0.6]]
    with pytest.warns(RecordingWarning, match=r"mouse: 4 of 6 units set aside .unit b: unsorted"):
        recording = Recording.from_spike_times(
            trains, unit_ids=list("abcdef"), interval=(0, 1), session="mouse"
        )
    assert recording.units.index.tolist() == ["a", "f"]
    assert recording.units["file_row"].tolist() == [0, 5]
    assert recording.faults.index.tolist() == ["b", "c", "d", "e"]
    assert recording.faults["file_row"].tolist() == [1, 2, 3, 4]
    reasons = recording.faults["reason"].tolist()
    for reason, word in zip(reasons, ["unsorted", "empty", "not finite", "past"], strict=True):
        assert word in reason
    with pytest.raises(RecordingError, match=r"4 of 6 units are faulty .*strict=False"):
        Recording.from_spike_times(trains, interval=(0, 1), strict=True)


def test_nothing_usable_is_an_error() -> None:
    with pytest.raises(RecordingError, match=r"none of its 2 units can be used .*empty"):
        Recording.from_spike_times([[], []])
    with pytest.raises(RecordingError, match="no units"):
        Recording.from_spike_times([])


def test_duplicates_are_counted_and_dropped_on_request() -> None:
    trains = [[0.1, 0.1, 0.2, 0.2, 0.2], [0.3, 0.4]]
    with pytest.warns(RecordingWarning, match="3 duplicate spikes .*drop_duplicates=True"):
        kept = Recording.from_spike_times(trains)
    assert kept.n_spikes == 7
    assert kept.units["n_duplicate_spikes"].tolist() == [3, 0]
    with pytest.warns(RecordingWarning, match="dropped"):
        dropped = Recording.from_spike_times(trains, drop_duplicates=True)
    assert [t.tolist() for t in dropped.spike_times] == [[0.1, 0.2], [0.3, 0.4]]
    assert dropped.units["n_duplicate_spikes"].tolist() == [3, 0]
    assert any("3 duplicate" in note for note in dropped.notes)


def test_interval_spans_spikes_trials_and_behavior_unless_given() -> None:
    trials = pd.DataFrame({"start_time": [0.5, 3.0], "stop_time": [1.0, np.nan]})
    speed = Series("speed", np.zeros((3, 1)), np.array([2.0, np.nan, 7.5]), "m/s", ("speed",))
    recording = Recording.from_spike_times([[1.0, 4.0]], trials=trials, behavior={"speed": speed})
    assert recording.interval == Interval(0.5, 7.5)
    assert recording.interval_source == "spikes, trials and behavior"
    given_one = Recording.from_spike_times([[1.0, 4.0]], trials=trials, interval=(0, 5))
    assert (given_one.interval, given_one.interval_source) == (Interval(0, 5), "given")
    assert Recording.from_spike_times([[4397.2, 4398.0]]).interval == Interval(4397.2, 4398.0)


def test_behavior_far_longer_than_the_spikes_is_told() -> None:
    clock = Series("x", np.zeros((2, 1)), np.array([0.0, 1e9]), "cm", ("x",))
    recording = Recording.from_spike_times([[1.0, 4.0]], behavior={"x": clock})
    assert any("spikes span only 1 to 4 s" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"unit_ids": [1]}, "1 unit ids for 2"),
        ({"unit_ids": [1, 1]}, "more than once"),
        ({"units": pd.DataFrame({"a": [1]})}, "1 rows of unit properties for 2"),
        ({"interval": (1, 1)}, "start < stop"),
        ({"interval": (0, np.nan)}, "start < stop"),
        ({"trials": pd.DataFrame({"start": [0]})}, "start_time and stop_time"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        Recording.from_spike_times([[0.1], [0.2]], **arguments)


@pytest.mark.parametrize("trains", [[["a"]], [[[0.1], [0.2]]], [0.5]])
def test_trains_that_are_not_lists_of_numbers_are_refused(trains: list) -> None:
    with pytest.raises(RecordingError, match="unit 0"):
        Recording.from_spike_times(trains)


def test_keep_takes_units_and_shares_the_rest() -> None:
    units = pd.DataFrame({"label": ["good", "mua", "good"]}, index=[5, 6, 7])
    recording = Recording.from_spike_times([[0.1], [0.2], [0.3]], units=units, interval=(0, 1))
    kept = recording.keep(units["label"] == "good")
    assert kept.units.index.tolist() == [5, 7]
    assert kept.units["file_row"].tolist() == [0, 2]
    assert kept.spike_times[1] is recording.spike_times[2]
    assert recording.n_units == 3
    for mask in ([True, False], [0, 2], [1, 0, 1]):
        with pytest.raises(RecordingError, match="one boolean per unit"):
            recording.keep(mask)


def test_summary_names_what_a_reader_needs() -> None:
    with pytest.warns(RecordingWarning):
        recording = Recording.from_spike_times(
            [[0.1, 0.2], []], unit_ids=[1, "<b>"], interval=(0, 10), session="s1"
        )
    text, page = repr(recording), recording._repr_html_()
    for words in ("s1", "1 (1 set aside)", "0.0 to 10.0 s", "median 0.20 Hz", "empty train"):
        assert words in text and words in page
    assert "<b>" in text and "<b>" not in page


@settings(max_examples=60)
@given(st.lists(times, min_size=1, max_size=6))
def test_no_unusable_spike_passes(trains: list[np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        try:
            recording = Recording.from_spike_times(trains, times_in_seconds=True)
        except RecordingError as error:
            assert "none of its" in str(error)
            return
    rows = [*recording.units["file_row"], *recording.faults["file_row"]]
    assert sorted(rows) == list(range(len(trains)))
    assert recording.faults["reason"].str.len().gt(0).all()
    for row, train in zip(recording.units["file_row"], recording.spike_times, strict=True):
        np.testing.assert_array_equal(train, trains[row])
        assert np.isfinite(train).all() and (np.diff(train) >= 0).all() and len(train)
        assert recording.interval.start <= train[0] <= train[-1] <= recording.interval.stop
