"""Run the chapters on every recording and build the report: what 'make handbook' does.

Finished work is not done again; what was killed is picked up. Pages of the report appear while
chapters finish. The exit code is 1 when a chapter failed, 2 when nothing could be run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook handbook``."""
    parser.add_argument(
        "--nwb", nargs="*", default=[], help="NWB files, folders, globs; none: a simulated session"
    )
    parser.add_argument("--params", default="laptop", help="smoke, laptop (default) or gpu")
    parser.add_argument("--chapters", nargs="*", default=[], help="chapters (default: all)")
    parser.add_argument("--profile", default="local", help="Snakemake profile (default: local)")
    parser.add_argument("--dry-run", action="store_true", help="show what would run")


def execute(options: argparse.Namespace) -> int:
    """Hold the lock, run Snakemake, keep the report up to date, tell how it ended."""
    from saebook.commands.screen import recording_files
    from saebook.errors import ParameterError
    from saebook.notebook.project import locked, project_root, runs_folder
    from saebook.notebook.runs import SIMULATED, fingerprint, planned_runs, set_values

    root = project_root()
    patterns = [pattern for pattern in options.nwb if pattern]
    if not (root / "profiles" / options.profile).is_dir():
        raise ParameterError(f"no profile {options.profile!r} in profiles/")
    # Everything that can be refused is refused before anything starts.
    files = recording_files(patterns) if patterns else []
    for chapter, _ in planned_runs({SIMULATED: {}}, options.chapters):
        fingerprint(chapter, set_values(chapter, options.params))

    _die_with_make()
    config: dict[str, Any] = {"params": options.params, "chapters": options.chapters}
    config["nwb"] = [str(path) for path in files]
    began = time.time()
    with locked(runs_folder() / ".lock", waiting="the handbook is being made already") as lock:
        code = _run_snakemake(root, options, config, lock.fileno())
        if options.dry_run:
            return code
        if code and not _new_failures(began):
            _explain(root, options, config)
        return _conclude(code, began, options, bool(files))


def _new_failures(began: float) -> bool:
    """Whether a run has failed since, which then has told why itself."""
    from saebook.notebook.runs import run_records

    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))
    return any(r.state == "failed" and r.started >= since for r in run_records())


def _explain(root: Path, options: argparse.Namespace, config: dict[str, Any]) -> None:
    """Have a silenced Snakemake say what is wrong with the plan itself."""
    command = [*_command(options, config), "--dry-run", "--quiet", "rules", "host", "reason"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if said.returncode:
        print(said.stdout.strip() or said.stderr.strip(), file=sys.stderr)


def _command(options: argparse.Namespace, config: dict[str, Any]) -> list[str]:
    values = [f"{name}={json.dumps(value)}" for name, value in config.items() if value]
    command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{options.profile}"]
    return [*command, "--nolock", "--config", *values]


def _run_snakemake(
    root: Path, options: argparse.Namespace, config: dict[str, Any], lock: int
) -> int:
    command = _command(options, config)
    if options.dry_run:
        command.append("--dry-run")
    # The lock is inherited: while Snakemake lives, no second engine starts.
    process = subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        pass_fds=(lock,),
        preexec_fn=_die_with_parent,
    )
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)
        process.send_signal(signal.SIGKILL if len(stopping) > 1 else signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    report = threading.Thread(target=_follow, args=(process,), daemon=True)
    if not options.dry_run:
        report.start()
    while process.poll() is None:
        time.sleep(0.2)
        if stopping and process.poll() is None:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                # Its runs watch it, and stop when it is gone.
                process.kill()
    if report.is_alive():
        report.join()
    if stopping:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise KeyboardInterrupt
    return process.returncode


def _follow(process: subprocess.Popen) -> None:
    """Rebuild the report whenever a run has ended, until Snakemake has."""
    from saebook.notebook.runs import run_records

    seen = {(r.chapter, r.key, r.started) for r in run_records()}
    while process.poll() is None:
        time.sleep(1)
        found = {(r.chapter, r.key, r.started) for r in run_records()}
        if found - seen and process.poll() is None:
            seen = found
            _build_site("--quiet")


def _build_site(*arguments: str) -> int:
    return subprocess.call([sys.executable, "-m", "saebook", "site", *arguments])


def _conclude(code: int, began: float, options: argparse.Namespace, screened: bool) -> int:
    """Report and table at the end, whatever happened before it."""
    from saebook.commands.status import status_lines
    from saebook.notebook.project import relative, runs_folder
    from saebook.notebook.runs import (
        NO_RECORDING,
        RECORDINGS_FILE,
        SIMULATED,
        read_json,
        run_records,
    )

    site = _build_site("--quiet")
    verdicts = read_json(runs_folder() / RECORDINGS_FILE) if screened else {}
    keys = {NO_RECORDING, *(verdicts.get("usable", {}) if screened else [SIMULATED])}
    records = [r for r in run_records() if r.params == options.params and r.recording in keys]
    if records:
        print("\n" + "\n".join(status_lines(records)))
    for entry in verdicts.get("unusable", []):
        print(f"not usable  {entry['path']}: {entry['reason']}")
    if records:
        print(f"\nreport: {relative(runs_folder().parent / 'site' / 'index.html')}", flush=True)
    if code:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))
        failed = [r for r in records if r.state == "failed" and r.started >= since]
        if failed:
            words = f"{len(failed)} run(s) failed: their notebooks hold the traceback"
        else:
            words = "not everything ran, for the reason above"
        print(f"error: {words}; the same command tries again", file=sys.stderr)
        return 1 if records else 2
    return 1 if site else 0


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is gone; elsewhere runs notice by themselves."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_make() -> None:
    """End with the make that started this, however make ended; a shell may go, make may not."""
    if sys.platform != "linux":
        return
    try:
        parent = Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    except OSError:
        return
    if parent in ("make", "gmake"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
