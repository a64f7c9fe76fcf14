"""What a chapter opens: parameter checks, run folder, saved numbers and figures."""

from __future__ import annotations

import itertools
import json
import math
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebook.errors import DataError, EnvironmentProblem, ParameterError, RecordingError
from saebook.notebook import open_chapter, simulated_path
from saebook.notebook.chapter import Chapter
from saebook.notebook.parameters import (
    Parameter,
    check_values,
    flat_parameters,
    load_yaml,
    matches,
    parse_parameters,
    parse_text,
)
from saebook.notebook.project import file_digest, write_text

PARAMETERS_CELL = "n_seeds: int = 2  # seeds\nrate: float = 0.1"


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAEBOOK_RUN_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def chapter(tmp_path):
    return Chapter("20_first_sae", tmp_path, "cpu", {})


def namespace(**values):
    kinds = {"n_seeds": int, "rate": float, "names": list[str]}
    return {"__annotations__": kinds, "n_seeds": 2, "rate": 0.1, "names": [], **values}


def test_values_come_back_as_declared_types(run_folder, capsys):
    cells = namespace(rate=1)
    chapter = open_chapter("20_first_sae", cells)
    assert chapter.parameters == {"n_seeds": 2, "rate": 1.0, "names": []}
    assert isinstance(cells["rate"], float)
    assert chapter.path == run_folder
    line = capsys.readouterr().out
    assert "device " in line and "torch " in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_seed": 3}, "did you mean 'n_seeds'"),
        ({"n_seeds": 2.5}, "n_seeds has to be int, not 2.5"),
        ({"n_seeds": True}, "n_seeds has to be int, not True"),
        ({"n_seeds": "7"}, r"n_seeds has to be int, not '7' \(str\)"),
        ({"names": ["a", 1]}, r"names has to be list\[str\]"),
        ({"rate": None}, "rate has to be float"),
    ],
)
def test_wrong_parameters_are_refused(run_folder, values, words):
    with pytest.raises(ParameterError, match=words):
        open_chapter("20_first_sae", namespace(**values))


def test_a_refused_chapter_leaves_no_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAEBOOK_RUN_DIR", str(tmp_path / "run"))
    with pytest.raises(ParameterError):
        open_chapter("20_first_sae", namespace(extra=1))
    assert not (tmp_path / "run").exists()


def test_imports_and_what_ipython_defines_are_no_parameters(run_folder):
    open_chapter(
        "20_first_sae", namespace(np=np, exit=object(), Out={}, _dh=[], Path=type(run_folder))
    )


def test_running_a_whole_notebook_twice_does_not_mistake_results_for_parameters(run_folder):
    opening = 'chapter = open_chapter("20_first_sae", globals())'
    history = ["", "scale = 1", PARAMETERS_CELL, opening, "counts = 3", PARAMETERS_CELL, opening]
    open_chapter("20_first_sae", namespace(In=history, counts=3, scale=1))


def test_a_cell_that_papermill_injects_is_checked(run_folder):
    history = ["", PARAMETERS_CELL, "# Parameters\nn_sed = 3\n", "chapter = …"]
    with pytest.raises(ParameterError, match="n_sed"):
        open_chapter("20_first_sae", namespace(In=history, n_sed=3))


def test_a_device_that_is_not_there_is_named(run_folder, monkeypatch):
    import torch

    monkeypatch.setenv("SAEBOOK_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="SAEBOOK_DEVICE"):
        open_chapter("20_first_sae", namespace())


def test_metrics_are_plain_json_and_say_what_was_not_finite(chapter):
    import torch

    chapter.save_metrics(
        {"fvu": torch.tensor(0.25), "n": np.int64(3), "bad": math.inf, "deep": {"x": [1, np.nan]}}
    )
    chapter.save_metrics({"more": True})
    text = (chapter.path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "fvu": 0.25,
        "n": 3,
        "bad": None,
        "deep": {"x": [1, None]},
        "more": True,
        "not_finite": {"bad": "inf", "deep.x.1": "nan"},
    }
    chapter.save_metrics({"bad": 1.0, "deep": 2})
    assert "not_finite" not in json.loads((chapter.path / "metrics.json").read_text())


def test_metrics_that_json_cannot_hold_are_refused(chapter):
    with pytest.raises(DataError, match="model"):
        chapter.save_metrics({"model": object()})
    assert not (chapter.path / "metrics.json").exists()


def test_figures_are_saved_twice_the_same(chapter):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2])
    path = chapter.save_figure(figure, "curve")
    first = [path.read_bytes(), path.with_suffix(".pdf").read_bytes()]
    chapter.save_figure(figure, "curve")
    assert [path.read_bytes(), path.with_suffix(".pdf").read_bytes()] == first
    assert path.parent.name == "figures"


