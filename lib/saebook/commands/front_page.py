"""The report's front page: chapters as cards, recordings × chapters, numbers, provenance."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from saebook.commands.markup import (
    chapter_titles,
    inline_html,
    raw_html,
    recording_name,
    state_sign,
    table,
    title_of,
)
from saebook.notebook.chapter import METRICS_FILE
from saebook.notebook.project import chapter_sources, read_notebook, runs_folder
from saebook.notebook.runs import (
    RECORDINGS_FILE,
    RunRecord,
    duration,
    headline,
    number,
    read_json,
)

THUMBNAIL_PIXELS = 720


def front_page(records: list[RunRecord], cards: list[str]) -> str:
    """The front page: chapters as cards, recordings × chapters, their numbers, provenance."""
    groups = runs_by_key(records)
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
    lines += raw_html(f'<div class="chapter-cards">{"".join(cards)}</div>') if cards else []
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
                cells.append(
                    f'<a href="{href}">{state_sign(record)} {duration(record.seconds)}</a>'
                )
            rows.append([name, *cells])
        # More than its number would push the last chapters out of sight; the cards carry titles.
        lines += table(["recording", *(name.split("_")[0] for name in titles)], rows)
        lines += _numbers(groups, titles)
        lines += _failures(records, titles)
    lines += _unusable()
    if records:
        lines += _provenance(records)
    for key, group in groups.items():
        title = f"{recording_name(group[0])} · {group[0].params}"
        lines += ["```{toctree}", ":hidden:", "", f"{title} <{key}/index>", "```", ""]
    return "\n".join(lines)


def runs_by_key(records: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs of each recording with one parameter set."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.key, []).append(record)
    return groups


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
        lines += ["", f"### {title}", "", *table(["recording", *heads], rows, numeric=True)]
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
        *table(["chapter", "recording", "where", "error"], rows),
    ]


def _unusable() -> list[str]:
    entries = read_json(runs_folder() / RECORDINGS_FILE).get("unusable", [])
    if not entries:
        return []
    rows = [
        [f"<code>{html.escape(Path(e['path']).name)}</code>", html.escape(e["reason"])]
        for e in entries
    ]
    return ["", "## Recordings that could not be used", "", *table(["file", "reason"], rows)]


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
    return ["", "## Provenance", "", *table(heads, rows)]


def chapter_cards(records: list[RunRecord], folder: Path, written: set[Path]) -> list[str]:
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
