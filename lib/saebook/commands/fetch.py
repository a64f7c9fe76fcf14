"""Fetch public recordings, or list the known ones.

Known names are in data/registry.yaml; any other file on DANDI is dandi:ID/PATH. Downloads go on
where they broke off and are checked against the archive's checksum. With --stream only units,
electrodes and trials are read out of the remote file, some megabytes of however many gigabytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saebook.errors import ParameterError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook fetch``."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="names, or dandi:ID/PATH")
    parser.add_argument("--list", action="store_true", help="list the known recordings")
    parser.add_argument("--out", type=Path, help="folder (default: below data/dandi/)")
    parser.add_argument("--stream", action="store_true", help="only units, electrodes and trials")
    parser.add_argument(
        "--behavior", action="store_true", help="with --stream: position, velocity, … as well"
    )


def recordings_table(out: Path | None = None) -> str:
    """Table of the known recordings, and which of them are here.

    Examples
    --------
    >>> recordings_table().splitlines()[0].split()
    ['name', 'DANDI', 'size', 'licence', 'here', 'what', 'it', 'is']
    """
    from saebook.data.archive import local_path, read_registry

    rows = [("name", "DANDI", "size", "licence", "here", "what it is")]
    for entry in read_registry().values():
        size = "unknown" if entry.size is None else f"{entry.size / 1e6:,.0f} MB"
        units = local_path(entry, out, units_only=True)
        here = "units" if units.is_file() else "-"
        here = "whole" if local_path(entry, out).is_file() else here
        rows.append((entry.name, entry.id, size, entry.licence, here, entry.title))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for *cells, last in rows:
        padded = [
            cell.rjust(width) if i == 2 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join([*padded, last]))
    return "\n".join(lines)


def execute(options: argparse.Namespace) -> int:
    """Fetch each recording and say where it is, or list them."""
    from saebook.data.archive import fetch
    from saebook.notebook.project import relative

    if options.list == bool(options.names):
        raise ParameterError("name a recording to fetch, or give --list to see the known ones")
    if options.behavior and not options.stream:
        raise ParameterError("--behavior goes with --stream; a whole file has everything anyway")
    if options.list:
        print(recordings_table(options.out))
        return 0
    for name in options.names:
        path = fetch(name, options.out, stream=options.stream, behavior=options.behavior)
        print(f"{name}: {relative(path)} ({path.stat().st_size / 1e6:,.1f} MB)", flush=True)
    return 0
