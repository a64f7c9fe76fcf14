"""Each chapter is a pair: the percent script people edit and the notebook that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from saebook.notebook.project import CHAPTER_NAME, notebook_cells, read_notebook

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CHAPTERS = sorted({path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.*")})


@pytest.mark.parametrize("name", CHAPTERS)
def test_script_and_notebook_hold_the_same_cells(name):
    script, notebook = (notebook_cells(NOTEBOOKS / f"{name}{end}") for end in (".py", ".ipynb"))
    assert script == notebook, f"run: jupytext --to ipynb --update notebooks/{name}.py"


@pytest.mark.parametrize("name", CHAPTERS)
def test_notebooks_are_stripped_and_name_their_kernel(name):
    assert CHAPTER_NAME.fullmatch(name)
    for end in (".py", ".ipynb"):
        metadata = read_notebook(NOTEBOOKS / f"{name}{end}")["metadata"]
        assert metadata["kernelspec"]["name"] == "python3"
    for cell in read_notebook(NOTEBOOKS / f"{name}.ipynb")["cells"]:
        kept = "keep_output" in cell["metadata"].get("tags", ())
        assert kept or not cell.get("outputs"), "run: nbstripout --keep-count"


def test_chapter_numbers_are_unique():
    numbers = [name[:2] for name in CHAPTERS]
    assert len(numbers) == len(set(numbers))