def test_tables_keep_their_columns(chapter):
    table = pd.DataFrame({"step": [1, 2], "fvu": [0.5, 0.25]})
    pd.testing.assert_frame_equal(pd.read_parquet(chapter.save_table(table, "history")), table)
    with pytest.raises(ParameterError, match="plain file name"):
        chapter.save_table(table, "../history")


def test_a_recording_that_is_not_there_is_named(tmp_path):
    chapter = Chapter("20_first_sae", tmp_path, "cpu", {"recording_path": "nowhere.nwb"})
    with pytest.raises(RecordingError, match=r"nowhere\.nwb"):
        _ = chapter.recording_path


def test_simulated_sessions_have_one_name_each():
    sessions = itertools.product((0, 1), ("reach", "other"), ("linear", "nonlinear"))
    assert len({simulated_path(60, 150, *session) for session in sessions}) == 8


@pytest.mark.parametrize(
    ("value", "kind", "verdict"),
    [
        (1, bool, False),
        (None, int | None, True),
        ("relu", Literal["relu", "topk"], True),
        ("gelu", Literal["relu", "topk"], False),
        ((1, 2), tuple[int, int], True),
        ((1, 2, 3), tuple[int, int], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "1"}, dict[str, int], False),
        ([[1], [2]], list[list[int]], True),
    ],
)
def test_types_match_as_declared(value, kind, verdict):
    assert matches(value, kind) is verdict


@given(st.integers(-(10**9), 10**9))
def test_integers_survive_the_command_line(value):
    assert parse_text(str(value), Parameter("n", int, 0)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_the_command_line(value):
    assert parse_text(repr(value), Parameter("x", float, 0.0)) == value


@given(st.text())
def test_text_stays_text_on_the_command_line(value):
    assert parse_text(value, Parameter("s", str, "")) == value
    assert check_values({"s": value}, {"s": str}, "here") == {"s": value}


def test_lists_and_none_on_the_command_line():
    assert parse_text("[0, 1]", Parameter("seeds", list[int], [])) == [0, 1]
    assert parse_text("none", Parameter("k", int | None, None)) is None
    assert parse_text("8", Parameter("k", int | None, None)) == 8
    with pytest.raises(ParameterError, match="seeds"):
        parse_text("[a]", Parameter("seeds", list[int], []))


@pytest.mark.parametrize(
    "cell", ["n = 2", "n: int", "n: int = 2.5", "n: Path = 'x'", "n: int = 1 + m", "print(1)"]
)
def test_a_parameters_cell_holds_typed_literals_only(cell):
    with pytest.raises(ParameterError):
        parse_parameters(cell, "here")


def test_comments_and_defaults_are_read_from_the_cell():
    declared = parse_parameters('"""Doc."""\nname: str = "a # b"  # the # name', "here")
    assert declared == {"name": Parameter("name", str, "a # b", "the # name")}


def test_sections_of_a_parameter_file_reach_their_chapter_only():
    content = {"shared": {"seed": 1, "other": 2}, "20_first_sae": {"seed": 3, "k": 4}}
    assert flat_parameters(content, "20_first_sae", ["seed", "k"]) == {"seed": 3, "k": 4}
    assert flat_parameters({"seed": 5}, "20_first_sae", ["seed"]) == {"seed": 5}
    with pytest.raises(ParameterError, match="20_frist"):
        flat_parameters({"20_frist": {"k": 1}}, "20_first_sae", ["k"])


def test_exponents_in_yaml_are_numbers():
    assert load_yaml("a: 1e-3\nb: 2E5\nc: 1e\nd: 007x") == {
        "a": 1e-3,
        "b": 2e5,
        "c": "1e",
        "d": "007x",
    }


def test_a_file_that_is_written_is_never_half_there(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_content_hash_sees_one_changed_byte(tmp_path, monkeypatch):
    from saebook.notebook import project

    path = tmp_path / "recording.nwb"
    path.write_bytes(bytes(1000))
    whole = file_digest(path)
    monkeypatch.setattr(project, "WHOLE_FILE_BYTES", 100)
    monkeypatch.setattr(project, "BLOCK_BYTES", 20)
    sampled = file_digest(path)
    path.write_bytes(bytes(999) + b"\1")
    assert file_digest(path) != sampled
    monkeypatch.setattr(project, "WHOLE_FILE_BYTES", 10_000)
    assert file_digest(path) != whole
