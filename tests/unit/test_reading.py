"""Reading NWB files: real ones, written ones, and broken ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saebook.data.spikes import Interval, read_recording
from saebook.errors import RecordingError, RecordingWarning

# Their classes are built when they are imported, so a type checker can't know them.
pynwb: Any = import_module("pynwb")
hdmf_common: Any = import_module("hdmf.common")


def new_file() -> Any:
    return pynwb.NWBFile("a test", "test", datetime(2026, 1, 1, tzinfo=UTC))


def write(file: Any, path: Path) -> Path:
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def edit(path: Path) -> Any:
    return h5py.File(path, "a")


def write_trains(path: Path, trains: list[np.ndarray], ids: list[int] | None = None) -> Path:
    file = new_file()
    for i, train in enumerate(trains):
        file.add_unit(spike_times=train, id=i if ids is None else ids[i])
    return write(file, path)


def quiet(path: Path, **kwargs: Any):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        return read_recording(path, **kwargs)


# Real recordings


@pytest.mark.parametrize(
    ("name", "n_units", "n_spikes", "start", "stop", "source"),
    [
        ("A8604-211122", 3, 21_354, 0.0, 1087.5, "spikes and epochs"),
        ("ibl_120s_289clusters", 289, 124_905, 0.0, 120.0, "spikes and trials"),
        ("kilosort_toy_15units", 15, 94_565, 0.3, 4475.9, "spikes"),
        ("linear_track", 31, 28_829, 4397.0, 6379.5, "spikes and behavior"),
        ("edge_quality_columns", 7, 12_501, 0.0, 120.0, "spikes"),
    ],
)
def test_real_file_reads_whole(
    shared_data: Path, name: str, n_units: int, n_spikes: int, start, stop, source: str
) -> None:
    recording = quiet(shared_data / f"{name}.nwb")
    assert (recording.n_units, recording.n_spikes) == (n_units, n_spikes)
    assert recording.interval.start == pytest.approx(start, abs=0.1)
    assert recording.interval.stop == pytest.approx(stop, abs=0.1)
    assert recording.interval_source == source
    assert recording.session == name


def test_trains_are_what_pynwb_gives_unit_by_unit(shared_data: Path) -> None:
    path = shared_data / "ibl_120s_289clusters.nwb"
    recording = read_recording(path)
    with pynwb.NWBHDF5IO(str(path), "r") as io:
        units = io.read().units
        for row in range(0, 289, 17):
            np.testing.assert_array_equal(
                recording.spike_times[row], units.get_unit_spike_times(row)
            )
        np.testing.assert_array_equal(recording.units["cluster_id"], units["cluster_id"].data[:])
    base = recording.spike_times[0].base
    assert base is not None
    assert all(train.base is base for train in recording.spike_times)


def test_late_clock_stays_and_its_slip_is_told(shared_data: Path) -> None:
    recording = read_recording(shared_data / "linear_track.nwb")
    assert min(train[0] for train in recording.spike_times) == pytest.approx(4397.0, abs=1)
    position = recording.behavior["led_position"]
    assert (position.data.shape, position.unit, position.columns) == (
        (118_965, 2),
        "pixels",
        ("x", "y"),
    )
    assert any("led_position: 1 of 118965 timestamps" in note for note in recording.notes)
    assert recording.units["electrode_group"].iloc[0] == "tetrode00"
    assert "spike_times" not in recording.units


def test_bad_trains_of_a_real_file(shared_data: Path) -> None:
    path = shared_data / "edge_bad_spike_trains.nwb"
    with pytest.warns(RecordingWarning) as caught:
        recording = read_recording(path)
    told = " ".join(str(warning.message) for warning in caught)
    assert str(path) in told and "3 of 7 units set aside" in told and "1381 duplicate" in told
    assert all(warning.filename == __file__ for warning in caught)
    assert recording.units["defect"].tolist() == [
        "none",
        "every spike twice",
        "one spike",
        "a negative time",
    ]
    for word, reason in zip(["unsorted", "not finite", "empty"], recording.faults["reason"]):
        assert word in reason
    assert any("1 spikes at negative times" in note for note in recording.notes)
    with pytest.warns(RecordingWarning):
        assert len(read_recording(path, drop_duplicates=True).spike_times[1]) == 1381
    with pytest.raises(RecordingError, match="3 of 7 units are faulty"):
        read_recording(path, strict=True)


def test_empty_units_and_nan_quality_of_a_real_file(shared_data: Path) -> None:
    with pytest.warns(RecordingWarning, match="3 of 10 units set aside"):
        recording = read_recording(shared_data / "edge_quality_columns.nwb")
    assert recording.faults.index.tolist() == [2, 5, 8]
    assert np.count_nonzero(np.isnan(recording.units["isi_violations"].to_numpy())) == 1
    assert any("isi_violations: 1 of 10 values are NaN" in note for note in recording.notes)


# A session with everything


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    TimeSeries, SpatialSeries = pynwb.TimeSeries, pynwb.behavior.SpatialSeries
    VectorData = hdmf_common.VectorData
    file = new_file()
    device = file.create_device("probe")
    groups = [file.create_electrode_group(f"shank{i}", "", "CA1", device) for i in (0, 1)]
    for i, place in enumerate(["CA1", "CA1", "CA3"]):
        file.add_electrode(group=groups[i // 2], location=place)
    for name, index in (("amplitudes", True), ("quality", False), ("snr", False), ("ok", False)):
        file.add_unit_column(name, name, index=index)
    file.add_unit_column("template", "an array per unit")
    file.add_unit_column("true_contamination", "truth")
    rng = np.random.default_rng(0)
    for i in range(3):
        file.add_unit(
            id=10 * (i + 1),
            spike_times=np.sort(rng.uniform(4400, 4500, 50 + i)),
            obs_intervals=[[4397.0, 4440.0], [4450.0, 4500.0]],
            electrodes=[[0], [0, 1], [1, 2]][i],
            amplitudes=[1.0] * (i + 1),
            quality=["good", "mua", ""][i],
            snr=[1.5, 2.5, np.nan][i],
            ok=[True, False, True][i],
            template=np.zeros((4, 2)),
            true_contamination=0.1 * i,
        )
    file.add_trial_column("target", "")
    file.add_trial_column("lick_times", "", index=True)
    for start in (4400.0, 4420.0):
        file.add_trial(start_time=start, stop_time=start + 2, target="left", lick_times=[start])
    file.add_epoch(4397.0, 4450.0, ["run", "light"])
    file.add_epoch(4450.0, 4500.0, ["rest"])
    file.add_invalid_time_interval(start_time=4440.0, stop_time=4450.0)
    ripples = pynwb.epoch.TimeIntervals(name="ripples", description="events")
    ripples.add_row(start_time=4460.0, stop_time=4460.1)
    file.add_time_intervals(ripples)
    place = SpatialSeries(
        name="place",
        data=np.array([[0, 10], [20, 30]], dtype=np.int16),
        reference_frame="corner",
        timestamps=[4400.0, 4401.0],
        conversion=0.01,
        offset=1.0,
        unit="meters",
    )
    speed = TimeSeries(
        name="speed", data=np.arange(5.0), unit="m/s", rate=10.0, starting_time=4400.0
    )
    wide = TimeSeries(name="wide", data=np.zeros((5, 40)), unit="a.u.", rate=10.0)
    torn = TimeSeries(name="torn", data=np.zeros(5), unit="a.u.", rate=10.0)
    behavior = file.create_processing_module("behavior", "")
    behavior.add(pynwb.behavior.Position(spatial_series=place))
    behavior.add(pynwb.behavior.BehavioralTimeSeries(time_series=[speed]))
    behavior.add(wide)
    behavior.add(torn)
    region = file.create_electrode_table_region([0, 1, 2], "all")
    lfp = pynwb.ecephys.ElectricalSeries(
        name="lfp", data=np.zeros((5, 3)), electrodes=region, rate=1000.0
    )
    with warnings.catch_warnings():
        # pynwb would like the series in the file before its container.
        warnings.simplefilter("ignore", UserWarning)
        file.create_processing_module("ecephys", "").add(pynwb.ecephys.LFP(electrical_series=lfp))
    file.add_acquisition(
        SpatialSeries(
            name="head", data=np.zeros(2), reference_frame="room", timestamps=[4400.0, 4400.5]
        )
    )
    file.add_acquisition(TimeSeries(name="raw", data=np.zeros(10), unit="V", rate=30000.0))
    truth = file.create_processing_module("misc", "")
    truth.add(
        TimeSeries(
            name="ground_truth_features",
            data=np.arange(8.0).reshape(4, 2),
            unit="a.u.",
            rate=20.0,
            starting_time=4397.0,
            comments='["speed", "go"]',
        )
    )
    unit = VectorData(name="unit", description="id", data=[10, 20, 30])
    weights = [VectorData(name=n, description=n, data=[0.1, 0.2, 0.3]) for n in ("speed", "go")]
    truth.add(
        hdmf_common.DynamicTable(
            name="ground_truth_mixing", description="W", columns=[unit, *weights]
        )
    )
    path = write(file, tmp_path_factory.mktemp("nwb") / "session.nwb")
    with edit(path) as raw:
        # What a crashed acquisition leaves: fewer timestamps than samples.
        series = raw["processing/behavior/torn"]
        del series["starting_time"]
        series["timestamps"] = np.arange(3.0)
    return path


def test_unit_columns(session: Path) -> None:
    units = read_recording(session).units
    assert units.index.tolist() == [10, 20, 30]
    assert units["quality"].tolist() == ["good", "mua", ""]
    np.testing.assert_array_equal(units["snr"], [1.5, 2.5, np.nan])
    assert units["ok"].tolist() == [True, False, True] and units["ok"].dtype == bool
    assert units["location"].tolist() == ["CA1", "CA1", "CA1/CA3"]
    assert units["electrode_group"].tolist() == ["shank0", "shank0", "shank0/shank1"]
    assert units["file_row"].tolist() == [0, 1, 2]
    assert not {"spike_times", "obs_intervals", "electrodes", "amplitudes", "template"} & {*units}


def test_trials_and_intervals(session: Path) -> None:
    recording = read_recording(session)
    assert recording.trials is not None
    assert recording.trials["start_time"].tolist() == [4400.0, 4420.0]
    assert recording.trials["target"].tolist() == ["left", "left"]
    assert set(recording.intervals) == {"epochs", "invalid_times", "ripples", "obs_intervals"}
    assert recording.intervals["epochs"]["tags"].tolist() == ["run, light", "rest"]
    assert recording.intervals["ripples"]["stop_time"].tolist() == [4460.1]


def test_observed_interval_and_its_gap(session: Path) -> None:
    recording = read_recording(session)
    assert recording.interval == Interval(4397.0, 4500.0)
    assert recording.interval_source == "obs_intervals"
    assert recording.intervals["obs_intervals"]["stop_time"].tolist() == [4440.0, 4500.0]
    gaps = sum(((t > 4440) & (t < 4450)).sum() for t in recording.spike_times)
    assert gaps > 0
    assert any("observed in 2 pieces, 93 of 103 s" in note for note in recording.notes)
    assert any(f"{gaps} spikes of 3 units outside" in note for note in recording.notes)


def test_behavior_keeps_each_clock_and_unit(session: Path) -> None:
    behavior = read_recording(session).behavior
    assert set(behavior) == {"place", "speed", "head"}
    place, speed = behavior["place"], behavior["speed"]
    np.testing.assert_allclose(place.data, [[1.0, 1.1], [1.2, 1.3]])
    assert (place.timestamps.tolist(), place.unit) == ([4400.0, 4401.0], "meters")
    assert (place.columns, speed.columns) == (("x", "y"), ("speed",))
    np.testing.assert_allclose(speed.timestamps, 4400 + np.arange(5) / 10)
    assert speed.data.shape == (5, 1)
    assert speed.to_frame()["speed"].tolist() == [0, 1, 2, 3, 4]


def test_what_stays_in_the_file_is_named(session: Path) -> None:
    notes = " ".join(read_recording(session).notes)
    assert "acquisition/raw (10,)" in notes
    assert "wide (40 columns)" in notes
    assert "torn (5 samples and timestamps of shape (3,))" in notes


def test_ground_truth(session: Path) -> None:
    truth = read_recording(session).ground_truth
    assert truth is not None
    assert truth["features"].columns == ("speed", "go")
    np.testing.assert_array_equal(truth["features"].data, np.arange(8.0).reshape(4, 2))
    np.testing.assert_allclose(truth["features"].timestamps, 4397 + np.arange(4) / 20)
    assert truth["mixing"].index.tolist() == [10, 20, 30]
    assert truth["mixing"].columns.tolist() == ["speed", "go"]
    assert truth["units"]["true_contamination"].tolist() == [0.0, 0.1, 0.2]


def test_names_used_twice_get_their_path(session: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(session, tmp_path / "twice.nwb"))
    with edit(path) as file:
        file.copy("acquisition/head", "processing/behavior/head")
        # A link to the same object is one series, not two.
        file["processing/behavior/alias"] = h5py.SoftLink("/acquisition/head")
        file["processing/behavior/broken"] = h5py.SoftLink("/nowhere")
    behavior = read_recording(path).behavior
    assert len([name for name in behavior if name.endswith(("head", "alias"))]) == 2


# Extensions and versions

EXTENSION = """
import sys
from datetime import datetime, timezone
from pathlib import Path
import pynwb
from pynwb.spec import NWBDatasetSpec, NWBGroupSpec, NWBNamespaceBuilder

