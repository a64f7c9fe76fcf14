"""The built report, opened in a real browser at two widths and in both colour schemes."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest

from saebook.commands.site import build_site
from saebook.notebook.runs import RunRecord

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Report of two runs on two recordings, one of which failed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SAEBOOK_ROOT", str(PROJECT))
        environment.setenv("SAEBOOK_RUNS", str(tmp_path_factory.mktemp("report") / "runs"))
        index = _report()
    yield index
    shutil.rmtree(index.parent)


def _report() -> Path:
    output = nbformat.v4.new_output
    for recording, state, error in [
        ("simulated", "finished", ""),
        ("a_long_recording_name_20260101", "failed", "ValueError: no units left"),
    ]:
        record = RunRecord("00_start_here", recording, "smoke", state, seconds=75.0, error=error)
        record.started = "2026-01-01 00:00:00"
        folder = record.folder
        (folder / "figures").mkdir(parents=True)
        notebook = nbformat.v4.new_notebook()
        cell = nbformat.v4.new_code_cell("print('hello')", execution_count=1)
        cell.outputs = [output("stream", name="stdout", text="hello " * 60)]
        heading = nbformat.v4.new_markdown_cell("# Start\n\n> Loss $\\lVert x \\rVert^2$.")
        notebook.cells = [heading, cell]
        nbformat.write(notebook, folder / "00_start_here.ipynb")
        record.write(folder)
        if state == "finished":
            (folder / "metrics.json").write_text('{"fvu": 0.25, "l0": 8}')
            from matplotlib.figure import Figure

            figure = Figure()
            figure.subplots().plot([1, 2])
            figure.savefig(folder / "figures" / "curve.png")
    index, built = build_site()
    assert built
    # A second build has nothing to do.
    assert build_site() == (index, False)
    return index


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_the_report_opens_offline_without_errors(browser, site, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(site.as_uri())
    text = page.inner_text("main")
    for words in ("Simulated session", "a_long_recording_name_20260101", "1 min 15 s", "0.25"):
        assert words in text
    assert "ValueError: no units left" in text
    # Wide tables scroll in their own box: the page itself never does.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("td a", has_text="1 min 15 s").first.click()
    page.wait_for_selector("text=hello")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    page.close()
