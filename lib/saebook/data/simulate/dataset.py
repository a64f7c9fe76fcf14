"""Simulated sessions as files: one session, or several of several animals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from saebook.data.simulate.nwb import write_simulation
from saebook.data.simulate.place_cells import simulate_place_cells
from saebook.data.simulate.reach import DESCRIPTION, VERSION, simulate_reach
from saebook.data.simulate.settings import check_whole_numbers
from saebook.data.simulate.simulation import Simulation
from saebook.errors import ConfigError, RecordingError

KINDS = (*DESCRIPTION, "place_cells")
# In the file, but settled by the others.
_DERIVED = ("simulator", "version", "kind", "session_id", "description", "grid_hz")


def simulate_session(
    out: str | Path,
    *,
    kind: str = "reach",
    n_units: int | None = None,
    n_trials: int = 150,
    seed: int = 0,
    link: str = "exp",
    embedding: str = "linear",
    n_features: int | None = None,
    duration_s: float = 600.0,
    session: int = 0,
    animal: int = 0,
    defects: bool = True,
    overwrite: bool | Literal["if_changed"] = False,
    progress: bool = False,
) -> Path:
    """Simulate a session and write it as one NWB file with its ground truth inside.

    Parameters
    ----------
    out
        Path of the file, ending in ``.nwb``.
    kind
        "reach" (delayed centre-out), "dense_control" (the same task, dense factors) or
        "place_cells".
    n_units
        Number of units; 60, or 100 for place cells.
    n_trials, link, embedding, n_features, defects
        Of the reaches: as in `simulate_reach`.
    duration_s
        Of the place cells: length, s.
    seed, session, animal
        The same values give the same bytes.
    overwrite
        False refuses a path that exists, True replaces it. "if_changed" keeps a simulated file
        that has exactly these parameters, replaces one with others, and refuses anything else.
    progress
        Show a progress bar over units.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ConfigError
        A setting is unknown or out of range.
    RecordingError
        The path exists and may not be replaced.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = simulate_session(Path(folder) / "a.nwb", n_units=20, n_trials=8)
    ...     path.stat().st_size > 100_000
    True
    """
    path = Path(out)
    if path.suffix != ".nwb":
        raise ConfigError(f"out={str(out)!r} doesn't end in .nwb. Give the path of an NWB file.")
    if overwrite not in (True, False, "if_changed"):
        raise ConfigError(f"overwrite={overwrite!r}. Give True, False or 'if_changed'.")
    settings: dict[str, Any] = {"kind": kind, "seed": seed, "session": session, "animal": animal}
    if kind == "place_cells":
        if embedding != "linear":
            raise ConfigError(
                f"embedding={embedding!r} with kind='place_cells', whose units have one field "
                "each. Give embedding='linear', or kind='reach'."
            )
        settings |= {"n_units": 100 if n_units is None else n_units, "duration_s": duration_s}
    elif kind in DESCRIPTION:
        settings |= {"n_units": 60 if n_units is None else n_units, "n_trials": n_trials}
        settings |= {"link": link, "embedding": embedding, "defects": defects}
        if kind == "reach" and n_features is not None:
            settings["n_features"] = n_features
    else:
        raise ConfigError(f"kind={kind!r} is unknown. Give one of {', '.join(KINDS)}.")
    if path.exists() and overwrite is not True:
        if overwrite is False:
            raise RecordingError(
                f"{path} exists. Give another path, overwrite=True to replace it, or "
                "overwrite='if_changed' to keep it where it is this very session."
            )
        if _holds(path, settings):
            return path
    return write_simulation(_simulate(settings, progress), path)


def simulate_dataset(
    out_dir: str | Path,
    *,
    n_animals: int = 2,
    n_sessions: int = 3,
    seed: int = 0,
    overwrite: bool | Literal["if_changed"] = False,
    progress: bool = False,
    **settings: Any,
) -> list[Path]:
    """Simulate several sessions of several animals, one NWB file each.

    Within an animal, 60 % of the units (those with the same id) appear in every session, their
    weights perturbed by 10 %. All sessions have the same features.

    Parameters
    ----------
    out_dir
        Folder of the files ``animal<i>_session<j>.nwb``.
    n_animals, n_sessions
        Number of animals, and of sessions of each.
    seed
        Of the whole data set.
    overwrite, progress
        As in `simulate_session`.
    **settings
        Further settings of `simulate_session`, the same for every session.

    Returns
    -------
    list of Path
        The files, sessions of an animal together.

    Raises
    ------
    ConfigError, RecordingError
        As in `simulate_session`.
    """
    check_whole_numbers(1, n_animals=n_animals, n_sessions=n_sessions)
    return [
        simulate_session(
            Path(out_dir) / f"animal{animal}_session{session}.nwb",
            seed=seed,
            animal=animal,
            session=session,
            overwrite=overwrite,
            progress=progress,
            **settings,
        )
        for animal in range(n_animals)
        for session in range(n_sessions)
    ]


def rebuild_simulation(path: str | Path) -> Simulation:
    """Make the simulation of a file again, in memory: its true rates and everything else.

    Parameters
    ----------
    path
        File from `simulate_session`.

    Raises
    ------
    RecordingError
        No such file, or not one that this version of the simulator wrote.
    """
    parameters = _parameters_in(Path(path))
    if parameters is None or parameters.get("version") != VERSION:
        raise RecordingError(
            f"{path} holds no session of this version of the simulator. "
            "Give a file from simulate_session, or simulate it again."
        )
    settings = {name: value for name, value in parameters.items() if name not in _DERIVED}
    return _simulate({"kind": parameters["kind"], **settings}, progress=False)


def _simulate(settings: dict[str, Any], progress: bool) -> Simulation:
    settings = dict(settings)
    if settings["kind"] == "place_cells":
        del settings["kind"]
        return simulate_place_cells(**settings)
    return simulate_reach(**settings, progress=progress)


def _holds(path: Path, settings: dict[str, Any]) -> bool:
    """Whether the file has these settings; refuses one that isn't a simulation."""
    found = _parameters_in(path)
    if found is None:
        raise RecordingError(
            f"{path} exists and is no simulated recording, so it is not replaced. "
            "Give another path, or remove it yourself."
        )
    # Files written before there was a choice have linear embeddings.
    found = {"embedding": "linear", **found}
    wanted = {"version": VERSION, "n_features": found.get("n_features"), **settings}
    if settings["kind"] == "reach" and "n_features" not in settings:
        from saebook.data.simulate.features import REACH_FEATURES

        wanted["n_features"] = len(REACH_FEATURES)
    return all(found.get(name) == value for name, value in wanted.items())


def _parameters_in(path: Path) -> dict[str, Any] | None:
    import h5py

    try:
        with h5py.File(path) as file:
            parameters = json.loads(file["general/notes"].asstr()[()])  # type: ignore[union-attr]
    except (OSError, KeyError, ValueError, AttributeError, TypeError):
        return None
    is_ours = isinstance(parameters, dict) and parameters.get("simulator") == "saebook"
    return parameters if is_ours else None
