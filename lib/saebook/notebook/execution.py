"""One run of one chapter: executed through papermill, complete in its folder or not there.

A run is written to ``<key>.partial-<process>`` and renamed. When the engine that started it is
gone, however it ended, the run stops its kernel and itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from saebook.errors import ParameterError
from saebook.notebook.chapter import ENVIRONMENT_FILE, METRICS_FILE
from saebook.notebook.project import (
    chapter_source,
    locked,
    project_root,
    read_notebook,
    relative,
)
from saebook.notebook.runs import RUN_FILE, RunRecord, duration, read_json

ENGINE = "SAEBOOK_ENGINE"
CHECKPOINTS = "checkpoints"


def engine_identity() -> str:
    """Host, process and start time of this process, as its runs are told in the environment."""
    import psutil

    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def engine_alive(identity: str) -> bool:
    """Whether the engine that started a run is still there; one on another host can't be asked.

    >>> engine_alive(engine_identity())
    True
    """
    import psutil

    host, pid, started = identity.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        # A process number is used again after a while; a start time isn't.
        same = abs(process.create_time() - float(started)) < 3
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop_children() -> None:
    """Kill every process below this one: the kernel and its data loaders."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def watch_engine(interval: float = 0.5) -> None:
    """Stop this process and all below it as soon as the engine that started it is gone."""
    identity = os.environ.get(ENGINE)
    if not identity:
        return

    def watch() -> None:
        while engine_alive(identity):
            time.sleep(interval)
        stop_children()
        os._exit(137)

    threading.Thread(target=watch, name="engine watch", daemon=True).start()


def run_chapter(
    record: RunRecord,
    values: dict[str, Any],
    out: Path | None = None,
    threads: int = 1,
    progress: bool = True,
) -> RunRecord:
    """Execute a chapter into its run folder.

    Parameters
    ----------
    record : RunRecord
        Chapter, recording, parameter set and fingerprint of the run.
    values : dict
        Checked parameters.
    out : Path or None
        Run folder, replaced when the run has ended; None: the record's own.
    threads : int
        Threads of the numerical libraries. Float32 sums depend on it, so it is a constant
        rather than the number of cores.
    progress : bool
        Show a bar that counts cells.

    Returns
    -------
    RunRecord
        With state ``"finished"`` or ``"failed"``, time and error. A failed run keeps the
        notebook with its traceback, and has no metrics.

    Raises
    ------
    ParameterError
        If the run folder is an existing folder that holds something else.
    """
    out = (out or record.folder).resolve()
    if out.exists() and any(out.iterdir()) and not _is_run(out):
        raise ParameterError(f"{out} exists and is no run folder; choose another --out")
    source = chapter_source(record.chapter)
    signal.signal(signal.SIGTERM, _terminated)
    watch_engine()
    with locked(out.parent / f".{out.name}.lock", waiting=f"{relative(out)} is being written"):
        partial = _fresh_partial(out, record.fingerprint)
        _write_parameters(partial, values)
        record.started = time.strftime("%Y-%m-%d %H:%M:%S")
        record.host = socket.gethostname()
        record.write(partial)
        _set_environment(partial, out, threads)
        began = time.monotonic()
        try:
            _execute(record, source, values, partial, progress)
        except BaseException:
            stop_children()
            raise
        record.seconds = round(time.monotonic() - began, 2)
        record.environment = read_json(partial / ENVIRONMENT_FILE)
        if record.state == "finished" and not (partial / METRICS_FILE).is_file():
            record.state, record.error = "failed", "the chapter ended without saving its metrics"
        if record.state == "failed":
            (partial / METRICS_FILE).unlink(missing_ok=True)
        record.write(partial)
        _promote(partial, out)
    return record


def describe_end(record: RunRecord, out: Path) -> str:
    """One line on a run that has ended."""
    name = f"{record.chapter} · {record.recording} · {record.params}"
    if record.state == "finished":
        return f"done    {name} · {duration(record.seconds)}"
    where = f"in cell {record.cell} " if record.cell else ""
    notebook = relative(out / f"{record.chapter}.ipynb")
    return f"FAILED  {name} {where}after {duration(record.seconds)}: {record.error}\n        {notebook}"


def _execute(
    record: RunRecord, source: Path, values: dict[str, Any], partial: Path, progress: bool
) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook = read_notebook(source)
    output = partial / f"{record.chapter}.ipynb"
    try:
        papermill.execute_notebook(
            notebook,
            str(output),
            parameters=values,
            kernel_name="python3",
            language="python",
            cwd=str(project_root() / "notebooks"),
            progress_bar=progress and sys.stderr.isatty(),
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
        record.state = "finished"
    except PapermillExecutionError as error:
        record.state, record.cell = "failed", error.exec_count
        lines = str(error.evalue).strip().splitlines()
        record.error = f"{error.ename}: {lines[0]}" if lines else str(error.ename)
    except DeadKernelError:
        record.state = "failed"
        record.error = "the kernel died: it was killed, or the machine ran out of memory"
    except Exception as error:
        # Whatever else stops a chapter (a kernel that dies while starting) is its failure too.
        record.state = "failed"
        words = str(error).strip().splitlines() or ["no message"]
        record.error = f"{type(error).__name__}: {words[0]}"
    if not output.is_file() or not output.stat().st_size:
        import nbformat

        nbformat.write(notebook, output)


def _set_environment(partial: Path, out: Path, threads: int) -> None:
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
    os.environ.update(
        {f"{name}_NUM_THREADS": str(threads) for name in names},
        SAEBOOK_RUN_DIR=str(partial),
        SAEBOOK_RUN_LABEL=relative(out),
        SAEBOOK_ROOT=str(project_root()),
        JUPYTER_PREFER_ENV_PATH="1",
        PYTHONHASHSEED="0",
        PYDEVD_DISABLE_FILE_VALIDATION="1",
    )


def _write_parameters(folder: Path, values: dict[str, Any]) -> None:
    import yaml

    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True) if plain else "{}\n"
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def _is_run(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or not any(p.is_file() for p in folder.iterdir())


def _fresh_partial(out: Path, fingerprint: str) -> Path:
    """An empty folder to run in, with the checkpoints of a killed run of the same content."""
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    for old in out.parent.glob(f"{out.name}.partial-*"):
        if old == partial:
            continue
        same = fingerprint and read_json(old / RUN_FILE).get("fingerprint") == fingerprint
        if same and (old / CHECKPOINTS).is_dir() and not (partial / CHECKPOINTS).exists():
            (old / CHECKPOINTS).rename(partial / CHECKPOINTS)
        shutil.rmtree(old, ignore_errors=True)
    for old in out.parent.glob(f"{out.name}.replaced-*"):
        shutil.rmtree(old, ignore_errors=True)
    return partial


def _promote(partial: Path, out: Path) -> None:
    replaced = out.with_name(f"{out.name}.replaced-{os.getpid()}")
    if out.exists():
        out.rename(replaced)
    partial.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
