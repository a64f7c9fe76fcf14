"""Build the report, reports/site/index.html, from the runs there are.

Executed notebooks become pages; the front page shows every recording and chapter, failed ones
included. It works offline, rebuilds only what changed, and the old report stays until the new
one is complete.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

from saebook.errors import EnvironmentProblem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook site``."""
    parser.add_argument("--quiet", action="store_true", help="say nothing when it went well")


def execute(options: argparse.Namespace) -> int:
    """Write the pages, run Sphinx where something changed, publish."""
    from saebook.notebook.project import relative

    index, built = build_site()
    if not options.quiet:
        print(f"report{'' if built else ' (unchanged)'}: {relative(index)}")
    return 0


def build_site() -> tuple[Path, bool]:
    """Build the report of all runs.

    Returns
    -------
    tuple[Path, bool]
        The front page, and whether anything had to be built.

    Raises
    ------
    EnvironmentProblem
        If Sphinx is missing or fails.
    """
    from saebook.commands.pages import write_pages
    from saebook.notebook.project import locked, project_root, runs_folder, write_text

    reports = runs_folder().parent
    work = reports / "pages" / ".build"
    site = reports / "site"
    with locked(runs_folder() / ".site.lock"):
        pages = reports / "pages"
        write_pages(pages)
        state = _state_of([pages, project_root() / "reports" / "_static"], pages / ".build")
        state += (project_root() / "reports" / "conf.py").read_text(encoding="utf-8")
        built = work / "state.txt"
        if (site / "index.html").is_file() and built.is_file() and built.read_text() == state:
            return site / "index.html", False
        _sphinx(project_root() / "reports", pages, work)
        publish(work / "html", site)
        write_text(built, state)
    return site / "index.html", True


def _state_of(folders: list[Path], without: Path) -> str:
    lines = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and without not in path.parents:
                status = path.stat()
                lines.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(lines) + "\n"


def _sphinx(configuration: Path, pages: Path, work: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", str(configuration)]
    command += ["-D", f"html_extra_path={pages / 'extra'}"]
    command += ["-d", str(work / "doctrees"), str(pages), str(work / "html")]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        output = (made.stderr + made.stdout).strip()
        if "No module named sphinx" in output:
            raise EnvironmentProblem("Sphinx is missing; run 'make install'")
        # A damaged cache is the usual reason after a kill; it is only a cache.
        shutil.rmtree(work, ignore_errors=True)
        made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        last = (made.stderr + made.stdout).strip().splitlines()[-3:]
        raise EnvironmentProblem(f"Sphinx could not build the report: {' '.join(last)}")


def publish(built: Path, site: Path) -> None:
    """Bring a published folder to what was built, file by file, the front page last.

    Parameters
    ----------
    built : Path
        Complete new content.
    site : Path
        Folder that readers have open; every file in it is whole at any moment.
    """
    files = sorted(p.relative_to(built) for p in built.rglob("*") if p.is_file())
    files.sort(key=lambda p: p == Path("index.html"))
    for name in files:
        source, target = built / name, site / name
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        os.replace(partial, target)
    wanted = set(files)
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(site) not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
