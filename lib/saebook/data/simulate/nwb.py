"""Writing a simulated session as NWB, with its truth inside, the same bytes for the same seed."""

from __future__ import annotations

import glob
import json
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saebook.data.simulate.embedding import TERMS
from saebook.data.simulate.simulation import Simulation
from saebook.data.simulate.spiking import SAMPLING_RATE_HZ

# A module named after its content would get a remark from nwbinspector, which knows a fixed list
# of module names; so the truth lies in `misc`, under names of its own.
GROUND_TRUTH_MODULE = "misc"
# Sessions of one animal are one day apart.
FIRST_DAY = datetime(2025, 1, 6, 12, tzinfo=UTC)

_ABOUT = {
    "reach": {
        "species": "Macaca mulatta",
        "age": "P6Y",
        "location": "primary motor cortex",
        "device": "simulated electrode array",
        "description": "Simulated delayed centre-out reaching; no animal was involved",
        "keywords": ["simulation", "reaching", "ground truth", "sparse autoencoder"],
    },
    "place_cells": {
        "species": "Mus musculus",
        "age": "P120D",
        "location": "CA1",
        "device": "simulated silicon probe",
        "description": "Simulated running on a 1-m track; no animal was involved",
        "keywords": ["simulation", "place cells", "ground truth", "sparse autoencoder"],
    },
}
_ABOUT["dense_control"] = _ABOUT["reach"]

_UNIT_COLUMNS = {
    "KSLabel": "Label as a spike sorter would give it: mua from 30 % foreign spikes on, else good",
    "true_defect": "Planted defect: none, contaminated, low_rate, drifting, lost or duplicate",
    "true_contamination": "Planted share of spikes of other neurons in the train",
    "true_foreign_fraction": "Share of spikes of other neurons in the train as drawn",
    "true_foreign_hz": "Rate of spikes of other neurons in the train, Hz",
    "true_refractory_s": "Shortest possible interval between spikes of the neuron, s",
    "true_baseline_hz": "Rate without any feature, Hz",
    "true_rate_hz": "True mean rate of the train over the session, Hz",
    "true_drift_to": "Factor on the rate at the end of the session, reached linearly from 1",
    "true_lost_at_s": "Time after which the unit is silent, s; the end for units never lost",
    "true_duplicate_of": "Id of the unit that this one copies, or -1",
}
_TRIAL_COLUMNS = {
    "target_on_time": "Time at which the target appeared, s",
    "go_time": "Time of the go cue, s",
    "movement_onset_time": "Time at which the hand began to move, s",
    "movement_end_time": "Time at which the hand stopped, s",
    "outcome_time": "Time of reward or error signal, s",
    "delay_s": "Time from target to go cue, s",
    "reaction_s": "Time from go cue to movement onset, s",
    "movement_s": "Duration of the reach, s",
    "vigour": "Peak speed relative to the mean",
    "target": "Number of the target, counter-clockwise from the right",
    "direction": "Direction of the target, rad",
    "reach_direction": "Direction of the reach, rad",
    "outcome": "correct, or error where the hand went to a neighbouring target",
}


def write_simulation(simulation: Simulation, path: str | Path) -> Path:
    """Write a simulated session as an NWB file.

    The file appears complete or not at all, replaces one that is there, and has the same bytes
    for the same session (and the same versions of pynwb, hdmf and HDF5).

    Parameters
    ----------
    simulation
        From `simulate_reach` or `simulate_place_cells`.
    path
        Where to write it; missing folders are made.

    Returns
    -------
    Path
        `path`.
    """
    import h5py
    from pynwb import NWBHDF5IO

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not ending in .nwb, so that no search for recordings finds a half-written file.
    stem = f".{path.name}.partial-"
    _clear_abandoned(path.parent, stem)
    partial = path.with_name(f"{stem}{os.getpid()}")
    nwbfile = build_nwbfile(simulation)
    try:
        with h5py.File(partial, "w") as file, NWBHDF5IO(file=file, mode="w") as io:
            io.write(container=nwbfile)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _clear_abandoned(folder: Path, stem: str) -> None:
    """Remove what killed writers of the same file left behind."""
    for left in folder.glob(f"{glob.escape(stem)}*"):
        owner = left.name.removeprefix(stem)
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except (ValueError, PermissionError):
            continue


