"""The embedded default recording: simulated once, kept in ``data/simulated/``."""

from __future__ import annotations

from pathlib import Path

from saebook.notebook.project import locked, project_root, sources_digest

DEFAULT_UNITS = 60
DEFAULT_TRIALS = 150


def simulated_path(
    n_units: int = DEFAULT_UNITS,
    n_trials: int = DEFAULT_TRIALS,
    seed: int = 0,
    kind: str = "reach",
    embedding: str = "linear",
) -> Path:
    """Where a simulated session is kept; a changed simulator gives another name.

    Examples
    --------
    >>> simulated_path(seed=3).name.startswith("reach-60units-150trials-seed3-")
    True
    """
    code = sources_digest("data/simulate")[:8]
    what = kind if embedding == "linear" else f"{kind}-{embedding}"
    name = f"{what}-{n_units}units-{n_trials}trials-seed{seed}-{code}.nwb"
    return project_root() / "data" / "simulated" / name


def simulated_recording(
    n_units: int = DEFAULT_UNITS,
    n_trials: int = DEFAULT_TRIALS,
    seed: int = 0,
    kind: str = "reach",
    embedding: str = "linear",
) -> Path:
    """NWB file of a simulated session, made when it isn't there yet.

    Parameters
    ----------
    n_units : int
        Simulated units.
    n_trials : int
        Simulated trials.
    seed : int
        Same seed, same file.
    kind : str
        ``"reach"`` or ``"place_cells"``.
    embedding : str
        Of the reaches: ``"linear"`` or ``"nonlinear"``, as in
        :func:`saebook.data.simulate_session`.

    Returns
    -------
    Path
        The file; it appears complete or not at all, and is shared by everything that asks for
        the same session.
    """
    path = simulated_path(n_units, n_trials, seed, kind, embedding)
    if path.is_file():
        return path
    with locked(path.with_name(f".{path.stem}.lock")):
        if not path.is_file():
            from saebook.data import simulate_session

            # The suffix stays .nwb, which is what writers check.
            partial = path.with_name(f".{path.stem}.partial.nwb")
            partial.unlink(missing_ok=True)
            simulate_session(
                partial,
                kind=kind,
                n_units=n_units,
                n_trials=n_trials,
                seed=seed,
                embedding=embedding,
            )
            partial.replace(path)
    return path
