"""Keep results with the project: metrics and tables of finished runs, figures of chapter 90.

Copies what runs of one parameter set found on the simulated session into reports/results/ and
reports/figures/, each with recording, settings, device, versions and day. Chapter 90 draws from
these where a checkout has no runs of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook publish``."""
    parser.add_argument("--params", default="laptop", help="parameter set (default: laptop)")
    parser.add_argument("--chapters", nargs="*", default=[], help="chapters (default: all)")


def execute(options: argparse.Namespace) -> int:
    """Copy, and say what."""
    from saebook.errors import ParameterError
    from saebook.notebook.project import chapter_source, relative, runs_folder
    from saebook.notebook.results import publish, published_file, read_run
    from saebook.notebook.runs import NO_RECORDING, SIMULATED, run_records

    wanted = {chapter_source(name).stem for name in options.chapters}
    records = [
        r
        for r in run_records()
        if r.state == "finished"
        and r.params == options.params
        and r.recording in (SIMULATED, NO_RECORDING)
        and (not wanted or r.chapter in wanted)
    ]
    unknown = sorted(wanted - {r.chapter for r in records})
    if unknown or not records:
        raise ParameterError(
            f"no finished run of {', '.join(unknown) or 'any chapter'} with --params "
            f"{options.params} in {relative(runs_folder())}; 'make handbook "
            f"PARAMS={options.params}' makes them"
        )
    for record in records:
        path = published_file(record.chapter)
        left_out = publish(read_run(record), path)
        size = path.stat().st_size / 1024
        print(f"{relative(path)} ({size:.0f} kB)" + "".join(f", without {n}" for n in left_out))
        if (record.folder / "paper.json").is_file():
            _publish_paper(record.folder)
    return 0


def _publish_paper(run: Path) -> None:
    """Figures and tables of a run, with the list that names their captions and commands."""
    from saebook.notebook.paper import INDEX_FILE
    from saebook.notebook.project import project_root, relative, write_text

    reports = project_root() / "reports"
    index = json.loads((run / INDEX_FILE).read_text(encoding="utf-8"))
    for item in index["items"]:
        source = run / ("figures" if item["kind"] == "figure" else "tables")
        target = reports / ("figures" if item["kind"] == "figure" else "results/tables")
        target.mkdir(parents=True, exist_ok=True)
        for name in item["files"]:
            partial = target / f".{name}.partial"
            shutil.copyfile(source / name, partial)
            partial.replace(target / name)
        print(f"{relative(target)}/{item['name']}: {', '.join(item['files'])}")
    write_text(
        reports / "figures" / INDEX_FILE, json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    )
