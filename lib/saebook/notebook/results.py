"""What a chapter found, read by another: metrics and tables with where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebook.errors import DataError
from saebook.notebook.project import chapter_source, project_root, relative, write_text
from saebook.notebook.runs import NO_RECORDING, RunRecord, read_json, run_records

if TYPE_CHECKING:
    import pandas as pd

# Tables of single spikes or steps are no results to publish.
MOST_PUBLISHED_ROWS = 2_000
PROVENANCE = ("chapter", "recording", "params", "started", "seconds", "fingerprint", "environment")


@dataclass(frozen=True, eq=False)
class ChapterResults:
    """Metrics and tables of one finished run of a chapter.

    Attributes
    ----------
    chapter : str
        Its name.
    metrics : dict
        Content of its ``metrics.json``.
    tables : dict of str to DataFrame
        What it saved with ``save_table``.
    provenance : dict
        Recording, parameter set, start, seconds, fingerprint, device and versions.
    source : str
        Folder of the run, or the published file.
    """

    chapter: str
    metrics: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    provenance: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def command(self) -> str:
        """The command that makes these results."""
        params = str(self.provenance.get("params", "laptop")).split("_")[0]
        recording = self.provenance.get("recording", "")
        own = "" if recording in ("", NO_RECORDING, "simulated") else " --recording FILE"
        return f"python -m saebook run {self.chapter} --params {params}{own}"

    @property
    def made_on(self) -> str:
        """Recording, set, device, versions and day, in one line."""
        environment = self.provenance.get("environment", {})
        device = environment.get("device_name") or environment.get("device", "unknown device")
        return (
            f"{self.provenance.get('recording', '?')}, {self.provenance.get('params', '?')}, "
            f"{device}, torch {environment.get('torch', '?')}, "
            f"{str(self.provenance.get('started', '?'))[:10]}"
        )

    def table(self, name: str) -> pd.DataFrame:
        """One of its tables.

        Raises
        ------
        DataError
            There is none of that name.
        """
        if name not in self.tables:
            raise DataError(
                f"{self.source} holds no table {name!r}; there are: "
                f"{', '.join(self.tables) or 'none'}; run the chapter again: {self.command}"
            )
        return self.tables[name]


def find_results(chapter: str, beside: Path | None = None) -> ChapterResults | None:
    """Results of a chapter: of its run that goes with another run, or the newest; else published.

    Parameters
    ----------
    chapter : str
        Name, number or path of the chapter whose results are wanted.
    beside : Path, optional
        Folder of the run that asks. Where it says of which recording and parameter set it is,
        only results on this recording or on none will do, and a run only of the same set;
        elsewhere (JupyterLab) the newest finished run comes first.

    Returns
    -------
    ChapterResults or None
        None where the chapter has neither been run nor published.

    Raises
    ------
    ParameterError
        No such chapter.

    Examples
    --------
    >>> found = find_results("85_performance")
    >>> found is None or found.chapter == "85_performance"
    True
    """
    name = chapter_source(chapter).stem
    finished = [r for r in run_records() if r.chapter == name and r.state == "finished"]
    asking = read_json(beside / "run.json") if beside is not None else {}
    if asking:
        finished = [
            r
            for r in finished
            if r.params == asking.get("params")
            and r.recording in (asking.get("recording"), NO_RECORDING)
        ]
    if finished:
        return read_run(max(finished, key=lambda r: r.started))
    found = read_published(published_file(name))
    if found is not None and asking:
        # Results of the simulated session are none of somebody's recording.
        alike = {asking.get("recording"), NO_RECORDING}
        if found.provenance["recording"] not in alike:
            return None
    return found


def read_run(record: RunRecord) -> ChapterResults:
    """Results in the folder of a finished run."""
    import pandas as pd

    folder = record.folder
    provenance = {name: getattr(record, name) for name in PROVENANCE}
    tables = {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    metrics = read_json(folder / "metrics.json")
    return ChapterResults(record.chapter, metrics, tables, provenance, relative(folder))


def published_file(chapter: str) -> Path:
    """Where a chapter's published results lie: ``reports/results/chapters/<chapter>.json``."""
    return project_root() / "reports" / "results" / "chapters" / f"{chapter}.json"


def read_published(path: Path) -> ChapterResults | None:
    """Published results of a chapter; None where there are none.

    Raises
    ------
    DataError
        The file is damaged.
    """
    import pandas as pd

    if not path.is_file():
        return None
    content = read_json(path)
    missing = [key for key in ("provenance", "metrics", "tables") if key not in content]
    if missing:
        raise DataError(
            f"{relative(path)} holds no {missing[0]!r}: it is damaged; publish the chapter again "
            "with 'python -m saebook publish'"
        )
    tables = {name: pd.DataFrame(columns) for name, columns in content["tables"].items()}
    provenance = content["provenance"]
    return ChapterResults(
        provenance["chapter"], content["metrics"], tables, provenance, relative(path)
    )


def publish(results: ChapterResults, path: Path) -> list[str]:
    """Write results to be kept with the project.

    Parameters
    ----------
    results : ChapterResults
    path : Path
        JSON file, written whole or not at all.

    Returns
    -------
    list of str
        Names of tables left out, for more than 2,000 rows.
    """
    tables = {n: t for n, t in results.tables.items() if len(t) <= MOST_PUBLISHED_ROWS}
    columns = {
        # Through pandas' own writer, which knows what JSON can't: NaN, numpy's numbers.
        name: json.loads(
            str(table.reset_index(drop=True).to_json(orient="columns", double_precision=10))
        )
        for name, table in tables.items()
    }
    content = {
        "provenance": results.provenance,
        "metrics": results.metrics,
        "tables": {
            name: {column: list(values.values()) for column, values in table.items()}
            for name, table in columns.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
    return [name for name in results.tables if name not in tables]