folder = Path(sys.argv[1])
builder = NWBNamespaceBuilder(doc="test", name="ndx-ours", version="0.1.0", author="a", contact="b")
for name in ("TimeIntervals", "TimeSeries", "NWBDataInterface"):
    builder.include_type(name, namespace="core")
builder.add_spec("ours.yaml", NWBGroupSpec(
    doc="laps", neurodata_type_def="Laps", neurodata_type_inc="TimeIntervals"))
builder.add_spec("ours.yaml", NWBGroupSpec(
    doc="whisker angle", neurodata_type_def="WhiskerSeries", neurodata_type_inc="TimeSeries"))
builder.export("ours.namespace.yaml", outdir=str(folder))
pynwb.load_namespaces(str(folder / "ours.namespace.yaml"))
Laps, Whiskers = (pynwb.get_class(n, "ndx-ours") for n in ("Laps", "WhiskerSeries"))

file = pynwb.NWBFile("a test", "test", datetime(2026, 1, 1, tzinfo=timezone.utc))
file.add_unit(spike_times=[0.5, 1.5, 2.5])
laps = Laps(name="laps", description="laps")
laps.add_row(start_time=0.0, stop_time=3.0)
file.add_time_intervals(laps)
module = file.create_processing_module("behavior", "b")
module.add(Whiskers(name="angle", data=[1.0, 2.0], unit="degrees", timestamps=[0.0, 1.0]))
with pynwb.NWBHDF5IO(str(folder / "extension.nwb"), "w") as io:
    io.write(file)
