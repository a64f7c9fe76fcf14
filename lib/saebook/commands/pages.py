"""Pages of the report: what `site` writes for Sphinx from the runs on disk."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any
from urllib.parse import quote

from saebook.commands.front_page import chapter_cards, front_page, runs_by_key
from saebook.commands.markup import chapter_titles, recording_name, state_sign, table
from saebook.commands.notebook_page import notebook_page
from saebook.notebook.chapter import METRICS_FILE
from saebook.notebook.project import write_text
from saebook.notebook.runs import RunRecord, duration, headline, number, read_json, run_records


def write_pages(folder: Path) -> None:
    """Write the pages of all runs; files whose content stays the same are not touched.

    Parameters
    ----------
    folder : Path
        Sphinx source folder; pages of runs that are gone are removed.
    """
    records = run_records()
    written: set[Path] = set()
    for record in records:
        path = folder / record.key / f"{record.chapter}.ipynb"
        _write_changed(path, notebook_page(record.folder / f"{record.chapter}.ipynb", record))
        written.add(path)
    for key, group in runs_by_key(records).items():
        path = folder / key / "index.md"
        _write_changed(path, recording_page(group))
        written.add(path)
    thumbnails = folder / "extra" / "thumbnails"
    cards = chapter_cards(records, thumbnails, written)
    _write_changed(folder / "index.md", front_page(records, cards))
    written.add(folder / "index.md")
    (folder / "extra").mkdir(exist_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        if ".build" in path.relative_to(folder).parts:
            continue
        if path.is_file() and path not in written:
            path.unlink()
        elif path.is_dir() and path.name != "extra" and not any(path.iterdir()):
            path.rmdir()


def recording_page(records: list[RunRecord]) -> str:
    """Page of one recording with one parameter set: its chapters and all their numbers."""
    first, titles = records[0], chapter_titles()
    lines = [f"# {recording_name(first)} ({first.params})", ""]
    if first.recording_path:
        lines += [f"`{first.recording_path}`", ""]
    rows = []
    for record in records:
        name = html.escape(titles.get(record.chapter, record.chapter))
        link = f'<a href="{quote(record.chapter)}.html">{name}</a>'
        rows.append(
            [link, state_sign(record), duration(record.seconds), html.escape(record.started)]
        )
    lines += table(["chapter", "state", "time", "started"], rows)
    for record in records:
        if record.state == "failed":
            lines += [
                "",
                f"## {titles.get(record.chapter, record.chapter)}",
                "",
                f":::{{error}}\n`{record.error}`\n:::",
            ]
            continue
        metrics = read_json(record.folder / METRICS_FILE)
        numbers = headline(_flat(metrics), n=200)
        if numbers:
            rows = [[html.escape(k), number(v)] for k, v in numbers.items()]
            title = titles.get(record.chapter, record.chapter)
            lines += ["", f"## {title}", "", *table(["number", "value"], rows)]
    lines += ["", "```{toctree}", ":hidden:", "", *(r.chapter for r in records), "```", ""]
    return "\n".join(lines)


def _flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def _write_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