def build_nwbfile(simulation: Simulation) -> Any:
    """Return the session as an NWB object, identifiers fixed by its parameters."""
    from pynwb import NWBFile
    from pynwb.file import Subject

    about, parameters = _ABOUT[simulation.kind], simulation.parameters
    text = json.dumps(parameters, sort_keys=True)
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"saebook/simulate/{text}")
    day = FIRST_DAY + timedelta(days=int(parameters["session"]))
    nwbfile: Any = NWBFile(
        session_description=parameters["description"],
        identifier=str(identity),
        session_start_time=day,
        file_create_date=day,
        session_id=parameters["session_id"],
        experimenter=["Simulator, Saebook"],
        institution="none (simulated)",
        lab="none (simulated)",
        experiment_description=about["description"],
        keywords=about["keywords"],
        notes=text,
    )
    nwbfile.subject = Subject(
        subject_id=f"simulated-{parameters['animal']}",
        species=about["species"],
        age=about["age"],
        sex="U",
        description="Simulated subject",
    )
    _add_electrodes(nwbfile, simulation, about)
    _add_units(nwbfile, simulation)
    if simulation.trials is not None:
        _add_trials(nwbfile, simulation.trials)
    _add_behavior(nwbfile, simulation)
    _add_ground_truth(nwbfile, simulation)
    _fix_object_ids(nwbfile, identity)
    return nwbfile


def _add_electrodes(nwbfile: Any, simulation: Simulation, about: dict[str, Any]) -> None:
    device = nwbfile.create_device(
        name="device", description=f"A {about['device']}, sampled at 30 kHz"
    )
    group = nwbfile.create_electrode_group(
        name="array",
        description=f"All sites of the {about['device']}",
        location=about["location"],
        device=device,
    )
    for _ in range(int(np.max(simulation.units["electrode"])) + 1):
        nwbfile.add_electrode(location=about["location"], group=group)


def _add_units(nwbfile: Any, simulation: Simulation) -> None:
    from hdmf.backends.hdf5 import H5DataIO
    from hdmf.common import ElementIdentifiers, VectorData, VectorIndex
    from pynwb.misc import Units

    units, n = simulation.units, simulation.n_units
    interval = simulation.interval
    # Whole columns, not one row after another: millions of spikes would become Python floats.
    times = np.concatenate([*simulation.spike_times, np.empty(0)])
    ends = np.cumsum([len(train) for train in simulation.spike_times])
    large = {"compression": "gzip", "shuffle": True} if times.nbytes > 40e6 else {}
    spike_times = VectorData(
        name="spike_times",
        description="Spike times, s",
        data=H5DataIO(data=times, **large) if large else times,
    )
    observed = VectorData(
        name="obs_intervals",
        description="Observed span, s",
        data=np.tile([[interval.start, interval.stop]], (n, 1)),
    )
    electrodes = nwbfile.create_electrode_table_region(
        region=units["electrode"].astype(int).tolist(),
        description="Electrode on which the unit is largest",
        name="electrodes",
    )
    rows = np.arange(1, n + 1)
    columns = [
        spike_times,
        VectorIndex(name="spike_times_index", target=spike_times, data=ends),
        observed,
        VectorIndex(name="obs_intervals_index", target=observed, data=rows),
        electrodes,
        VectorIndex(name="electrodes_index", target=electrodes, data=rows),
    ]
    for name, description in _UNIT_COLUMNS.items():
        if name in units:
            columns.append(VectorData(name=name, description=description, data=_plain(units, name)))
    nwbfile.units = Units(
        name="units",
        description="Simulated units; columns that begin with true_ hold what was planted",
        id=ElementIdentifiers(name="id", data=units.index.to_numpy(np.int64)),
        columns=columns,
        resolution=1.0 / SAMPLING_RATE_HZ,
    )


def _add_trials(nwbfile: Any, trials: pd.DataFrame) -> None:
    from hdmf.common import ElementIdentifiers, VectorData
    from pynwb.epoch import TimeIntervals

    described = {
        "start_time": "Time at which the hand began to hold the centre, s",
        "stop_time": "Half a second after the outcome, s",
        **_TRIAL_COLUMNS,
    }
    nwbfile.trials = TimeIntervals(
        name="trials",
        description="Delayed centre-out reaches",
        id=ElementIdentifiers(name="id", data=np.arange(len(trials))),
        columns=[
            VectorData(name=name, description=text, data=_plain(trials, name))
            for name, text in described.items()
        ],
    )


