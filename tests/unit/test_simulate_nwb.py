"""Simulated sessions as NWB: valid, complete, the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from saebook.data.simulate import (
    nwb,
    rebuild_simulation,
    simulate_dataset,
    simulate_reach,
    simulate_session,
)
from saebook.errors import ConfigError, RecordingError

SMALL = {
    "reach": {"n_units": 40, "n_trials": 10},
    "place_cells": {"kind": "place_cells", "duration_s": 30.0},
    "dense_control": {"kind": "dense_control", "n_units": 20, "n_trials": 8},
}


def open_h5(path: Path) -> Any:
    return h5py.File(path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module", params=list(SMALL))
def file(request, tmp_path_factory) -> Path:
    return simulate_session(tmp_path_factory.mktemp("nwb") / "a.nwb", **SMALL[request.param])


def messages(path: Path) -> list[tuple[str | None, str | None]]:
    from nwbinspector import inspect_nwbfile

    found = inspect_nwbfile(nwbfile_path=str(path))
    return [(m.check_function_name, m.object_name) for m in found if m is not None]


@pytest.mark.filterwarnings("ignore")
def test_inspector_has_no_message(file):
    assert messages(file) == []


def test_validator_finds_no_error(file):
    import pynwb

    assert pynwb.validate(path=str(file)) == []


def test_everything_is_in_the_file(file):
    from pynwb import NWBHDF5IO

    make_io: Any = NWBHDF5IO
    with make_io(str(file), "r") as io:
        read = io.read()
        assert "imulated" in read.session_description
        parameters = json.loads(read.notes)
        assert parameters["seed"] == 0
        assert read.subject.subject_id == "simulated-0"
        assert read.units.resolution == 1 / 30_000
        columns = {"spike_times", "obs_intervals", "electrodes", "KSLabel", "true_defect"}
        assert columns | {"true_contamination", "true_refractory_s"} <= set(read.units.colnames)
        assert "location" in read.electrodes.colnames
        truth = read.processing["misc"]
        names = json.loads(truth["ground_truth_features"].comments)
        assert truth["ground_truth_features"].data.shape[1] == len(names)
        mixing = truth["ground_truth_mixing"].to_dataframe()
        assert list(mixing.columns) == ["unit", *names]
        np.testing.assert_array_equal(mixing["unit"], read.units.id[:])
        start, stop = read.units["obs_intervals"][0][0]
        assert all(start <= t[0] and t[-1] <= stop for t in read.units["spike_times"][:] if len(t))
        assert "Position" in read.processing["behavior"].data_interfaces
        if parameters["kind"] != "place_cells":
            assert {"go_time", "movement_onset_time", "direction", "outcome"} <= set(
                read.trials.colnames
            )


def test_file_and_memory_agree(file):
    simulation = rebuild_simulation(file)
    with open_h5(file) as h5:
        times = h5["units/spike_times"][:]
        np.testing.assert_array_equal(times, np.concatenate(simulation.spike_times))
        features = h5["processing/misc/ground_truth_features/data"][:]
        np.testing.assert_array_equal(features, simulation.features.data)


def test_reader_gets_trains_trials_behaviour_and_truth(file):
    from saebook.data.spikes import read_recording

    simulation, recording = rebuild_simulation(file), read_recording(file)
    assert len(recording.faults) == 0
    assert recording.interval == simulation.interval
    assert recording.interval_source == "obs_intervals"
    for a, b in zip(recording.spike_times, simulation.spike_times, strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(recording.behavior) == set(simulation.behavior)
    for name, series in simulation.behavior.items():
        np.testing.assert_allclose(recording.behavior[name].timestamps, series.timestamps)
        np.testing.assert_array_equal(recording.behavior[name].data, series.data)
    truth = recording.ground_truth
    assert truth is not None
    assert tuple(truth["features"].columns) == tuple(simulation.features.columns)
    np.testing.assert_array_equal(truth["mixing"].to_numpy(), simulation.mixing.to_numpy())
    assert truth["mixing"].index.tolist() == simulation.units.index.tolist()
    assert truth["units"]["true_defect"].tolist() == simulation.units["true_defect"].tolist()


@pytest.mark.parametrize("kind", list(SMALL))
def test_same_seed_same_bytes_in_another_process(kind, tmp_path):
    first = simulate_session(tmp_path / "a.nwb", **SMALL[kind])
    code = (
        "from saebook.data.simulate import simulate_session;"
        f"simulate_session({str(tmp_path / 'b.nwb')!r}, **{SMALL[kind]!r})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert sha256(first) == sha256(tmp_path / "b.nwb")
    other = simulate_session(tmp_path / "c.nwb", seed=1, **SMALL[kind])
    assert sha256(first) != sha256(other)


def test_existing_files_are_kept_replaced_or_refused_as_asked(tmp_path):
    path, small = tmp_path / "a.nwb", SMALL["reach"]
    simulate_session(path, **small)
    with pytest.raises(RecordingError, match="exists"):
        simulate_session(path, **small)
    before = path.stat().st_mtime_ns
    simulate_session(path, overwrite="if_changed", **small)
    assert path.stat().st_mtime_ns == before
    simulate_session(path, overwrite="if_changed", seed=1, **small)
    assert rebuild_simulation(path).parameters["seed"] == 1
    simulate_session(path, overwrite=True, seed=2, **small)
    assert rebuild_simulation(path).parameters["seed"] == 2


def test_a_file_that_is_no_simulation_is_never_replaced_by_if_changed(tmp_path):
    path = tmp_path / "precious.nwb"
    path.write_bytes(b"somebody's data")
    with pytest.raises(RecordingError, match="no simulated recording"):
        simulate_session(path, overwrite="if_changed", **SMALL["reach"])
    assert path.read_bytes() == b"somebody's data"
    with pytest.raises(RecordingError, match="no session"):
        rebuild_simulation(path)


def test_a_failed_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        nwb.write_simulation(simulate_reach(n_units=20, n_trials=8), tmp_path / "a.nwb")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          check=True, capture_output=True, text=True)  # fmt: skip
    dead = tmp_path / f".a.nwb.partial-{done.stdout.strip()}"
    alive = tmp_path / f".a.nwb.partial-{os.getppid()}"
    for left in (dead, alive):
        left.write_bytes(b"half")
    simulate_session(tmp_path / "a.nwb", n_units=20, n_trials=8)
    assert not dead.exists()
    assert alive.exists()


def test_unknown_kind_and_suffix_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="maze"):
        simulate_session(tmp_path / "a.nwb", kind="maze")
    with pytest.raises(ConfigError, match=r"\.nwb"):
        simulate_session(tmp_path / "a.h5")
    with pytest.raises(ConfigError, match="overwrite"):
        simulate_session(tmp_path / "a.nwb", overwrite="maybe")  # type: ignore[arg-type]


def test_a_dataset_shares_units_within_an_animal_only(tmp_path):
    paths = simulate_dataset(tmp_path, n_animals=2, n_sessions=2, n_units=20, n_trials=8)
    assert [p.name for p in paths] == [f"animal{a}_session{s}.nwb" for a in (0, 1) for s in (0, 1)]
    ids, subjects = [], []
    for path in paths:
        with open_h5(path) as h5:
            ids.append(set(h5["units/id"][:]))
            subjects.append(h5["general/subject/subject_id"].asstr()[()])
    assert len(ids[0] & ids[1]) == 12
    assert subjects == ["simulated-0", "simulated-0", "simulated-1", "simulated-1"]


@pytest.mark.slow
def test_an_hour_of_400_units_fits_in_2_gb(tmp_path):
    import resource

    path = simulate_session(tmp_path / "big.nwb", n_units=400, n_trials=986)
    with open_h5(path) as h5:
        assert h5["units/spike_times"].shape[0] > 5_000_000
        assert 3400 < h5["units/obs_intervals"][0, 1] < 3800
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2e6
