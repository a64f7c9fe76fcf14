"""A chapter in JupyterLab, opened and run in a real browser as a reader does."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
CHAPTER = "00_start_here"


@pytest.mark.browser
def test_the_first_chapter_runs_in_jupyterlab(browser, jupyter, tmp_path):
    if not (PROJECT / "notebooks" / f"{CHAPTER}.ipynb").is_file():
        pytest.fail(f"no notebooks/{CHAPTER}.ipynb")
    before = (PROJECT / "notebooks" / f"{CHAPTER}.ipynb").read_bytes()
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with jupyter.running_lab(tmp_path) as address:
        found = jupyter.run_notebook(page, address, f"{CHAPTER}.ipynb")
        assert not found["errors"]
        assert found["last"] not in ("", "[]"), "the last cell shows nothing"
        page.keyboard.press("Escape")
        page.keyboard.press("Control+End")
        page.wait_for_timeout(500)
        assert page.locator(".jp-OutputArea-output").count() > 0
        assert errors == []
        assert (PROJECT / "notebooks" / f"{CHAPTER}.ipynb").read_bytes() == before
        page.close()