def _add_behavior(nwbfile: Any, simulation: Simulation) -> None:
    from pynwb import TimeSeries
    from pynwb.behavior import Position, SpatialSeries

    module = nwbfile.create_processing_module("behavior", "Simulated behaviour")
    for name, series in simulation.behavior.items():
        common = {
            "name": name,
            "data": _compressed(series.data),
            "unit": series.unit,
            "starting_time": float(series.timestamps[0]),
            "rate": 1.0 / simulation.step_s,
        }
        axes = " and ".join(series.columns)
        if name.endswith("position"):
            spatial = SpatialSeries(
                description=f"Position ({axes})",
                reference_frame="origin: centre" if len(series.columns) > 1 else "origin: left end",
                **common,
            )
            module.add(Position(name="Position", spatial_series=spatial))
        else:
            module.add(TimeSeries(description=f"Signed velocity ({axes})", **common))


def _add_ground_truth(nwbfile: Any, simulation: Simulation) -> None:
    from pynwb import TimeSeries

    module = nwbfile.create_processing_module(
        GROUND_TRUTH_MODULE, "What is true of this simulated session"
    )
    features, mixing = simulation.features, simulation.mixing
    module.add(
        TimeSeries(
            name="ground_truth_features",
            description="True latent features, one column each; comments hold their names",
            comments=json.dumps(list(features.columns)),
            data=_compressed(features.data),
            unit=features.unit,
            starting_time=float(features.timestamps[0]),
            rate=1.0 / simulation.step_s,
        )
    )
    unit = mixing.index.to_numpy(np.int64)
    model = simulation.rate_model
    effective = "" if model.embedding is None else ": slope, averaged where the feature is active"
    module.add(
        _matrix(
            "ground_truth_mixing",
            "True mixing matrix, rows in the order of the units table",
            {"unit": ("Id of the unit", unit)},
            list(mixing.columns),
            mixing.to_numpy(),
            f"Weight of {{}} on the unit, before the link{effective}",
        )
    )
    if model.embedding is None:
        return
    terms = [f"{feature}_{term}" for term in TERMS for feature in mixing.columns]
    module.add(
        _matrix(
            "ground_truth_embedding",
            "Hidden terms: relu(offset + weights times features), one row each",
            {
                "term": ("Name of the hidden term", terms),
                "offset": ("Value under the relu without any feature", model.embedding.offset),
            },
            list(mixing.columns),
            model.embedding.weights,
            "Weight of {} on the hidden term",
        )
    )
    module.add(
        _matrix(
            "ground_truth_output",
            "Units before the link: bias + weights times hidden terms, in the order of the units",
            {
                "unit": ("Id of the unit", unit),
                "bias": ("Value before the link without any feature", model.bias),
            },
            terms,
            model.weights,
            "Weight of hidden term {} on the unit",
        )
    )


def _matrix(
    name: str,
    description: str,
    first: dict[str, tuple[str, Any]],
    columns: list[str],
    values: np.ndarray,
    about: str,
) -> Any:
    """A matrix as a table: some first columns, then one for each column of the matrix."""
    from hdmf.common import DynamicTable, ElementIdentifiers, VectorData

    described = [
        VectorData(name=key, description=text, data=data) for key, (text, data) in first.items()
    ]
    described += [
        VectorData(
            name=str(column),
            description=about.format(column),
            data=np.ascontiguousarray(values[:, i], dtype=np.float64),
        )
        for i, column in enumerate(columns)
    ]
    return DynamicTable(
        name=name,
        description=description,
        id=ElementIdentifiers(name="id", data=np.arange(len(values))),
        columns=described,
    )


def _compressed(data: np.ndarray) -> Any:
    from hdmf.backends.hdf5 import H5DataIO

    return H5DataIO(data=data, compression="gzip", compression_opts=2, shuffle=True)


def _plain(table: pd.DataFrame, name: str) -> Any:
    """Numbers as an array, text as a list of str: what hdmf writes without guessing."""
    values = np.asarray(table[name])
    return values if values.dtype.kind in "biuf" else [str(value) for value in values]


def _fix_object_ids(nwbfile: Any, identity: uuid.UUID) -> None:
    """Replace hdmf's random object ids by ones that follow from identity and place in the file.

    hdmf offers no argument for this on most constructors, so its private field is set.
    """
    pending, places = [(nwbfile, "")], set()
    while pending:
        container, parent = pending.pop()
        place = f"{parent}/{type(container).__name__}:{container.name}"
        if place in places:
            raise AssertionError(f"two objects at {place} would share an id")
        places.add(place)
        container._AbstractContainer__object_id = str(uuid.uuid5(identity, place))
        pending += [(child, place) for child in container.children]
