"""Recordings become stores whose every cell can be recomputed from the file."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from saebook.data.spikes import read_recording
from saebook.data.spikes.binning import CountsWarning, bin_spikes
from saebook.data.spikes.preparing import prepare
from saebook.data.spikes.recording import Recording, Series
from saebook.data.spikes.selection import UnitCriteria
from saebook.data.spikes.session import average_in_bins, decorrelation_lag, guard_gap
from saebook.errors import ConfigError, RecordingError, RecordingWarning, SelectionError, StoreError

ANY = UnitCriteria(min_rate_hz=None, max_isi_violations=None, labels=None)
REAL = ("A8604-211122", "ibl_120s_289clusters", "kilosort_toy_15units", "linear_track")


def make_recording(
    session: str = "made", ids=range(24), seconds: float = 240.0, seed: int = 0, **kwargs
) -> Recording:
    rng = np.random.default_rng(seed)
    trains = [np.sort(rng.uniform(100, 100 + seconds, int(seconds * 4))) for _ in ids]
    return Recording.from_spike_times(
        trains, unit_ids=list(ids), interval=(100, 100 + seconds), session=session, **kwargs
    )


def some_trials(n: int = 40, length: float = 4.0, start: float = 100.0) -> pd.DataFrame:
    begins = start + np.arange(n) * 6.0
    return pd.DataFrame(
        {"start_time": begins, "stop_time": begins + length, "side": ["left", "right"] * (n // 2)}
    )


def raw_trains(path: Path) -> dict[int, np.ndarray]:
    """Read trains with h5py alone."""
    with h5py.File(path) as file:
        times, ends, ids = (
            np.asarray(file[f"units/{name}"]) for name in ("spike_times", "spike_times_index", "id")
        )
    return dict(zip(ids.tolist(), np.split(times, ends[:-1].astype(int))))


@pytest.mark.parametrize("name", REAL)
def test_counts_of_real_recordings_equal_an_independent_computation(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    path = shared_data / f"{name}.nwb"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        warnings.simplefilter("ignore", CountsWarning)
        store = prepare(path, tmp_path / "store", criteria=ANY, progress=False)
    trains = raw_trains(path)
    assert store.features["unit"].tolist() == list(trains)
    start, stop = store.provenance["sessions"][0]["interval_s"]
    n_bins = int((stop - start) // 0.05)
    edges = start + np.arange(n_bins + 1) * 0.05
    expected = np.stack([np.diff(np.searchsorted(t, edges)) for t in trains.values()], axis=1)
    found = store.array()
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert int((found != expected).sum()) == 0
    assert found.sum() == sum(((t >= edges[0]) & (t < edges[-1])).sum() for t in trains.values())
    np.testing.assert_array_equal(store.index["time"], edges[:-1])


def test_store_holds_units_splits_and_tables(tmp_path: Path) -> None:
    clock = np.arange(100.0, 340.0, 0.5)
    position = Series("hand position", np.c_[clock, -clock], clock, "cm", ("x", "y"))
    recording = make_recording(trials=some_trials(), behavior={"hand position": position})
    recording.intervals["epochs"] = pd.DataFrame({"start_time": [100.0], "stop_time": [340.0]})
    store = prepare(recording, tmp_path / "store", criteria=ANY, progress=False)
    assert (store.kind, store.d_in, len(store), store.bin_size_s) == ("counts", 24, 4800, 0.05)
    np.testing.assert_array_equal(
        store.array(), bin_spikes(recording.spike_times, 0.05, 100.0, 340.0)
    )
    assert set(store.tables) == {"quality", "trials", "intervals", "behavior_hand_position"}
    assert len(store.table("quality")) == 24
    assert store.table("trials")["side"].tolist()[:2] == ["left", "right"]
    assert set(store.table("behavior_hand_position")["session"]) == {"made"}
    np.testing.assert_array_equal(store.table("behavior_hand_position")["time"], clock)
    index = store.index
    inside = index.loc[index["trial"] == 3]
    assert inside["time"].min() == pytest.approx(118.0)
    assert len(inside) == 80
    facts = store.provenance["sessions"][0]
    assert facts["split_by"] == "trial"
    assert facts["zero_fraction"] == pytest.approx(np.mean(store.array() == 0))
    for _, rows in index.loc[(index["trial"] >= 0) & (index["split"] != "guard")].groupby("trial"):
        assert len(set(rows["split"])) == 1
    assert np.mean(index["split"] == "train") == pytest.approx(0.7, abs=0.1)


def test_few_trials_are_split_by_time(tmp_path: Path) -> None:
    recording = make_recording(trials=some_trials(10, 1.0))
    store = prepare(recording, tmp_path / "store", criteria=ANY, progress=False)
    facts = store.provenance["sessions"][0]
    assert facts["split_by"] == "time"
    assert facts["split_reason"] == "10 trials cover 4% of the bins"
    with pytest.raises(SelectionError, match='split_by="trial"'):
        prepare(make_recording(), tmp_path / "x", criteria=ANY, split_by="trial", progress=False)
    assert not (tmp_path / "x").exists()


def test_guard_spans_the_autocorrelation_of_the_population(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Population bursts of 2 s at random: the autocorrelation falls to 1/e within 2 s.
    on = np.repeat(rng.random(300) < 0.5, 40)
    slots = np.flatnonzero(on) * 0.05
    trains = [np.sort(rng.choice(slots, 900, replace=False)) + 0.01 for _ in range(20)]
    recording = Recording.from_spike_times(trains, interval=(0, 600))
    store = prepare(recording, tmp_path / "store", criteria=ANY, progress=False)
    facts = store.provenance["sessions"][0]
    assert 0.5 <= facts["guard_s"] <= 2.0
    assert facts["guard_reason"] == "autocorrelation time"
    index = store.index.loc[store.index["split"] != "guard"]
    time, split = index["time"].to_numpy(), index["split"].astype(str).to_numpy()
    change = np.flatnonzero(split[1:] != split[:-1])
    assert (time[change + 1] - time[change] - 0.05 >= facts["guard_s"] - 1e-6).all()
    assert guard_gap(np.arange(1200), 0.05)[1]["guard_reason"] == "capped"
    assert guard_gap(np.arange(1200), 0.05)[0] == pytest.approx(1.0)


def test_autocorrelation_time_of_a_known_process() -> None:
    rng = np.random.default_rng(0)
    signal = np.zeros(200_000)
    noise = rng.normal(size=len(signal))
    for i in range(1, len(signal)):
        signal[i] = 0.9 * signal[i - 1] + noise[i]
    # AR(1): 0.9^lag first falls below 1/e at lag 10.
    assert abs(decorrelation_lag(signal) - 10) <= 1


def test_gaps_in_observation_break_segments(tmp_path: Path) -> None:
    recording = make_recording()
    recording.intervals["obs_intervals"] = pd.DataFrame(
        {"start_time": [100.0, 230.02], "stop_time": [220.0, 340.0]}
    )
    store = prepare(recording, tmp_path / "store", criteria=ANY, progress=False)
    index = store.index
    assert index["segment"].unique().tolist() == [0, 1]
    time = index["time"].to_numpy()
    assert ((time < 219.96) | (time > 230.0)).all()
    assert index.loc[index["segment"] == 1, "time"].min() == pytest.approx(230.05)
    assert store.provenance["sessions"][0]["n_bins_unobserved"] == 201


def test_several_recordings_are_partitions(tmp_path: Path) -> None:
    recordings = [make_recording("same"), make_recording("same", seed=1)]
    store = prepare(recordings, tmp_path / "store", criteria=ANY, progress=False)
    assert store.partitions == ("same", "same-2")
    assert store.partition("same-2").d_in == 24
    assert [s["session"] for s in store.provenance["sessions"]] == ["same", "same-2"]


def test_matched_units_share_one_partition(tmp_path: Path) -> None:
    first = make_recording("one", ids=range(24))
    second = make_recording("two", ids=range(30, 3, -1), seed=1)
    store = prepare(
        [first, second], tmp_path / "store", criteria=ANY, match_units=True, progress=False
    )
    common = list(range(4, 24))
    assert store.partitions == ()
    assert store.features["unit"].tolist() == common
    assert store.index["session"].unique().tolist() == ["one", "two"]
    assert store.index["segment"].unique().tolist() == [0, 1]
    trains = [second.spike_times[30 - unit] for unit in common]
    np.testing.assert_array_equal(store.array()[4800:], bin_spikes(trains, 0.05, 100.0, 340.0))
    with pytest.raises(SelectionError, match="no unit id"):
        prepare(
            [first, make_recording("far", ids=range(100, 124))],
            tmp_path / "none",
            criteria=ANY,
            match_units=True,
            progress=False,
        )
    assert not (tmp_path / "none").exists()


def test_reports_what_it_skips(tmp_path: Path) -> None:
    broken = tmp_path / "broken.nwb"
    broken.write_bytes(b"not a recording")
    sources = [broken, make_recording("good")]
    store = prepare(sources, tmp_path / "store", criteria=ANY, on_error="report", progress=False)
    assert store.partitions == ("good",)
    (skipped,) = store.provenance["skipped"]
    assert skipped["source"] == str(broken)
    assert "broken.nwb" in skipped["reason"]
    with pytest.raises(RecordingError, match=r"broken\.nwb"):
        prepare(sources, tmp_path / "other", criteria=ANY, progress=False)
    with pytest.raises(SelectionError, match="none of 1 recordings"):
        prepare([broken], tmp_path / "other", on_error="report", progress=False)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["broken.nwb", "store"]


def test_usable_files_of_a_folder_run_and_the_rest_is_listed(
    shared_data: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        warnings.simplefilter("ignore", CountsWarning)
        store = prepare(
            sorted(shared_data.glob("*.nwb")), tmp_path / "all", on_error="report", progress=False
        )
    assert set(REAL) <= set(store.partitions)
    skipped = {Path(entry["source"]).name for entry in store.provenance["skipped"]}
    assert {"bad_plain_hdf5.nwb", "bad_truncated.nwb", "no_units_ttl.nwb"} <= skipped
    facts = {entry["session"]: entry for entry in store.provenance["sessions"]}
    assert facts["linear_track"]["sha256"].startswith("0564b00c")
    assert facts["linear_track"]["origin_s"] > 4397


def test_existing_store_is_not_touched(tmp_path: Path) -> None:
    prepare(make_recording(), tmp_path / "store", criteria=ANY, progress=False)
    with pytest.raises(StoreError, match="exists"):
        prepare(make_recording(), tmp_path / "store", criteria=ANY, progress=False)
    store = prepare(
        make_recording(seconds=200.0),
        tmp_path / "store",
        criteria=ANY,
        overwrite=True,
        progress=False,
    )
    assert len(store) == 4000


def test_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    from saebook.data.store import StoreWriter

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(StoreWriter, "add_table", full)
    with pytest.raises(OSError, match="no space"):
        prepare(make_recording(), tmp_path / "store", criteria=ANY, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_warns_when_too_small_and_says_what_would_help(tmp_path: Path) -> None:
    with pytest.warns(CountsWarning, match=r"5 units × 480 bins .* PCA.*recording of at least"):
        prepare(
            make_recording(ids=range(5), seconds=24.0),
            tmp_path / "store",
            criteria=ANY,
            progress=False,
        )


def test_rate_floor_is_named_where_it_would_bring_units_back(
    shared_data: Path, tmp_path: Path
) -> None:
    recording = read_recording(shared_data / "linear_track.nwb")
    with pytest.warns(CountsWarning, match=r"min_rate_hz=0\.05.* brings back 14 units"):
        prepare(recording, tmp_path / "store", progress=False)


def test_features_are_averaged_in_bins() -> None:
    stamps = np.arange(0.0, 1.0, 0.01)
    series = Series("z", np.c_[stamps, np.ones(100)], stamps, "a.u.", ("ramp", "one"))
    time = np.arange(4) * 0.25
    found = average_in_bins(series, time, 0.25)
    assert found["ramp"].to_numpy() == pytest.approx([0.12, 0.37, 0.62, 0.87])
    assert set(found["one"]) == {1.0}
    slow = Series("z", np.array([[0.0], [1.0]]), np.array([0.0, 1.0]), "a.u.", ("x",))
    assert average_in_bins(slow, time, 0.25)["x"].to_numpy()[1:] == pytest.approx(
        [0.375, 0.625, 0.875]
    )


def test_truth_of_kept_units_goes_along(tmp_path: Path) -> None:
    recording = make_recording()
    stamps = np.arange(100.0, 340.0, 0.01)
    recording.ground_truth = {
        "features": Series("features", np.c_[stamps % 1], stamps, "a.u.", ("phase",)),
        "mixing": pd.DataFrame({"phase": np.arange(24.0)}, index=recording.units.index),
        "units": pd.DataFrame({"contamination": np.zeros(24)}, index=recording.units.index),
    }
    kept = recording.keep(np.arange(24) % 2 == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CountsWarning)
        store = prepare(kept, tmp_path / "store", criteria=ANY, progress=False)
    assert store.table("ground_truth_mixing")["unit"].tolist() == list(range(0, 24, 2))
    assert store.table("ground_truth_mixing")["phase"].tolist() == list(range(0, 24, 2))
    features = store.table("ground_truth_features")
    assert len(features) == len(store)
    np.testing.assert_array_equal(features["time"], store.index["time"])


@pytest.mark.parametrize(
    "bad",
    [
        {"on_error": "ignore"},
        {"split_by": "bin"},
        {"guard_s": -1.0},
        {"fractions": (0.5, 0.5)},
        {"fractions": (0.5, 0.5, 0.5)},
        {"seed": -1},
    ],
)
def test_refuses_settings(tmp_path: Path, bad: dict) -> None:
    with pytest.raises(ConfigError):
        prepare(
            make_recording(),
            tmp_path / "store",
            criteria=ANY,
            progress=False,
            **{"on_error": "report", **bad},
        )
    with pytest.raises(ConfigError, match="at least one"):
        prepare([], tmp_path / "store")


def test_same_seed_same_store(tmp_path: Path) -> None:
    stores = [
        prepare(make_recording(), tmp_path / name, criteria=ANY, seed=3, progress=False)
        for name in ("a", "b")
    ]
    assert stores[0].index.equals(stores[1].index)
    shards = [store.manifest["shards"] for store in stores]
    assert shards[0] == shards[1]
