"""Run one chapter headless into a run folder.

Names and types of parameters are checked before anything starts. The run folder holds the
executed notebook, params.yaml, metrics.json, figures and run.json; it appears when the run has
ended. The exit code is 1 when a cell raised: the notebook then holds the traceback.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saebook.errors import ParameterError, RecordingError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook run``."""
    parser.add_argument("chapter", help="name, number or path, such as 20_first_sae or 20")
    parser.add_argument("--params", default="smoke", help="parameter set (default: smoke)")
    parser.add_argument("-f", "--file", type=Path, help="further parameters, in YAML")
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="one parameter"
    )
    parser.add_argument("--recording", type=Path, help="NWB file; default: the simulated session")
    parser.add_argument("--recording-key", help=argparse.SUPPRESS)
    parser.add_argument("--recording-content", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="run folder (default: below reports/runs)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")


def execute(options: argparse.Namespace) -> int:
    """Check, run, say how it ended."""
    from saebook.notebook.execution import describe_end, run_chapter
    from saebook.notebook.parameters import resolve_parameters
    from saebook.notebook.project import chapter_source, digest, file_digest, relative
    from saebook.notebook.runs import (
        NO_RECORDING,
        SIMULATED,
        RunRecord,
        fingerprint,
        known_recordings,
        recording_key,
        uses_recording,
    )

    source = chapter_source(options.chapter)
    chapter = source.stem
    texts = list(options.parameter)
    if options.recording and not uses_recording(chapter):
        raise ParameterError(f"{chapter} takes no recording: it declares no recording_path")
    if options.recording:
        if not options.recording.is_file():
            raise RecordingError(f"no file {options.recording}; --recording takes one NWB file")
        texts.append(f"recording_path={options.recording.resolve()}")
    values = resolve_parameters(chapter, source, options.params, options.file, texts)

    given = str(values.get("recording_path") or "")
    path = Path(given).resolve() if given else None
    content = options.recording_content
    if path:
        if not path.is_file():
            raise RecordingError(f"recording_path {given!r} is no file; give an absolute path")
        content = content or file_digest(path)
        taken = {key: known for key, known in known_recordings().items() if known != str(path)}
        key = options.recording_key or recording_key(path, taken)
    else:
        key = SIMULATED if uses_recording(chapter) else NO_RECORDING
    params = options.params
    if options.parameter or options.file:
        # A variation gets its own folder, next to the set it varies.
        params += f"_{digest({k: v for k, v in values.items() if k != 'recording_path'})[:6]}"
    record = RunRecord(
        chapter,
        key,
        params,
        recording_path=str(path or ""),
        fingerprint=fingerprint(chapter, values, content),
    )
    out = (options.out or record.folder).resolve()
    print(f"running {chapter} · {key} · {params}", flush=True)
    record = run_chapter(record, values, out, options.threads)
    print(describe_end(record, out), flush=True)
    if record.state == "finished" and options.out:
        print(f"results: {relative(out)}")
    return 0 if record.state == "finished" else 1
