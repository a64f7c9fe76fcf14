"""A running animal on a 1-m track: four place cells among 96 noise cells, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from saebook.data.simulate.reach import VERSION
from saebook.data.simulate.settings import check_whole_numbers
from saebook.data.simulate.simulation import RateModel, Simulation
from saebook.data.spikes.recording import Interval, Series
from saebook.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from saebook.data.spikes.recording import GroundTruth, Recording

STEP_HZ = 100
TRACK_M = 1.0
THETA = 1.0
SIGMA = 0.4
NOISE_HZ = (1.0, 5.0)
BACKGROUND_HZ = 0.5
# Name, centre (m), width to the left and to the right of it (m), peak (Hz).
FIELDS = (
    ("place_0.2", 0.2, 0.05, 0.08, 25.0),
    ("place_0.4", 0.4, 0.08, 0.05, 25.0),
    ("place_0.7_broad", 0.7, 0.14, 0.10, 25.0),
    ("place_0.7_narrow", 0.7, 0.04, 0.03, 25.0),
)
NESTED_PAIR = ("place_0.7_broad", "place_0.7_narrow")
# Below this the field is exactly zero, so that features are sparse.
FIELD_FLOOR = 0.01


def place_field(position: np.ndarray, centre: float, left: float, right: float) -> np.ndarray:
    """Return a split-Gaussian place field, 1 at its centre, 0 where it falls below 1 %.

    Parameters
    ----------
    position
        Position on the track, m, any shape.
    centre, left, right
        Centre, and standard deviation to the left and to the right of it, m.

    Examples
    --------
    >>> place_field(np.array([0.1, 0.2, 0.3, 0.9]), 0.2, 0.1, 0.05).round(3).tolist()
    [0.607, 1.0, 0.135, 0.0]
    """
    width = np.where(position < centre, left, right)
    field = np.exp(-0.5 * ((position - centre) / width) ** 2)
    return np.where(field < FIELD_FLOOR, 0.0, field)


def true_fields(recording: Recording, position: np.ndarray) -> pd.DataFrame:
    """Return the true place fields of a simulated recording as functions of position.

    Parameters
    ----------
    recording
        Simulated place cells, read from their file or from `Simulation.to_recording`.
    position
        Positions on the track [n], m.

    Returns
    -------
    DataFrame
        [n, n_fields], index `position`: one column per feature, 1 at the centre of its field.

    Raises
    ------
    RecordingError
        The recording holds no simulated place cells, or those of another simulator.

    Examples
    --------
    >>> recording = simulate_place_cells(duration_s=20.0).to_recording()
    >>> true_fields(recording, np.array([0.7, 0.73])).round(3).to_numpy().tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.956, 0.607]]
    """
    features = _place_truth(recording)["features"]
    shapes = {name: shape for name, *shape, _ in FIELDS}
    run = recording.behavior["position"].data[:, 0]
    columns = {}
    for i, name in enumerate(features.columns):
        # Fields of another version of the simulator would be silently wrong.
        if not np.allclose(place_field(run, *shapes[name]), features.data[:, i], atol=1e-6):
            raise RecordingError(
                f"{recording.source}: feature {name!r} doesn't follow the field that this version "
                "simulates. Simulate the recording again."
            )
        columns[name] = place_field(np.asarray(position, float), *shapes[name])
    return pd.DataFrame(columns, index=pd.Index(position, name="position"))


def true_rate_map(recording: Recording, position: np.ndarray) -> pd.DataFrame:
    """Return the true rate of each unit of simulated place cells at each position.

    Parameters
    ----------
    recording, position
        As in `true_fields`.

    Returns
    -------
    DataFrame
        [n, n_units], Hz, index `position`, one column per unit of the recording (constant for
        noise cells).

    Raises
    ------
    RecordingError
        As in `true_fields`.

    Examples
    --------
    >>> simulation = simulate_place_cells(duration_s=20.0)
    >>> rates = true_rate_map(simulation.to_recording(), np.array([0.2, 0.28, 0.9]))
    >>> rates[simulation.mixing["place_0.2"].idxmax()].round(2).tolist()
    [25.5, 15.66, 0.5]
    """
    truth, unit = _place_truth(recording), recording.units.index
    fields = true_fields(recording, position)
    weights = truth["mixing"].loc[unit, list(fields.columns)].to_numpy()
    baseline = truth["units"].loc[unit, "true_baseline_hz"].to_numpy()
    return pd.DataFrame(fields.to_numpy() @ weights.T + baseline, index=fields.index, columns=unit)


def _place_truth(recording: Recording) -> GroundTruth:
    truth = recording.ground_truth
    names = {field[0] for field in FIELDS}
    if truth is None or not set(truth["features"].columns) <= names:
        raise RecordingError(
            f"{recording.source} holds no simulated place cells, so its fields are not known. "
            "Give a recording of simulate_session(..., kind='place_cells')."
        )
    return truth


def run_on_track(
    n_steps: int, step_s: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return position, m, and signed velocity, m/s, of the animal, each [n_steps].

    The velocity is an Ornstein-Uhlenbeck process, dv = -θ v dt + σ dW with θ = 1 /s and
    σ = 0.4; at an end of the track the animal turns round.

    Parameters
    ----------
    n_steps, step_s
        Number of steps, and their length, s.
    rng
        Source of randomness.

    Examples
    --------
    >>> position, velocity = run_on_track(1000, 0.01, np.random.default_rng(0))
    >>> bool((position >= 0).all() and (position <= 1).all() and velocity.min() < 0)
    True
    """
    position, velocity = np.empty(n_steps), np.empty(n_steps)
    keep = np.exp(-THETA * step_s)
    spread = SIGMA / np.sqrt(2.0 * THETA)
    noise = spread * np.sqrt(1.0 - keep**2) * rng.standard_normal(n_steps)
    x, v = rng.uniform(0.0, TRACK_M), spread * rng.standard_normal()
    for i in range(n_steps):
        v = keep * v + noise[i]
        x += v * step_s
        if x < 0.0 or x > TRACK_M:
            x = -x if x < 0.0 else 2.0 * TRACK_M - x
            v = -v
        position[i], velocity[i] = x, v
    return position, velocity


