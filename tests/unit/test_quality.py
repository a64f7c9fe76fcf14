"""Measures of unit quality have their known values on trains of known contamination."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import poisson

from saebook.data.spikes.quality import (
    compare_with_file,
    contamination_llobet,
    isi_violations_fraction,
    isi_violations_ratio,
    measure_units,
    poisson_interval,
    presence_ratio,
    sorter_labels,
)
from saebook.data.spikes.recording import Recording
from saebook.errors import RecordingWarning


def test_hill_ratio_by_hand() -> None:
    # n_v T / (2 N² t_r) = 40 · 3600 / (2 · 10000² · 0.002)
    assert isi_violations_ratio(40, 10_000, 3600.0) == pytest.approx(0.36)
    assert isi_violations_ratio(40, 10_000, 3600.0, 0.001) == pytest.approx(0.72)
    assert np.isnan(isi_violations_ratio(0, 0, 3600.0))


def test_poisson_train_scores_one_half_at_any_rate() -> None:
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 2000, 2000 * rate)) for rate in (20, 50)]
    quality = measure_units(Recording.from_spike_times(trains, interval=(0, 2000)))
    # Intervals, not pairs: 1 - exp(-rate · t_r) of them are short, a little under rate · t_r.
    expected = [(1 - np.exp(-rate * 0.002)) / (rate * 0.002) / 2 for rate in (20, 50)]
    assert quality["isi_violations_ratio"].to_numpy() == pytest.approx(expected, rel=0.08)


def test_llobet_recovers_the_share_of_foreign_spikes() -> None:
    rng = np.random.default_rng(1)
    duration = 4000.0
    own = np.cumsum(0.004 + rng.exponential(0.096, 60_000))
    own = own[own < duration]
    for share in (0.1, 0.3):
        n_foreign = int(len(own) * share / (1 - share))
        train = np.sort(np.concatenate([own, rng.uniform(0, duration, n_foreign)]))
        quality = measure_units(Recording.from_spike_times([train], interval=(0, duration)))
        assert quality["contamination"].iloc[0] == pytest.approx(share, abs=0.03)


def test_llobet_past_its_domain_is_one() -> None:
    assert contamination_llobet([10_000], [1000], 100.0).tolist() == [1.0]


def test_fraction_needs_an_interval() -> None:
    assert isi_violations_fraction([2, 0, 0], [5, 1, 0])[0] == 0.5
    assert np.isnan(isi_violations_fraction([0, 0], [1, 0])).all()


@pytest.mark.parametrize("n", [0, 1, 5, 40])
def test_poisson_interval_is_exact(n: int) -> None:
    low, high = poisson_interval(n)
    assert poisson.cdf(n, high) == pytest.approx(0.025)
    if n:
        assert poisson.sf(n - 1, low) == pytest.approx(0.025)
    else:
        assert low == 0


def test_presence_ratio_counts_parts_with_a_spike() -> None:
    assert presence_ratio(np.array([5.0, 995.0]), 0.0, 1000.0) == pytest.approx(0.02)
    assert presence_ratio(np.array([1000.0]), 0.0, 1000.0) == pytest.approx(0.01)
    assert presence_ratio(np.array([]), 0.0, 1000.0) == 0.0
    # 25 s make two parts of at least 10 s.
    assert presence_ratio(np.array([1.0]), 0.0, 25.0) == 0.5
    assert presence_ratio(np.array([1.0]), 0.0, 5.0) == 1.0


def test_gaps_in_observation_are_not_silence() -> None:
    times = np.concatenate([np.arange(0, 100, 0.1), np.arange(900, 1000, 0.1)])
    recording = Recording.from_spike_times([times], interval=(0, 1000))
    assert measure_units(recording)["rate_hz"].iloc[0] == pytest.approx(2.0)
    recording.intervals["obs_intervals"] = pd.DataFrame(
        {"start_time": [0.0, 900.0], "stop_time": [100.0, 1000.0]}
    )
    quality = measure_units(recording)
    assert quality["rate_hz"].iloc[0] == pytest.approx(10.0)
    assert quality["presence_ratio"].iloc[0] == 1.0


def test_spikes_outside_the_interval_do_not_count() -> None:
    recording = Recording.from_spike_times([[-1.0, 0.5, 1.5, 2.5]], interval=(0, 3))
    recording.spike_times[0] = np.array([-1.0, 0.5, 1.5, 2.5])
    assert measure_units(recording)["n_spikes"].tolist() == [3]


def labels_of(columns: dict, words: tuple = ()) -> list[str]:
    labels = sorter_labels(pd.DataFrame(columns), words)
    assert labels is not None
    return labels.tolist()


def test_labels_in_any_case_and_empty_ones() -> None:
    assert labels_of({"kslabel": ["Good", " mua ", None]}) == ["good", "mua", ""]


@pytest.mark.parametrize("group", [["0", "1"], [0, 1], ["shank0", "shank1"]])
def test_groups_of_electrodes_are_no_labels(group: list) -> None:
    assert sorter_labels(pd.DataFrame({"group": group})) is None
    assert sorter_labels(pd.DataFrame({"quality": [0.3, 0.9]})) is None


def test_curation_decides_before_the_sorter() -> None:
    columns = {"KSLabel": ["good", "good", "mua"], "group": ["noise", "unsorted", "good"]}
    assert labels_of(columns) == ["noise", "good", "good"]


def test_own_words_for_labels() -> None:
    columns = {"quality": ["excellent", "fair"]}
    assert sorter_labels(pd.DataFrame(columns)) is None
    assert labels_of(columns, ("Excellent",)) == ["excellent", "fair"]


def test_warns_how_many_columns_disagree_and_the_largest() -> None:
    trains = [np.arange(0, 100, 1 / rate) for rate in (1.0, 2.0, 4.0)]
    units = pd.DataFrame({"firing_rate": [1.0, 3.0, 9.0]})
    recording = Recording.from_spike_times(trains, interval=(0, 100), units=units)
    with pytest.warns(
        RecordingWarning, match=r"firing_rate .* in 2 of 3 units \(largest: unit 2, 9"
    ):
        compare_with_file(measure_units(recording), recording.units, "made")


def test_nan_in_the_file_is_no_disagreement() -> None:
    units = pd.DataFrame({"isi_violations": [np.nan], "presence_ratio": [1.0]})
    recording = Recording.from_spike_times([np.arange(99.0)], interval=(0, 99), units=units)
    assert compare_with_file(measure_units(recording), recording.units, "made") == []


def test_fraction_or_ratio_in_the_file_are_both_understood() -> None:
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 500, 10_000)) for _ in range(3)]
    recording = Recording.from_spike_times(trains, interval=(0, 500))
    quality = measure_units(recording)
    for name in ("isi_violations_ratio", "isi_violations_fraction"):
        units = recording.units.assign(isi_violations=quality[name])
        assert compare_with_file(quality, units, "made") == []


def test_column_of_a_real_file_agrees(shared_data) -> None:
    from saebook.data.spikes import read_recording

    with pytest.warns(RecordingWarning, match="duplicate"):
        recording = read_recording(shared_data / "kilosort_toy_15units.nwb")
    quality = measure_units(recording)
    assert compare_with_file(quality, recording.units, "toy") == []
    np.testing.assert_allclose(
        quality["isi_violations_fraction"], recording.units["isi_violations"], atol=1e-3
    )
