"""An executed notebook as a page of the report."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from saebook.commands.markup import recording_name
from saebook.errors import SaebookError
from saebook.notebook.project import read_notebook
from saebook.notebook.runs import RunRecord, duration

WIDGET = "application/vnd.jupyter.widget-view+json"


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
