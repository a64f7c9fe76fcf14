"""Every parameters file fits its chapters, and papermill runs chapters with parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saebook.notebook.parameters import (
    SHARED,
    chapter_parameters,
    parameter_files,
    read_parameter_file,
    resolve_parameters,
)
from saebook.notebook.project import chapter_sources
from saebook.notebook.runs import NO_RECORDING, planned_runs, reads_results

PROJECT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(path.stem for path in (PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SETS = sorted(path.stem for path in (PROJECT / "notebooks" / "params").glob("*.yaml"))


@pytest.fixture(autouse=True)
def this_checkout(monkeypatch):
    monkeypatch.setenv("SAEBOOK_ROOT", str(PROJECT))


def test_the_three_sets_are_there():
    assert {"smoke", "laptop", "gpu"} <= set(SETS)


@pytest.mark.parametrize("params", SETS)
@pytest.mark.parametrize("name", CHAPTERS)
def test_sets_hold_declared_names_of_the_right_type(name, params):
    path = chapter_sources()[name]
    resolve_parameters(name, path, params)


@pytest.mark.parametrize("params", SETS)
def test_every_shared_name_is_declared_somewhere(params):
    content = read_parameter_file(parameter_files()[params])
    declared = {name for path in chapter_sources().values() for name in chapter_parameters(path)}
    assert set(content.get(SHARED) or {}) <= declared


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_parameter_has_its_help(name):
    for parameter in chapter_parameters(chapter_sources()[name]).values():
        assert parameter.comment, f"{name}: {parameter.name} has no trailing comment"


def papermill(name: str, out: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "papermill", f"{name}.ipynb", str(out / "out.ipynb"), *arguments],
        cwd=PROJECT / "notebooks",
        env={**os.environ, "SAEBOOK_RUN_DIR": str(out)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_chapter_that_draws_lots_takes_a_seed(name):
    if reads_results(name):
        pytest.skip("it draws what other chapters found, and no lots")
    assert "seed" in chapter_parameters(chapter_sources()[name])


# What each chapter computes is run cell by cell at its defaults; one is enough for papermill.
@pytest.mark.parametrize("name", CHAPTERS[:1])
def test_papermill_runs_a_chapter_with_parameters(name, tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    done = papermill(name, tmp_path, "-f", str(tmp_path / "params.yaml"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.parametrize("text", ["sede: 1\n", "seed: one\n"])
@pytest.mark.parametrize("name", CHAPTERS[:1])
def test_papermill_itself_fails_on_wrong_parameters(name, text, tmp_path):
    (tmp_path / "params.yaml").write_text(text)
    done = papermill(name, tmp_path, "-f", str(tmp_path / "params.yaml"))
    assert done.returncode != 0
    assert "ParameterError" in done.stderr
    assert not (tmp_path / "metrics.json").exists()


def test_a_chapter_without_recordings_runs_once_whatever_recordings_there_are():
    recordings = {"a": {"path": "a.nwb"}, "b": {"path": "b.nwb"}}
    plan = planned_runs(recordings, ["25_failure_museum", "20_first_sae"])
    assert plan == [
        ("25_failure_museum", NO_RECORDING),
        ("20_first_sae", "a"),
        ("20_first_sae", "b"),
    ]
