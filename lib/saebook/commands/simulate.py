"""Simulate a recording with known truth, as an NWB file.

Without --out it is the embedded default, kept in data/simulated/ and made only once.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook simulate``."""
    parser.add_argument("--out", type=Path, help="NWB file to write; refused where it exists")
    parser.add_argument("--kind", choices=("reach", "place_cells"), default="reach", help="task")
    parser.add_argument(
        "--embedding",
        choices=("linear", "nonlinear"),
        default="linear",
        help="how units follow the features of a reach: weighted, or through hidden units",
    )
    parser.add_argument("--units", type=int, default=60, help="number of units")
    parser.add_argument("--trials", type=int, default=150, help="number of trials")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same file")


def execute(options: argparse.Namespace) -> int:
    """Write the file, say where it is."""
    from saebook.errors import RecordingError
    from saebook.notebook.project import relative
    from saebook.notebook.simulated import simulated_recording

    if options.out is None:
        path = simulated_recording(
            options.units, options.trials, options.seed, options.kind, options.embedding
        )
    elif options.out.exists():
        raise RecordingError(f"{options.out} exists; remove it or choose another --out")
    else:
        from saebook.data import simulate_session

        options.out.parent.mkdir(parents=True, exist_ok=True)
        path = simulate_session(
            options.out,
            kind=options.kind,
            n_units=options.units,
            n_trials=options.trials,
            seed=options.seed,
            embedding=options.embedding,
        )
    print(f"simulated recording: {relative(Path(path))}")
    return 0
