"""Results that one chapter draws of another: where they come from, how they are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from saebook.__main__ import main
from saebook.errors import DataError, ParameterError
from saebook.notebook.chapter import Chapter
from saebook.notebook.paper import Paper, interval_table, latex_table
from saebook.notebook.results import find_results, publish, published_file, read_published
from saebook.notebook.runs import RunRecord, reads_results

SCORES = pd.DataFrame({"model": ["sae", "sae", "pca"], "seed": [0, 1, 0], "fvu": [0.1, 0.3, 0.5]})


@pytest.fixture
def checkout(tmp_path, project, monkeypatch):
    """A checkout with the project's notebooks and nothing run or published."""
    shutil.copy(project / "Snakefile", tmp_path)
    shutil.copytree(project / "notebooks", tmp_path / "notebooks")
    monkeypatch.setenv("SAEBOOK_ROOT", str(tmp_path))
    monkeypatch.delenv("SAEBOOK_RUNS", raising=False)
    return tmp_path


def made_run(chapter: str, recording: str, params: str, fvu: float, **of_record: Any) -> Path:
    """A finished run with a table and a number."""
    record = RunRecord(chapter, recording, params, "finished", **of_record)
    record.environment = {"device": "cpu", "torch": "2.13.0"}
    folder = record.folder
    folder.mkdir(parents=True)
    record.write(folder)
    (folder / "metrics.json").write_text(json.dumps({"fvu": fvu}))
    SCORES.assign(fvu=fvu).to_parquet(folder / "scores.parquet")
    return folder


def results_of(*asked: Any) -> Any:
    """What is found, of a type that needs no asking whether it is there."""
    return find_results(*asked)


def asking(recording: str, params: str) -> Path:
    """Folder of a run of chapter 90 in the making."""
    record = RunRecord("90_paper_figures", recording, params)
    folder = record.folder.with_name(f"{record.key}.partial-1")
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder)
    return folder


def test_a_run_draws_what_was_found_at_its_own_settings(checkout):
    made_run("30_architectures", "simulated", "smoke", 0.1, started="2026-03-01 00:00:00")
    made_run("30_architectures", "simulated", "laptop", 0.2, started="2026-01-01 00:00:00")
    made_run("30_architectures", "rat", "laptop", 0.3, started="2026-02-01 00:00:00")
    of = {
        (recording, params): results_of("30", asking(recording, params))
        for recording, params in [("simulated", "laptop"), ("rat", "laptop"), ("rat", "smoke")]
    }
    assert of["simulated", "laptop"].metrics == {"fvu": 0.2}
    assert of["rat", "laptop"].metrics == {"fvu": 0.3}
    assert of["rat", "smoke"] is None
    # In JupyterLab nobody says which: the newest.
    assert results_of("30", checkout).metrics == {"fvu": 0.1}


def test_a_chapter_without_a_recording_serves_every_recording(checkout):
    made_run("55_language_models", "no-recording", "laptop", 0.4)
    assert results_of("55", asking("rat", "laptop")).metrics == {"fvu": 0.4}


def test_a_failed_run_is_no_result(checkout):
    folder = made_run("30_architectures", "simulated", "smoke", 0.1)
    record = RunRecord("30_architectures", "simulated", "smoke", "failed")
    record.write(folder)
    assert results_of("30") is None


def test_published_results_come_back_as_they_were(checkout, capsys):
    made_run("30_architectures", "simulated", "laptop", 0.2)
    before = results_of("30")
    assert main(["publish"]) == 0
    assert "30_architectures.json" in capsys.readouterr().out
    shutil.rmtree(checkout / "reports" / "runs")
    after = results_of("30", asking("simulated", "laptop"))
    assert after.source.endswith("30_architectures.json")
    assert after.metrics == before.metrics and after.provenance == before.provenance
    pd.testing.assert_frame_equal(after.table("scores"), before.table("scores"))
    assert after.command == "python -m saebook run 30_architectures --params laptop"


def test_published_results_of_the_simulated_session_are_none_of_another_recording(checkout):
    made_run("30_architectures", "simulated", "laptop", 0.2)
    made_run("55_language_models", "no-recording", "laptop", 0.4)
    assert main(["publish"]) == 0
    shutil.rmtree(checkout / "reports" / "runs")
    assert results_of("30", asking("rat", "laptop")) is None
    assert results_of("55", asking("rat", "laptop")).metrics == {"fvu": 0.4}


