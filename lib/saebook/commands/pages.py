"""Pages of the report: what `site` writes for Sphinx from the runs on disk."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from saebook.errors import SaebookError
from saebook.notebook.chapter import METRICS_FILE
from saebook.notebook.project import chapter_sources, read_notebook, runs_folder, write_text
from saebook.notebook.runs import (
    NO_RECORDING,
    RECORDINGS_FILE,
    SIMULATED,
    RunRecord,
    duration,
    headline,
    number,
    read_json,
    run_records,
)

THUMBNAIL_PIXELS = 720
WIDGET = "application/vnd.jupyter.widget-view+json"
STATES = {"finished": "✓", "failed": "✗"}


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
    for key, group in _by_key(records).items():
        path = folder / key / "index.md"
        _write_changed(path, recording_page(group))
        written.add(path)
    thumbnails = folder / "extra" / "thumbnails"
    cards = _chapter_cards(records, thumbnails, written)
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


def _by_key(records: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.key, []).append(record)
    return groups


def recording_name(record: RunRecord) -> str:
    """A recording as the reader knows it."""
    if record.recording == SIMULATED:
        return "Simulated session"
    if record.recording == NO_RECORDING:
        return "Without a recording"
    return record.recording


def title_of(notebook: Any, fallback: str) -> tuple[str, str]:
    """Title of a chapter and what it is for: its first heading and the block-quote below it."""
    text = "\n".join(
        str(c["source"]) for c in notebook["cells"][:3] if c["cell_type"] == "markdown"
    )
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    quoted = re.search(r"(?:^>.*\n?)+", text, re.MULTILINE)
    purpose = re.sub(r"^> ?", "", quoted.group(), flags=re.MULTILINE) if quoted else ""
    return (heading.group(1).strip() if heading else fallback), " ".join(purpose.split())


def inline_html(text: str) -> str:
    """A line of Markdown as HTML: its formulas drawn, its other marks dropped.

    >>> inline_html("*Fast* & `small`")
    'Fast &amp; small'
    """
    parts = re.split(r"\$([^$]+)\$", text)
    parts[::2] = [html.escape(re.sub(r"[*`]", "", part)) for part in parts[::2]]
    if find_spec("latex2mathml"):
        from latex2mathml.converter import convert

        parts[1::2] = [convert(formula) for formula in parts[1::2]]
    else:
        parts[1::2] = [html.escape(formula) for formula in parts[1::2]]
    return "".join(parts)


def chapter_titles() -> dict[str, str]:
    """Number and title of each chapter of the checkout, by name."""
    titles = {}
    for name, source in chapter_sources().items():
        title, _ = title_of(read_notebook(source), name)
        titles[name] = f"{name[:2]} {re.sub(r'[*`$]', '', title)}"
    return titles


def notebook_page(source: Path, record: RunRecord) -> str:
    """An executed notebook as a page: what ran it on top, its outputs fit for a still page.

    Parameters
    ----------
    source : Path
        Executed notebook.
    record : RunRecord
        Its run.
    """
    import nbformat

    try:
        notebook = read_notebook(source)
    except (OSError, SaebookError) as error:
        missing = f"# {record.chapter}\n\nIts notebook can't be shown: {html.escape(str(error))}"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(missing, id="0")])
    cells = [
        cell
        for cell in notebook.cells
        if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs = [output for raw in cell.outputs if (output := _still(raw)) is not None]
    environment = record.environment
    facts = [
        recording_name(record),
        f"parameters “{record.params}”",
        duration(record.seconds),
        " ".join(filter(None, (environment.get("device"), environment.get("device_name")))),
        f"torch {environment['torch']}" if environment.get("torch") else "",
        record.started,
    ]
    text = f'<p class="run-facts">{" · ".join(html.escape(f) for f in facts if f)}</p>'
    if record.state == "failed":
        where = f" in cell {record.cell}" if record.cell else ""
        text += f"\n\n:::{{error}}\nThis chapter stopped{where}: `{record.error.replace('`', '´')}`\n:::"
    first = next((i for i, c in enumerate(cells) if c.cell_type == "markdown"), -1)
    if first < 0:
        text = f"# {record.chapter}\n\n{text}"
    note = nbformat.v4.new_markdown_cell(text, id="run-facts")
    notebook.cells = [*cells[: first + 1], note, *cells[first + 1 :]]
    # Without its own metadata a page changes only when its content does.
    notebook.metadata = {k: v for k, v in notebook.metadata.items() if k in ("kernelspec",)}
    return nbformat.writes(nbformat.from_dict(notebook)) + "\n"


def _still(output: Any) -> Any:
    """An output that can be shown without a kernel; None for progress bars that have ended."""
    if output["output_type"] == "stream":
        lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in output["text"].split("\n")]
        output["text"] = "\n".join(lines)
        return output if output["text"].strip() else None
    data = output.get("data", {})
    if WIDGET in data:
        text = str(data.get("text/plain", ""))
        if "Progress" in text or "%|" in text or re.match(r"\s*\d+%", text):
            return None
        words = "Interactive view: open this chapter in JupyterLab (<code>make lab</code>)."
        output["data"] = {"text/html": f'<p class="interactive">{words}</p>', "text/plain": words}
    return output


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
        rows.append([link, _state(record), duration(record.seconds), html.escape(record.started)])
    lines += _table(["chapter", "state", "time", "started"], rows)
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
            lines += ["", f"## {title}", "", *_table(["number", "value"], rows)]
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


def front_page(records: list[RunRecord], cards: list[str]) -> str:
    """The front page: chapters as cards, recordings × chapters, their numbers, provenance."""
    groups = _by_key(records)
    titles = {name: name for name in sorted({record.chapter for record in records})}
    titles.update({k: v for k, v in chapter_titles().items() if k in titles})
    lines = [
        "# The SAE Handbook: report",
        "",
        "Sparse autoencoders on neural recordings: every chapter below was executed on every "
        "recording listed, with the parameters and versions at the end of this page.",
        "",
    ]
    if not records:
        lines += ["No chapter has ended yet; this page fills as they do.", ""]
    lines += _raw(f'<div class="chapter-cards">{"".join(cards)}</div>') if cards else []
    if records:
        lines += ["## Recordings and chapters", ""]
        rows = []
        for key, group in groups.items():
            by_chapter = {record.chapter: record for record in group}
            name = f'<a href="{quote(key)}/index.html">{html.escape(recording_name(group[0]))}</a>'
            name += f' <span class="set">{html.escape(group[0].params)}</span>'
            cells = []
            for chapter in titles:
                record = by_chapter.get(chapter)
                if record is None:
                    cells.append('<span class="state missing">–</span>')
                    continue
                href = f"{quote(key)}/{quote(chapter)}.html"
                cells.append(f'<a href="{href}">{_state(record)} {duration(record.seconds)}</a>')
            rows.append([name, *cells])
        # Full titles would push the last chapters out of sight; the cards above carry them.
        lines += _table(["recording", *(name.replace("_", " ") for name in titles)], rows)
        lines += _numbers(groups, titles)
        lines += _failures(records, titles)
    lines += _unusable()
    if records:
        lines += _provenance(records)
    for key, group in groups.items():
        title = f"{recording_name(group[0])} · {group[0].params}"
        lines += ["```{toctree}", ":hidden:", "", f"{title} <{key}/index>", "```", ""]
    return "\n".join(lines)


def _numbers(groups: dict[str, list[RunRecord]], titles: dict[str, str]) -> list[str]:
    """Headline numbers: one table a chapter, one row a recording."""
    lines: list[str] = []
    for chapter, title in titles.items():
        found = []
        for group in groups.values():
            for record in group:
                if record.chapter == chapter and record.state == "finished":
                    numbers = headline(read_json(record.folder / METRICS_FILE), n=5)
                    found.append((record, numbers))
        names = list(dict.fromkeys(name for _, numbers in found for name in numbers))
        if not names:
            continue
        rows = []
        for record, numbers in found:
            label = html.escape(recording_name(record))
            label += f' <span class="set">{html.escape(record.params)}</span>'
            rows.append([label, *(number(numbers.get(name)) for name in names)])
        heads = [name.replace("_", " ") for name in names]
        lines += ["", f"### {title}", "", *_table(["recording", *heads], rows, numeric=True)]
    return ["", "## Main numbers", *lines] if lines else []


def _failures(records: list[RunRecord], titles: dict[str, str]) -> list[str]:
    rows = []
    for record in records:
        if record.state == "failed":
            href = f"{quote(record.key)}/{quote(record.chapter)}.html"
            name = f'<a href="{href}">{html.escape(titles[record.chapter])}</a>'
            where = f"cell {record.cell}" if record.cell else ""
            error = f"<code>{html.escape(record.error)}</code>"
            rows.append([name, html.escape(recording_name(record)), where, error])
    if not rows:
        return []
    return [
        "",
        "## Chapters that stopped",
        "",
        *_table(["chapter", "recording", "where", "error"], rows),
    ]


def _unusable() -> list[str]:
    entries = read_json(runs_folder() / RECORDINGS_FILE).get("unusable", [])
    if not entries:
        return []
    rows = [
        [f"<code>{html.escape(Path(e['path']).name)}</code>", html.escape(e["reason"])]
        for e in entries
    ]
    return ["", "## Recordings that could not be used", "", *_table(["file", "reason"], rows)]


def _provenance(records: list[RunRecord]) -> list[str]:
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    names = ("device", "device_name", "threads", "python", "torch", "numpy", "saebook", "machine")
    for record in records:
        values = tuple(str(record.environment.get(name, "")) for name in names)
        if any(values):
            groups.setdefault(values, []).append(record)
    rows = []
    for values, group in groups.items():
        device = " ".join(filter(None, values[:2]))
        text = f"{device}, {values[2]} threads"
        versions = f"Python {values[3]}, torch {values[4]}, NumPy {values[5]}, saebook {values[6]}"
        dates = f"{min(r.started for r in group)} to {max(r.started for r in group)}"
        rows.append(
            [str(len(group)), *(html.escape(t) for t in (text, versions, values[7], dates))]
        )
    if not rows:
        return []
    heads = ["runs", "device", "versions", "machine", "started"]
    return ["", "## Provenance", "", *_table(heads, rows)]


def _chapter_cards(records: list[RunRecord], folder: Path, written: set[Path]) -> list[str]:
    """One card a chapter, with the first figure of its first finished run."""
    cards = []
    for chapter, source in chapter_sources().items():
        runs = [record for record in records if record.chapter == chapter]
        if not runs:
            continue
        title, purpose = title_of(read_notebook(source), chapter)
        shown = next((record for record in runs if record.state == "finished"), runs[0])
        picture = '<span class="no-figure"></span>'
        figures = sorted((shown.folder / "figures").glob("*.png"), key=_modified)
        if figures:
            thumbnail = folder / f"{chapter}.png"
            if not thumbnail.is_file() or _modified(thumbnail) != _modified(figures[0]):
                _write_thumbnail(figures[0], thumbnail)
            written.add(thumbnail)
            picture = f'<img src="thumbnails/{quote(chapter)}.png" alt="" loading="lazy">'
        href = f"{quote(shown.key)}/{quote(chapter)}.html"
        number_, _, _ = chapter.partition("_")
        cards.append(
            f'<a class="chapter-card" href="{href}">{picture}'
            f'<span class="chapter-number">{number_}</span>'
            f"<strong>{inline_html(title)}</strong><span>{inline_html(purpose)}</span></a>"
        )
    return cards


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns


def _write_thumbnail(figure: Path, thumbnail: Path) -> None:
    import os

    from PIL import Image

    thumbnail.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(figure) as image:
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        image.convert("RGB").save(thumbnail)
    # The time stamp says which figure it shows.
    os.utime(thumbnail, ns=(figure.stat().st_atime_ns, _modified(figure)))


def _state(record: RunRecord) -> str:
    sign = STATES.get(record.state, "…")
    return f'<span class="state {record.state}" title="{record.state}">{sign}</span>'


def _table(heads: list[str], rows: list[list[str]], numeric: bool = False) -> list[str]:
    """A table in HTML, since MyST tables can't hold it; wide ones scroll in their own box."""
    kind = " numeric" if numeric else ""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return _raw(f'<div class="wide{kind}">{table}</div>')


def _raw(text: str) -> list[str]:
    return ["```{raw} html", text, "```", ""]


def _write_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
