"""Selection keeps and drops the right units, and says why."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import poisson

from saebook.data.spikes import read_recording
from saebook.data.spikes.recording import Recording
from saebook.data.spikes.selection import UnitCriteria, select_units
from saebook.errors import ConfigError, RecordingWarning, SelectionError


def quiet_read(path: Path) -> Recording:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        return read_recording(path)


@pytest.fixture
def four() -> Recording:
    """A regular unit, one of doublets, one that is slow, and one that stops half way."""
    regular = np.arange(0.01, 1000, 0.1)
    doublets = np.sort(np.concatenate([regular, regular + 0.001]))
    slow = np.arange(5.0, 1000, 10.0)
    lost = np.arange(0.02, 500, 0.1)
    units = pd.DataFrame({"KSLabel": ["good", "good", "mua", ""]}, index=list("abcd"))
    return Recording.from_spike_times(
        [regular, doublets, slow, lost], interval=(0, 1000), units=units
    )


def test_each_rule_removes_its_unit(four: Recording) -> None:
    kept, quality = select_units(four, UnitCriteria(min_presence_ratio=0.9))
    assert kept.units.index.tolist() == ["a"]
    assert quality["kept"].tolist() == [True, False, False, False]
    reasons = quality["reason"].to_dict()
    assert reasons["a"] == "passes every rule"
    assert reasons["b"].startswith("ISI violations ratio")
    assert reasons["c"] == "rate 0.1 Hz under 0.5 Hz; label 'mua', not good"
    assert reasons["d"] == "presence ratio 0.5 under 0.9; no label, not good"
    assert quality["verdict"].tolist() == ["pass", "fail", "undecided", "pass"]


def test_rules_switch_off(four: Recording) -> None:
    rules = UnitCriteria(min_rate_hz=None, max_isi_violations=None, labels=None)
    kept, quality = select_units(four, rules)
    assert kept.n_units == 4
    assert set(quality["reason"]) == {"passes every rule"}
    assert all(a is b for a, b in zip(kept.spike_times, four.spike_times))


def test_label_rule_only_where_there_are_labels(four: Recording) -> None:
    four.units = four.units.drop(columns="KSLabel")
    _, quality = select_units(four)
    assert quality["kept"].tolist() == [True, False, False, True]
    assert set(quality["label"]) == {""}


def test_empty_label_can_be_asked_for(four: Recording) -> None:
    kept, _ = select_units(four, UnitCriteria(labels=("good", "")))
    assert kept.units.index.tolist() == ["a", "d"]


@pytest.mark.parametrize("metric", ["ratio", "fraction", "contamination"])
def test_undecided_is_kept_unless_asked_otherwise(metric: str) -> None:
    slow = np.arange(0.5, 100, 1.0)
    slow = np.sort(np.append(slow, [10.501]))
    plenty = np.arange(0.001, 100, 0.005)
    recording = Recording.from_spike_times([slow, plenty], interval=(0, 100))
    # One violation in 101 spikes: fraction 0.01, ratio 2.45.
    limit = 0.02 if metric == "fraction" else 0.1
    rules = {"isi_metric": metric, "max_isi_violations": limit}
    kept, quality = select_units(recording, UnitCriteria(**rules))
    assert quality["verdict"].tolist() == ["undecided", "pass"]
    assert kept.n_units == 2
    kept, quality = select_units(recording, UnitCriteria(**rules, undecided="drop"))
    assert kept.n_units == 1
    assert "undecided" in quality["reason"].iloc[0]


def test_single_spike_decides_nothing() -> None:
    recording = Recording.from_spike_times([[1.0], np.arange(0.0, 10, 0.1)], interval=(0, 10))
    for metric in ("ratio", "fraction", "contamination"):
        _, quality = select_units(recording, UnitCriteria(min_rate_hz=None, isi_metric=metric))
        assert quality["verdict"].iloc[0] == "undecided"


def test_nothing_left_says_which_rule_and_what_would_help(four: Recording) -> None:
    with pytest.raises(SelectionError) as error:
        select_units(four, UnitCriteria(min_rate_hz=50.0, labels=("noise",)))
    text = str(error.value)
    assert "min_rate_hz=50.0 removed 4" in text
    assert "labels=('noise',) removed 4" in text
    assert "2 good, 1 mua, 1 (empty)" in text
    assert "hippocampus 0.05 Hz" in text
    assert "the highest rate is 20 Hz" in text


@pytest.mark.parametrize(
    "bad",
    [
        {"min_rate_hz": -1},
        {"min_rate_hz": "fast"},
        {"max_isi_violations": float("nan")},
        {"isi_threshold_s": 0},
        {"isi_threshold_s": None},
        {"isi_metric": "percent"},
        {"min_presence_ratio": 1.5},
        {"labels": "good"},
        {"labels": (1,)},
        {"undecided": "maybe"},
        {"min_rate_hz": True},
    ],
)
def test_refuses_criteria(bad: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        UnitCriteria(**bad)


def test_faulty_units_stand_in_the_table_in_file_order(shared_data: Path) -> None:
    recording = quiet_read(shared_data / "edge_quality_columns.nwb")
    kept, quality = select_units(recording)
    assert quality["file_row"].tolist() == list(range(10))
    faulty = quality.loc[quality["verdict"] == "faulty"]
    assert faulty.index.tolist() == [2, 5, 8]
    assert faulty["reason"].str.startswith("empty train").all()
    assert not faulty["kept"].any()
    assert kept.units.index.tolist() == [0, 3, 4, 6, 7]
    assert quality.loc[1, "reason"] == "label 'noise', not good"


def test_numbers_in_group_are_no_labels_in_a_real_file(shared_data: Path) -> None:
    recording = quiet_read(shared_data / "A8604-211122.nwb")
    _, quality = select_units(recording)
    assert set(quality["label"]) == {""}
    # 15 and 40 expected at random would be far fewer: these two fail beyond chance.
    assert quality["verdict"].tolist().count("fail") == 2


def test_fraction_rule_on_a_kilosort_recording(shared_data: Path) -> None:
    recording = quiet_read(shared_data / "kilosort_toy_15units.nwb")
    kept, quality = select_units(recording, UnitCriteria(isi_metric="fraction"))
    assert kept.n_units == 4
    assert quality.loc[1, "verdict"] == "fail"
    strict, _ = select_units(recording, UnitCriteria(isi_metric="ratio"))
    assert strict.n_units == 1


@pytest.mark.parametrize(
    ("file", "n_fast", "n_one_exceeds", "n_failed"),
    [("linear_track", 9, 8, 1), ("ibl_120s_289clusters", 173, 95, 2)],
)
def test_one_chance_violation_is_undecided_in_short_recordings(
    shared_data: Path, file: str, n_fast: int, n_one_exceeds: int, n_failed: int
) -> None:
    recording = quiet_read(shared_data / f"{file}.nwb")
    _, quality = select_units(recording)
    fast = quality.loc[quality["rate_hz"] >= 0.5]
    assert len(fast) == n_fast
    one = recording.interval.duration / (2 * fast["n_spikes"] ** 2 * 0.002)
    assert int((one > 0.1).sum()) == n_one_exceeds
    # Whoever fails shows more than a unit at the limit would in 97.5 % of such recordings.
    failed = fast.loc[fast["verdict"] == "fail"]
    chance = poisson.sf(failed["n_violations"] - 1, 0.1 / one.loc[failed.index])
    assert (chance < 0.025).all()
    assert len(failed) == n_failed
    short = fast.loc[one > 0.1]
    assert (short.loc[short["n_violations"] == 0, "verdict"] == "undecided").all()
    assert short.loc[short["verdict"] == "undecided", "kept"].all()
    assert not failed["kept"].any()