def test_what_json_cannot_hold_and_what_is_long_is_told(checkout):
    folder = made_run("30_architectures", "simulated", "laptop", 0.2)
    pd.DataFrame({"x": [1.5, float("nan")]}).to_parquet(folder / "gaps.parquet")
    pd.DataFrame({"x": range(3_000)}).to_parquet(folder / "steps.parquet")
    path = published_file("30_architectures")
    assert publish(results_of("30"), path) == ["steps"]
    published: Any = read_published(path)
    gaps = published.table("gaps")["x"].tolist()
    assert gaps[0] == 1.5 and pd.isna(gaps[1])
    with pytest.raises(DataError, match=r"no table 'steps'; there are: gaps, scores"):
        published.table("steps")


def test_damaged_and_missing_results_are_named(checkout, capsys):
    path = published_file("30_architectures")
    path.parent.mkdir(parents=True)
    path.write_text('{"metrics": {')
    with pytest.raises(DataError, match=r"30_architectures.json holds no 'provenance'"):
        results_of("30")
    with pytest.raises(ParameterError, match="no chapter 'nothing'"):
        results_of("nothing")
    assert main(["publish", "--chapters", "30"]) == 2
    assert "no finished run of 30_architectures with --params laptop" in capsys.readouterr().err


def test_figures_and_tables_carry_caption_and_command(checkout, capsys):
    from matplotlib.figure import Figure

    made_run("30_architectures", "simulated", "laptop", 0.2)
    folder = asking("simulated", "laptop")
    paper = Paper(Chapter("90_paper_figures", folder, "cpu", {}))
    source: Any = paper.results("30_architectures")
    assert paper.results("40_losses") is None
    assert "40_losses: neither run nor published" in capsys.readouterr().out
    figure = Figure()
    figure.subplots().plot([0, 1])
    said = paper.figure(figure, "curve", "What is seen.", source)
    assert "**Figure 1.** What is seen." in said.data and source.command in said.data
    paper.table(source.table("scores"), "scores", "50 % of Δ.", source)
    with pytest.raises(DataError, match="two figures of the name 'curve'"):
        paper.figure(figure, "curve", "Again.", source)

    index = json.loads((folder / "paper.json").read_text())
    assert index["missing"] == ["40_losses"]
    assert [item["files"] for item in index["items"]] == [
        ["curve.png", "curve.pdf"],
        ["scores.csv", "scores.tex"],
    ]
    assert all((folder / "figures" / name).stat().st_size for name in index["items"][0]["files"])
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "tables" / "scores.csv"), source.table("scores")
    )
    assert r"\caption{50 \% of $\Delta$.}" in (folder / "tables" / "scores.tex").read_text()

    # Once the run has ended, all of it can be kept with the project.
    (folder / "metrics.json").write_text("{}")
    RunRecord("90_paper_figures", "simulated", "laptop", "finished").write(folder)
    folder.rename(folder.with_name("simulated-laptop"))
    assert main(["publish"]) == 0
    reports = checkout / "reports"
    assert (reports / "figures" / "curve.pdf").is_file()
    assert (reports / "results" / "tables" / "scores.tex").is_file()
    assert json.loads((reports / "figures" / "paper.json").read_text()) == index


def test_intervals_need_two_runs_and_leave_out_what_is_not_finite():
    runs = SCORES.assign(r=[0.5, float("nan"), float("nan")])
    numbers, shown = interval_table(runs, "model", {"fvu": "FVU", "r": "r"})
    assert numbers["FVU n"].tolist() == [2, 1] and numbers["r n"].tolist() == [1, 0]
    assert shown["FVU"].tolist() == ["0.200 [-1.071, 1.471]", "0.500"]
    assert shown["r"].tolist() == ["0.500", "–"]
    with pytest.raises(DataError, match="no column 'recall'"):
        interval_table(runs, "model", {"recall": "recall"})


def test_latex_escapes_names_and_keeps_numbers():
    text = latex_table(pd.DataFrame({"a_b": ["L1 & λ"], "n": [2.0]}), "c", "tab:c")
    assert r"a\_b" in text and r"L1 \& $\lambda$ & 2.000" in text


def test_the_chapter_names_chapters_that_exist(project):
    read = reads_results("90_paper_figures")
    assert read and all((project / "notebooks" / f"{name}.ipynb").is_file() for name in read)
    assert reads_results("20_first_sae") == []
