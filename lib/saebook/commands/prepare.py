"""Turn NWB files into a store of binned spike counts.

Units are selected by quality, spikes are binned, and bins are split into train, validation and
test by trial or blocked time. Files that can't be used stop the command, or are listed with
their reasons and skipped with --on-error report.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook prepare``."""
    parser.add_argument("recordings", nargs="+", help="NWB files, folders or globs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the store")
    parser.add_argument("--bin-size", type=float, default=0.05, help="seconds (default: 0.05)")
    parser.add_argument("--min-rate", type=float, default=0.5, help="Hz (default: 0.5)")
    parser.add_argument(
        "--max-isi-violations", type=float, default=0.1, help="ratio (default: 0.1)"
    )
    parser.add_argument(
        "--on-error", choices=("raise", "report"), default="raise", help="unusable files"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")


def execute(options: argparse.Namespace) -> int:
    """Prepare, say what the store holds."""
    from saebook.commands.screen import recording_files
    from saebook.data import UnitCriteria, prepare

    store = prepare(
        recording_files(options.recordings),
        options.out,
        bin_size_s=options.bin_size,
        criteria=UnitCriteria(
            min_rate_hz=options.min_rate, max_isi_violations=options.max_isi_violations
        ),
        on_error=options.on_error,
        seed=options.seed,
    )
    names = store.partitions
    print(f"store: {options.out} · {len(names)} partition(s): {', '.join(names)}")
    return 0
