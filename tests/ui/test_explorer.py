"""The latent explorer in JupyterLab: sorted, filtered and walked through in a real browser."""

from __future__ import annotations

import json

import nbformat
import pytest

CODE = """
import numpy as np, pandas as pd
from saebook.evaluation import Variable
from saebook.widgets import latent_explorer
rng = np.random.default_rng(0)
n = 2000
latents = (rng.random((n, 40)) < 0.1) * rng.gamma(2.0, 1.0, (n, 40))
step = np.arange(n) // 10 % 8
place = Variable("place", "continuous", step * 1.0, step, np.arange(8.0), "m")
table = pd.DataFrame({
    "variable": ["place" if i % 2 else "speed" for i in range(40)],
    "score_test": rng.permutation(40) / 40, "q": rng.permutation(40) / 40,
    "discovered": np.arange(40) < 9,
}, index=pd.RangeIndex(40, name="latent"))
explorer = latent_explorer(
    latents, variables=[place], table=table, time=np.arange(n) * 0.05,
    decoder=rng.normal(size=(40, 20)),
)
explorer
"""
STATE = """() => ({
    latent: document.querySelector('p[role=status]').innerText,
    chosen: document.querySelector('.saebook-table select').selectedOptions[0]?.innerText,
    rows: [...document.querySelectorAll('.saebook-table option')].map(o => o.innerText.trim()),
    alts: [...document.querySelectorAll('.saebook-panel img')].map(i => i.alt),
    broken: [...document.querySelectorAll('.saebook-panel img')].filter(i => !i.naturalWidth).length,
    beyond: Math.max(...[...document.querySelectorAll('.saebook-panel img')]
        .map(i => i.getBoundingClientRect().right)) - innerWidth,
})"""


@pytest.mark.browser
def test_the_explorer_is_sorted_filtered_and_walked_through(browser, jupyter, tmp_path):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(CODE)]
    nbformat.write(notebook, notebooks / "explorer.ipynb")
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def settled(what: str) -> dict:
        page.wait_for_function(f"() => {{ const s = ({STATE})(); return {what}; }}", timeout=30_000)
        return page.evaluate(STATE)

    with jupyter.running_lab(tmp_path, notebooks) as address:
        found = jupyter.run_notebook(page, address, "explorer.ipynb")
        assert not found["errors"]
        page.keyboard.press("Control+b")
        rows = page.locator(".saebook-table select")
        rows.wait_for()
        first = settled("s.alts.length === 6 && !s.broken")
        assert len(first["rows"]) == 40 and first["chosen"].strip() == first["rows"][0]
        assert any("Mean activity over place (m)" in alt for alt in first["alts"])

        # Another latent, by pointing at its row.
        rows.select_option(index=7)
        number = first["rows"][7].split()[0]
        second = settled(f"s.alts[5] !== {json.dumps(first['alts'][5])} && !s.broken")
        assert second["latent"].startswith(f"Latent {number},")
        assert second["alts"][0] != first["alts"][0]

        # The next one, by keyboard alone.
        page.get_by_role("button", name="next").focus()
        page.keyboard.press("Space")
        number = first["rows"][8].split()[0]
        settled(f"s.latent.startsWith('Latent {number},')")

        # Sorted by another column, once down and once up; the latent stays.
        heading = page.locator(".saebook-table button", has_text="score_test")
        heading.click()
        down = settled("s.rows[0].includes('0.975')")
        assert down["latent"].startswith(f"Latent {number},")
        heading.click()
        settled("s.rows[39].includes('0.975')")

        # Filtered by discovery and by text, and back.
        page.get_by_text("discovered only").click()
        assert all("yes" in row.split() for row in settled("s.rows.length === 9")["rows"])
        page.get_by_placeholder("number or text").fill("place")
        settled("s.rows.length === 4")
        page.get_by_placeholder("number or text").fill("")
        page.get_by_text("discovered only").click()
        settled("s.rows.length === 40")

        # To a latent active together with it, and close up to another moment.
        other = page.get_by_title("go to this latent").first
        number = other.inner_text().split(":")[0]
        other.click()
        settled(f"s.latent.startsWith('Latent {number},')")
        page.wait_for_timeout(2000)
        before = settled("!s.broken")
        page.locator(".widget-toggle-button", has_text="3: ").first.click()
        page.wait_for_timeout(200)
        time = (
            page.locator(".widget-toggle-button", has_text="3: ")
            .first.inner_text()
            .split(": ")[1]
            .removesuffix(" s")
        )
        after = settled(f"s.alts[5].includes('{time}')")
        assert after["alts"][:5] == before["alts"][:5]

        # A narrow screen: pictures shrink and stand below one another.
        page.set_viewport_size({"width": 480, "height": 900})
        page.wait_for_timeout(500)
        assert page.evaluate(STATE)["beyond"] <= 0
        assert errors == []
        page.close()
