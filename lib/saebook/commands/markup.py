"""Pieces of the report's pages: tables, signs and names as HTML, titles of chapters."""

from __future__ import annotations

import html
import re
from importlib.util import find_spec
from typing import Any

from saebook.notebook.project import chapter_sources, read_notebook
from saebook.notebook.runs import NO_RECORDING, SIMULATED, RunRecord

STATES = {"finished": "✓", "failed": "✗"}


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


def chapter_titles() -> dict[str, str]:
    """Number and title of each chapter of the checkout, by name."""
    titles = {}
    for name, source in chapter_sources().items():
        title, _ = title_of(read_notebook(source), name)
        titles[name] = f"{name[:2]} {re.sub(r'[*`$]', '', title)}"
    return titles


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


def state_sign(record: RunRecord) -> str:
    """A sign for how a run ended, its words in the title."""
    sign = STATES.get(record.state, "…")
    return f'<span class="state {record.state}" title="{record.state}">{sign}</span>'


def table(heads: list[str], rows: list[list[str]], numeric: bool = False) -> list[str]:
    """A table in HTML, since MyST tables can't hold it; wide ones scroll in their own box."""
    kind = " numeric" if numeric else ""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return raw_html(f'<div class="wide{kind}">{whole}</div>')


def raw_html(text: str) -> list[str]:
    """HTML as lines of a MyST page."""
    return ["```{raw} html", text, "```", ""]
