"""Read recordings once and tell the usable ones from the others, with reasons.

Writes a JSON file with the usable recordings by key, and the others with what was wrong.
The exit code is 2 when none is usable.
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saebook.errors import RecordingError, SaebookError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook screen``."""
    parser.add_argument("recordings", nargs="+", help="NWB files, folders or globs")
    parser.add_argument("--params", default="laptop", help="set whose unit criteria are used")
    parser.add_argument("--out", type=Path, help="JSON file to write")


def recording_files(patterns: Iterable[str | Path]) -> list[Path]:
    """Files that names, folders and globs stand for.

    Raises
    ------
    RecordingError
        If one of them stands for no file.

    Examples
    --------
    >>> recording_files(["/nowhere/*.nwb"])
    Traceback (most recent call last):
    ...
    saebook.errors.RecordingError: '/nowhere/*.nwb' matches no file; ...
    """
    found: dict[Path, None] = {}
    for pattern in map(str, patterns):
        path = Path(pattern).expanduser()
        if path.is_dir():
            files = sorted(p for p in path.rglob("*.nwb") if p.is_file())
            reason = "is a folder without any .nwb file"
        elif path.is_file():
            files, reason = [path], ""
        else:
            matches = map(Path, glob.glob(str(path), recursive=True))
            files = sorted(p for p in matches if p.is_file())
            reason = "matches no file"
        if not files:
            raise RecordingError(
                f"{pattern!r} {reason}; give an NWB file, a folder that holds some, or a glob in "
                "quotes such as 'recordings/*.nwb'"
            )
        found.update(dict.fromkeys(p.resolve() for p in files))
    return list(found)


def criteria_values(params: str) -> dict[str, Any]:
    """Unit criteria that a parameter set gives to all chapters."""
    from dataclasses import fields

    from saebook.data import UnitCriteria
    from saebook.notebook.parameters import SHARED, parameter_files, read_parameter_file

    path = parameter_files().get(params)
    shared = (read_parameter_file(path).get(SHARED) or {}) if path else {}
    names = {field.name for field in fields(UnitCriteria)}
    return {name: value for name, value in shared.items() if name in names}


def screen_recording(path: Path, criteria: dict[str, Any]) -> dict[str, Any]:
    """What one recording holds once its units are selected.

    Parameters
    ----------
    path : Path
        NWB file.
    criteria : dict
        Fields of ``UnitCriteria`` that differ from their defaults.

    Raises
    ------
    SaebookError
        If the recording can't be used; the message says why.
    """
    from saebook.data import UnitCriteria, read_recording, select_units

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recording = read_recording(path)
        recording, quality = select_units(recording, UnitCriteria(**criteria))
    return {
        "path": str(path),
        "units": len(quality),
        "units_kept": len(recording.spike_times),
        "seconds": round(float(recording.interval.duration), 3),
        "warnings": [str(warning.message) for warning in caught],
    }


def execute(options: argparse.Namespace) -> int:
    """Screen every file, write and print the verdicts."""
    from saebook.notebook.project import file_digest, relative, write_text
    from saebook.notebook.runs import known_recordings, recording_key

    criteria = criteria_values(options.params)
    paths = recording_files(options.recordings)
    known = {key: path for key, path in known_recordings().items() if Path(path).is_file()}
    usable: dict[str, dict[str, Any]] = {}
    unusable: list[dict[str, str]] = []
    for path in paths:
        try:
            found = screen_recording(path, criteria)
        except (SaebookError, OSError, MemoryError) as error:
            reason = str(error).replace(f"{path}: ", "").strip() or type(error).__name__
            unusable.append({"path": str(path), "reason": reason})
            print(f"not usable  {relative(path)}: {reason}", flush=True)
            continue
        key = recording_key(path, known)
        known[key] = str(path)
        usable[key] = {**found, "content": file_digest(path)}
        minutes = found["seconds"] / 60
        print(
            f"usable      {relative(path)}: {found['units_kept']} of {found['units']} units, "
            f"{minutes:.1f} min",
            flush=True,
        )
    if not usable:
        print(f"error: none of {len(paths)} recording(s) can be used", file=sys.stderr)
    if options.out:
        content = {"usable": usable, "unusable": unusable}
        write_text(options.out, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return 0 if usable else 2
