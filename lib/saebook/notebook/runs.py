"""Runs on disk: how they are named, what they recorded, which of them are out of date."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saebook.errors import ParameterError
from saebook.notebook.parameters import (
    chapter_parameters,
    parameter_files,
    resolve_parameters,
)
from saebook.notebook.project import (
    chapter_source,
    chapter_sources,
    digest,
    notebook_cells,
    runs_folder,
    sources_digest,
)

RUN_FILE = "run.json"
RECORDINGS_FILE = "recordings.json"
SIMULATED = "simulated"
NO_RECORDING = "no-recording"


@dataclass
class RunRecord:
    """What a run says of itself in ``run.json``; its numbers are in ``metrics.json``."""

    chapter: str
    recording: str
    params: str
    state: str = "running"
    recording_path: str = ""
    started: str = ""
    seconds: float = 0.0
    error: str = ""
    cell: int | None = None
    host: str = ""
    fingerprint: str = ""
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Folder name of the run below its chapter."""
        return f"{self.recording}-{self.params}"

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return run_folder(self.chapter, self.recording, self.params)

    def write(self, folder: Path) -> None:
        """Write ``run.json`` into a folder."""
        (folder / RUN_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def run_folder(chapter: str, recording: str, params: str) -> Path:
    """Folder of one run: ``reports/runs/<chapter>/<recording>-<params>``."""
    return runs_folder() / chapter / f"{recording}-{params}"


def run_records() -> list[RunRecord]:
    """Every run on disk that the engine or ``saebook run`` made, by recording, set, chapter."""
    names = set(RunRecord.__dataclass_fields__)
    found = []
    for path in runs_folder().glob(f"*/*/{RUN_FILE}"):
        content = read_json(path)
        if {"chapter", "recording", "params"} <= set(content):
            record = RunRecord(**{k: v for k, v in content.items() if k in names})
            if record.folder == path.parent:
                if record.state == "finished" and not (path.parent / "metrics.json").is_file():
                    # Snakemake takes the result away when it starts a run that is out of date.
                    record.state = "out of date"
                found.append(record)
    return sorted(found, key=lambda r: (r.recording != SIMULATED, r.recording, r.params, r.chapter))


def headline(metrics: dict[str, Any], n: int = 4) -> dict[str, float | int]:
    """The first numbers of a run's metrics.

    >>> headline({"fvu": 0.1, "note": "x", "l0": 8})
    {'fvu': 0.1, 'l0': 8}
    """
    numbers = {
        k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    return dict(list(numbers.items())[:n])


def number(value: float | int | None) -> str:
    """A number for a table.

    >>> number(0.123456), number(1200), number(None)
    ('0.123', '1200', '–')
    """
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds for a table.

    >>> duration(8.4), duration(75), duration(7300)
    ('8 s', '1 min 15 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def recording_key(path: Path, taken: dict[str, str]) -> str:
    """Short unique name of a recording in run folders: its stem, with a hash where stems clash.

    Parameters
    ----------
    path : Path
        Recording file.
    taken : dict[str, str]
        Keys in use and the absolute path that each stands for.

    Examples
    --------
    >>> recording_key(Path("/a/rat 1.nwb"), {})
    'rat_1'
    >>> recording_key(Path("/b/rat1.nwb"), {"rat1": "/a/rat1.nwb"}).startswith("rat1-")
    True
    """
    full = str(path.resolve())
    stem = re.sub(r"[^A-Za-z0-9_.]+", "_", path.stem).strip("_.") or "recording"
    if stem not in (SIMULATED, NO_RECORDING) and taken.get(stem, full) == full:
        return stem
    return f"{stem}-{digest(full)[:6]}"


def known_recordings() -> dict[str, str]:
    """Recording keys of the runs on disk, and the file each stands for."""
    return {r.recording: r.recording_path for r in run_records() if r.recording_path}


def uses_recording(chapter: str) -> bool:
    """Whether a chapter declares ``recording_path``, and so runs once per recording."""
    return "recording_path" in chapter_parameters(chapter_source(chapter))


def reads_results(chapter: str) -> list[str]:
    """Chapters whose results a chapter draws: the default of its parameter ``results_of``."""
    declared = chapter_parameters(chapter_source(chapter)).get("results_of")
    return [] if declared is None else [chapter_source(name).stem for name in declared.default]


def set_values(chapter: str, params: str) -> dict[str, Any]:
    """Flat, checked values that a chapter takes from a parameter set of the checkout.

    Raises
    ------
    ParameterError
        If there is no such set, or it holds unknown names or wrong types.
    """
    files = parameter_files()
    if params not in files:
        raise ParameterError(f"no parameter set {params!r}; there are: {', '.join(files)}")
    return resolve_parameters(chapter, chapter_source(chapter), params)


def fingerprint(chapter: str, values: dict[str, Any], recording_content: str = "") -> str:
    """Content hash of all that a run depends on: notebook, parameters, recording, library.

    Parameters
    ----------
    chapter : str
        Chapter name.
    values : dict
        Flat parameters; where the recording lies doesn't matter, only what it holds.
    recording_content : str
        Content hash of the recording; empty for the simulated session, which the library makes.
    """
    values = {name: value for name, value in values.items() if name != "recording_path"}
    cells = notebook_cells(chapter_source(chapter))
    return digest([cells, values, recording_content, sources_digest()])


def planned_runs(recordings: dict[str, dict[str, str]], chapters: list[str]) -> list[tuple]:
    """(chapter, recording key) of everything that has to run.

    Parameters
    ----------
    recordings : dict
        Usable recordings by key.
    chapters : list[str]
        Chapters to run; empty: all.

    Raises
    ------
    ParameterError
        If there is no chapter, or no chapter of a given name.
    """
    names = [chapter_source(name).stem for name in chapters] or list(chapter_sources())
    if not names:
        raise ParameterError("there is no chapter in notebooks/")
    plan = []
    for chapter in names:
        keys = recordings if uses_recording(chapter) else [NO_RECORDING]
        plan += [(chapter, key) for key in keys]
    return plan