"""


def test_extension_loads_without_its_package(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXTENSION, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    with edit(tmp_path / "extension.nwb") as file:
        assert "ndx-ours" in file["specifications"]
        assert file["intervals/laps"].attrs["neurodata_type"] == "Laps"
    recording = read_recording(tmp_path / "extension.nwb")
    assert recording.intervals["laps"]["stop_time"].tolist() == [3.0]
    assert recording.behavior["angle"].data.ravel().tolist() == [1.0, 2.0]
    assert recording.interval == Interval(0.0, 2.5)


def test_columns_of_other_types_are_read_or_left_out(session: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(session, tmp_path / "types.nwb"))
    with edit(path) as file:
        units = file["units"]
        units["fixed"] = np.array([b"a", b"b", b"c"])
        units["place"] = np.array([1, 0, 1], dtype=np.uint8)
        file["units/place_elements"] = ["CA1", "CA3"]
        units["place"].attrs["elements"] = file["units/place_elements"].ref
        units["record"] = np.zeros(3, dtype=[("a", "f8"), ("b", "i4")])
        units["short"] = np.zeros(2)
        groups = [file[f"general/extracellular_ephys/shank{i}"].ref for i in (0, 1, 1)]
        units.create_dataset("electrode_group", data=groups, dtype=h5py.ref_dtype)
    recording = read_recording(path)
    assert recording.units["fixed"].tolist() == ["a", "b", "c"]
    assert recording.units["place"].tolist() == ["CA3", "CA1", "CA3"]
    assert recording.units["electrode_group"].tolist() == ["shank0", "shank1", "shank1"]
    assert not {"record", "short"} & {*recording.units}
    assert any("column short of units left out" in note for note in recording.notes)


@pytest.mark.parametrize("version", ["2.0b", "2.0.1", "2.2.5", "2.6.0"])
def test_older_versions_of_the_format_read(session: Path, tmp_path: Path, version: str) -> None:
    path = Path(shutil.copy(session, tmp_path / "old.nwb"))
    with edit(path) as file:
        file.attrs["nwb_version"] = version
        # Before 2.1 files often carried neither cached types nor a stated order of columns.
        del file["specifications"], file.attrs[".specloc"], file["units"].attrs["colnames"]
    assert read_recording(path).n_units == 3


# Bad input


@pytest.fixture
def edited(session: Path, tmp_path: Path) -> Callable[..., Path]:
    def copy_with(change: Callable[[Any], object]) -> Path:
        path = Path(shutil.copy(session, tmp_path / "edited.nwb"))
        with edit(path) as file:
            change(file)
        return path

    return copy_with


def replace(file: Any, name: str, data: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = data
    file[name].attrs.update(attributes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bad_truncated.nwb", "truncated, 265,382 of 442,304 bytes .*download it again"),
        ("bad_plain_hdf5.nwb", r"HDF5 file, but not NWB .*holds .*from_spike_times"),
        ("no_units_ttl.nwb", "no units table .*acquisition: DefaultTTLSignal.*read_phy"),
        ("smollm2_h15_moby_24x128.npz", "not an HDF5 file, but a zip archive"),
        ("README.md", "not an HDF5 file, but starts with b'# Test d'"),
        ("nowhere.nwb", "no such file"),
    ],
)
def test_unusable_shared_files_say_why(shared_data: Path, name: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words) as error:
        read_recording(shared_data / name)
    assert name in str(error.value)


def test_empty_files_folders_zarr_and_web_pages_say_so(tmp_path: Path) -> None:
    empty = tmp_path / "empty.nwb"
    empty.touch()
    with pytest.raises(RecordingError, match="an empty file"):
        read_recording(empty)
    with pytest.raises(RecordingError, match="a folder, not a file"):
        read_recording(tmp_path)
    zarr = tmp_path / "session.nwb.zarr"
    zarr.mkdir()
    (zarr / ".zgroup").touch()
    with pytest.raises(RecordingError, match=r"Zarr .*NWBZarrIO"):
        read_recording(zarr)
    phy = tmp_path / "phy"
    phy.mkdir()
    (phy / "spike_times.npy").touch()
    with pytest.raises(RecordingError, match="read_phy"):
        read_recording(phy)
    page = tmp_path / "page.nwb"
    page.write_text("\n<!doctype html>")
    with pytest.raises(RecordingError, match="web page"):
        read_recording(page)
    pointer = tmp_path / "pointer.nwb"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(RecordingError, match="git lfs pull"):
        read_recording(pointer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.__delitem__("units/spike_times"), "units have no spike_times .*quality"),
        (lambda f: f.__delitem__("units/spike_times_index"), "no spike_times_index"),
        (
            lambda f: replace(f, "units/spike_times_index", np.array([101, 50, 153], np.uint8)),
            r"goes backwards at row 1 \(from 101 to 50\)",
        ),
        (
            lambda f: replace(f, "units/spike_times_index", [50, 101, 200]),
            "points to 200, past the end of the 153 spike times .from row 2",
        ),
        (lambda f: replace(f, "units/spike_times_index", [50, 153]), "3 units, but .* 2 rows"),
        (lambda f: replace(f, "units/spike_times", np.zeros((153, 2))), "not one row of numbers"),
        (lambda f: replace(f, "units/spike_times", ["a"] * 153), "not one row of numbers"),
        (lambda f: f.attrs.__setitem__("nwb_version", "NWB-1.0.6"), "NWB-1.0.6.*Convert"),
        (
            lambda f: (
                [f.__delitem__(f"units/{n}") for n in ("spike_times", "spike_times_index")]
                and f["units"].__setitem__("spike_times", h5py.ExternalLink("gone.h5", "/x"))
            ),
            "units have no spike_times|can't be read",
        ),
    ],
)
def test_broken_units_are_refused(edited: Callable[..., Path], change, words: str) -> None:
    path = edited(change)
    with pytest.raises(RecordingError, match=words) as error:
        read_recording(path)
    assert str(path) in str(error.value)


def test_damage_inside_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    path = write_trains(tmp_path / "damaged.nwb", [np.arange(1, 3000) / 7.0])
    with edit(path) as file:
        times = file["units/spike_times"][:]
        del file["units/spike_times"]
        dataset = file["units"].create_dataset(
            "spike_times", data=times, chunks=(500,), compression="gzip", fletcher32=True
        )
        offset = dataset.id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"a part can't be read .*damaged"):
        read_recording(path)


def test_empty_table_of_units_is_refused(tmp_path: Path) -> None:
    path = write_trains(tmp_path / "none.nwb", [np.array([1.0])])
    with edit(path) as file:
        for name, dtype in (("id", "i8"), ("spike_times", "f8"), ("spike_times_index", "u1")):
            replace(file, f"units/{name}", np.empty(0, dtype))
    with pytest.raises(RecordingError, match="no units"):
        read_recording(path)


def test_train_past_the_observed_end_is_set_aside(edited: Callable[..., Path]) -> None:
    def late(file: Any) -> None:
        file["units/spike_times"][49] = 4600.0

    with pytest.warns(RecordingWarning, match="unit 10: 1 of 50 spikes past the recording's end"):
        recording = read_recording(edited(late))
    assert recording.units.index.tolist() == [20, 30]
    assert recording.interval == Interval(4397.0, 4500.0)
    assert recording.ground_truth is not None and len(recording.ground_truth["mixing"]) == 3


def test_without_observed_intervals_no_train_is_past_the_end(tmp_path: Path) -> None:
    path = write_trains(tmp_path / "two.nwb", [np.array([1.0, 2.0]), np.array([1.0, 900.0])])
    recording = read_recording(path)
    assert (recording.n_units, recording.interval) == (2, Interval(1.0, 900.0))


def test_unusable_observed_intervals_are_told(edited: Callable[..., Path]) -> None:
    path = edited(lambda f: f["units/obs_intervals"].__setitem__((0, 1), np.nan))
    recording = read_recording(path)
    assert recording.interval_source == "spikes, trials, epochs and behavior"
    assert any("obs_intervals are not" in note for note in recording.notes)


def test_units_observed_for_different_times_are_told(edited: Callable[..., Path]) -> None:
    path = edited(lambda f: f["units/obs_intervals"].__setitem__((0, 0), 4398.0))
    recording = read_recording(path)
    assert recording.interval == Interval(4397.0, 4500.0)
    assert any("observed for 92 to 93 s" in note for note in recording.notes)


def test_samples_are_refused_and_taken_on_request(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.integers(0, 120 * 30_000, 600)).astype(float) for _ in range(3)]
    path = write_trains(tmp_path / "samples.nwb", [np.unique(t) for t in trains])
    with pytest.raises(RecordingError, match=r"evidently not in seconds: .*30,000 Hz") as error:
        read_recording(path)
    assert str(path) in str(error.value)
    assert read_recording(path, times_in_seconds=True).n_units == 3


def test_single_precision_times_are_widened_and_told(edited: Callable[..., Path]) -> None:
    def narrow(file: Any) -> None:
        replace(file, "units/spike_times", file["units/spike_times"][:].astype(np.float32))

    recording = quiet(edited(narrow))
    assert recording.spike_times[0].dtype == np.float64
    assert any("stored as float32: steps of 0.49 ms" in note for note in recording.notes)


def test_repeated_ids_and_leftover_spikes_are_told(edited: Callable[..., Path]) -> None:
    def change(file: Any) -> None:
        file["units/id"][...] = [10, 10, 30]
        replace(file, "units/spike_times_index", [50, 101, 150])

    recording = read_recording(edited(change))
    assert recording.units.index.tolist() == [0, 1, 2]
    assert recording.n_spikes == 150
    notes = " ".join(recording.notes)
    assert "ids appear more than once" in notes and "3 spike times at the end belong to no" in notes


def test_trials_without_limits_are_told(edited: Callable[..., Path]) -> None:
    def change(file: Any) -> None:
        file["intervals/trials/stop_time"][0] = np.nan
        file["intervals/trials/stop_time"][1] = 4000.0

    recording = read_recording(edited(change))
    assert any("trials: 1 of 2 rows without" in note for note in recording.notes)


def test_incomplete_truth_is_told(edited: Callable[..., Path]) -> None:
    recording = read_recording(
        edited(lambda f: f.__delitem__("processing/misc/ground_truth_mixing"))
    )
    assert recording.ground_truth is None
    assert any("no ground truth read" in note for note in recording.notes)


def test_reading_needs_no_pynwb(session: Path) -> None:
    code = (
        "import sys; sys.modules['pynwb'] = sys.modules['torch'] = None\n"
        "from saebook.data.spikes import read_recording\n"
        "print(read_recording(sys.argv[1]).n_units)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(session)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr


# Round trip

seconds = st.floats(-100, 10_000, allow_nan=False)
trains = st.lists(st.lists(seconds, max_size=20).map(sorted), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None)
@given(trains=trains, data=st.data())
def test_round_trip_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, trains: list[list[float]], data: st.DataObject
) -> None:
    ids = data.draw(
        st.lists(st.integers(0, 999), min_size=len(trains), max_size=len(trains), unique=True)
    )
    path = tmp_path_factory.mktemp("trip") / "trip.nwb"
    written = [np.array(train, dtype=np.float64) for train in trains]
    with warnings.catch_warnings():
        # pynwb has its own opinion of empty trains.
        warnings.simplefilter("ignore", UserWarning)
        write_trains(path, written, ids)
    if not any(trains):
        with pytest.raises(RecordingError):
            quiet(path)
        return
    recording = quiet(path, times_in_seconds=True)
    assert recording.units.index.tolist() == [i for i, t in zip(ids, trains, strict=True) if t]
    assert recording.faults.index.tolist() == [i for i, t in zip(ids, trains, strict=True) if not t]
    for row, train in zip(recording.units["file_row"], recording.spike_times, strict=True):
        np.testing.assert_array_equal(train, written[row])
    every = np.concatenate(written)
    assert recording.interval == Interval(every.min(), every.max())
