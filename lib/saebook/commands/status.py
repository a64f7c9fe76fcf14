"""Show every run: chapter, recording, state, time, main numbers, and where it is."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook status``."""
    parser.add_argument("--failed", action="store_true", help="failed runs only")


def execute(options: argparse.Namespace) -> int:
    """Print the table; the exit code is 0 whatever the runs' states."""
    from saebook.notebook.project import relative, runs_folder
    from saebook.notebook.runs import RECORDINGS_FILE, read_json, run_records

    records = run_records()
    if options.failed:
        records = [record for record in records if record.state == "failed"]
    if not records:
        print(f"no runs in {relative(runs_folder())}; 'make handbook' makes them")
        return 0
    print("\n".join(status_lines(records)))
    for entry in read_json(runs_folder() / RECORDINGS_FILE).get("unusable", []):
        print(f"not usable  {entry['path']}: {entry['reason']}")
    return 0


def status_lines(records: Iterable) -> list[str]:
    """Lines of the table of runs.

    Parameters
    ----------
    records : iterable of RunRecord
    """
    from saebook.notebook.chapter import METRICS_FILE
    from saebook.notebook.project import relative
    from saebook.notebook.runs import duration, headline, number, read_json

    rows = [("chapter", "recording", "params", "state", "time", "main numbers", "where")]
    for record in records:
        if record.state == "failed":
            said = record.error if len(record.error) <= 60 else record.error[:59] + "…"
        else:
            numbers = headline(read_json(record.folder / METRICS_FILE), 3)
            said = ", ".join(f"{name} {number(value)}" for name, value in numbers.items())
        rows.append(
            (
                record.chapter,
                record.recording,
                record.params,
                record.state,
                duration(record.seconds),
                said,
                relative(record.folder),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in rows]