def simulate_place_cells(
    n_units: int = 100,
    duration_s: float = 600.0,
    seed: int = 0,
    *,
    session: int = 0,
    animal: int = 0,
) -> Simulation:
    """Simulate four place cells among noise cells, on a 1-m track, in memory.

    A broad and a narrow field share a centre: the narrow cell's feature is nested in the broad
    one's. Spikes are Bernoulli draws at 10 ms, set at the centre of their bin.

    Parameters
    ----------
    n_units
        Number of units, four of them place cells at random rows.
    duration_s
        Length of the recording, s.
    seed, animal, session
        The same values give the same recording. Units belong to the animal.

    Returns
    -------
    Simulation
        Spikes, and everything that is true of them.

    Raises
    ------
    ConfigError
        A setting is out of range.

    Examples
    --------
    >>> simulation = simulate_place_cells(duration_s=20.0)
    >>> simulation.n_units, int((simulation.mixing > 0).any(axis=1).sum())
    (100, 4)
    """
    if n_units < len(FIELDS) or duration_s < 1.0:
        raise ConfigError(
            f"n_units={n_units}, duration_s={duration_s}. "
            f"Give at least {len(FIELDS)} units and 1 s."
        )
    check_whole_numbers(0, seed=seed, session=session, animal=animal)
    rng = np.random.default_rng([seed, animal, 11])
    rows = np.sort(rng.choice(n_units, len(FIELDS), replace=False))
    bias = rng.uniform(*NOISE_HZ, n_units)
    bias[rows] = BACKGROUND_HZ
    weights = np.zeros((n_units, len(FIELDS)))
    weights[rows, np.arange(len(FIELDS))] = [field[4] for field in FIELDS]

    rng = np.random.default_rng([seed, animal, session, 12])
    step_s = 1.0 / STEP_HZ
    n_steps = round(duration_s * STEP_HZ)
    position, velocity = run_on_track(n_steps, step_s, rng)
    times = (np.arange(n_steps) + 0.5) * step_s
    names = tuple(field[0] for field in FIELDS)
    fields = [place_field(position, *field[1:4]) for field in FIELDS]
    features = np.stack(fields, axis=1).astype(np.float32)
    model = RateModel(
        features=features,
        start=0.0,
        step_s=step_s,
        link="identity",
        bias=bias,
        weights=weights,
        trial=np.zeros(n_steps, np.int32),
        gains=None,
        drift_to=np.ones(n_units),
        lost_at=np.full(n_units, n_steps * step_s),
        foreign_hz=np.zeros(n_units),
    )
    trains, rate = [], np.empty(n_units)
    for row in range(n_units):
        rates = model.total(row)
        rate[row] = rates.mean()
        trains.append(times[rng.random(n_steps) < rates * step_s])
    unit = pd.Index(np.arange(n_units), name="unit")
    units = pd.DataFrame(
        {
            "KSLabel": np.full(n_units, "good"),
            "electrode": rng.integers(0, 64, n_units),
            "true_defect": np.full(n_units, "none"),
            "true_contamination": np.zeros(n_units),
            "true_foreign_fraction": np.zeros(n_units),
            "true_refractory_s": np.full(n_units, step_s),
            "true_baseline_hz": bias,
            "true_rate_hz": rate,
        },
        index=unit,
    )
    return Simulation(
        kind="place_cells",
        spike_times=trains,
        units=units,
        mixing=pd.DataFrame(weights, index=unit, columns=list(names)),
        features=Series("features", features, times, "a.u.", names),
        trials=None,
        behavior={
            "position": Series("position", position[:, None], times, "meters", ("x",)),
            "velocity": Series("velocity", velocity[:, None], times, "m/s", ("x",)),
        },
        interval=Interval(0.0, n_steps * step_s),
        rate_model=model,
        parameters={
            "simulator": "saebook",
            "version": VERSION,
            "kind": "place_cells",
            "n_units": n_units,
            "duration_s": float(duration_s),
            "seed": seed,
            "session": session,
            "animal": animal,
            "session_id": f"place_cells-animal{animal}-session{session}-seed{seed}",
            "description": "Simulated recording: four place cells among noise cells, 1-m track",
        },
    )
