"""The command line on a small checkout of its own: running, resuming, failing, reporting."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from saebook.__main__ import COMMANDS, main
from saebook.commands import screen as screen_command
from saebook.commands.markup import inline_html
from saebook.commands.notebook_page import notebook_page
from saebook.commands.screen import recording_files
from saebook.commands.site import publish
from saebook.errors import RecordingError
from saebook.notebook.execution import ENGINE, engine_alive, engine_identity
from saebook.notebook.runs import RunRecord, fingerprint, recording_key, run_records
from saebook.notebook.simulated import simulated_path

PARAMETERS = 'recording_path: str = ""  # NWB file\nseed: int = 0  # seed\nname: str = "a"  # text'
SAVE = """
import json, os, pathlib
folder = pathlib.Path(os.environ["SAEBOOK_RUN_DIR"])
(folder / "metrics.json").write_text(json.dumps({"seed": seed, "name": name}))
print(recording_path)
"""


def write_chapter(folder: Path, name: str, *cells: str, declared: str = PARAMETERS) -> Path:
    """A chapter without torch, so that it runs in the time a kernel takes to start."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    heading = nbformat.v4.new_markdown_cell(f"# Chapter {name}\n\n> What $x^2$ is for.", id="title")
    parameters = nbformat.v4.new_code_cell(declared, id="parameters")
    parameters.metadata["tags"] = ["parameters"]
    code = [nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(cells)]
    notebook.cells = [heading, parameters, *code]
    path = folder / "notebooks" / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def checkout(tmp_path, project, monkeypatch):
    """A checkout with one chapter, and the project's own Snakefile, profiles and report style."""
    (tmp_path / "notebooks" / "params").mkdir(parents=True)
    (tmp_path / "reports").mkdir()
    shutil.copy(project / "Snakefile", tmp_path)
    shutil.copytree(project / "profiles", tmp_path / "profiles")
    shutil.copy(project / "reports" / "conf.py", tmp_path / "reports")
    shutil.copytree(project / "reports" / "_static", tmp_path / "reports" / "_static")
    (tmp_path / "notebooks" / "params" / "smoke.yaml").write_text("{}\n")
    (tmp_path / "notebooks" / "params" / "laptop.yaml").write_text("20_small:\n  seed: 5\n")
    write_chapter(tmp_path, "20_small", SAVE)
    monkeypatch.setenv("SAEBOOK_ROOT", str(tmp_path))
    monkeypatch.delenv("SAEBOOK_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    simulated_path().parent.mkdir(parents=True)
    simulated_path().touch()
    return tmp_path


def saebook(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "saebook", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out) > 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "20", "-p", "sed=1"], "did you mean 'seed'"),
        (["run", "20", "-p", "seed=x"], "seed has to be int, not 'x'"),
        (["run", "21_nothing"], "no chapter '21_nothing'"),
        (["run", "20", "--params", "huge"], "laptop, smoke"),
        (["run", "20", "--recording", "nowhere.nwb"], "no file nowhere.nwb"),
        (["run", "20", "--out", "notebooks"], "no run folder"),
        (["handbook", "--params", "huge"], "no parameter set 'huge'"),
        (["handbook", "--nwb", "nowhere/*.nwb"], "matches no file"),
        (["handbook", "--chapters", "99"], "no chapter '99'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(checkout, capsys, arguments, words):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("error: ")
    assert not run_records()


def test_a_damaged_notebook_is_named(checkout, capsys):
    (checkout / "notebooks" / "20_small.ipynb").write_text('{"cells": [')
    assert main(["run", "20"]) == 2
    assert "20_small.ipynb is no notebook" in capsys.readouterr().err


def test_a_run_leaves_a_whole_folder(checkout):
    done = saebook("run", "20", "-p", "name=007", "-p", "seed=3")
    assert done.returncode == 0, done.stderr
    (record,) = run_records()
    assert record.state == "finished"
    assert json.loads((record.folder / "metrics.json").read_text()) == {"seed": 3, "name": "007"}
    assert (record.folder / "params.yaml").read_text() == "name: '007'\nseed: 3\n"
    assert not list(checkout.glob("reports/runs/*/*.partial*"))
    # Flat parameters are taken again as they are.
    again = saebook("run", "20", "-f", str(record.folder / "params.yaml"), "--out", "again")
    assert again.returncode == 0, again.stderr
    assert (checkout / "again" / "metrics.json").read_text() == (
        record.folder / "metrics.json"
    ).read_text()


def test_a_failed_run_keeps_its_notebook_and_no_metrics(checkout):
    write_chapter(checkout, "20_small", SAVE, 'raise ValueError("planted fault\\nsecond line")')
    done = saebook("run", "20")
    assert done.returncode == 1
    assert "ValueError: planted fault" in done.stdout
    (record,) = run_records()
    assert (record.state, record.cell) == ("failed", 3)
    assert not (record.folder / "metrics.json").exists()
    assert "planted fault" in (record.folder / "20_small.ipynb").read_text()


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("import sys; sys.exit(0)", "without saving its metrics"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the kernel died"),
    ],
)
def test_an_ending_that_is_no_success_is_none(checkout, cell, words):
    write_chapter(checkout, "20_small", cell, SAVE)
    assert saebook("run", "20").returncode == 1
    (record,) = run_records()
    assert record.state == "failed"
    assert words in record.error


def test_checkpoints_of_a_killed_run_are_taken_over_and_nothing_else(checkout):
    write_chapter(
        checkout,
        "20_small",
        SAVE + "print(sorted(p.name for p in folder.rglob('*') if p.is_file()))",
    )
    values = {}
    old = checkout / "reports/runs/20_small/simulated-smoke.partial-1"
    for name in ("checkpoints/step", "figures/half.png"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).touch()
    mark = fingerprint("20_small", values)
    RunRecord("20_small", "simulated", "smoke", fingerprint=mark).write(old)
    assert saebook("run", "20").returncode == 0
    (record,) = run_records()
    assert record.fingerprint == mark
    assert (record.folder / "checkpoints" / "step").is_file()
    assert not (record.folder / "figures").exists()
    assert not old.exists()


def test_fingerprints_follow_content_and_nothing_else(checkout):
    path = checkout / "notebooks" / "20_small.ipynb"
    before = fingerprint("20_small", {"seed": 1, "recording_path": "/a"})
    os.utime(path, (1, 1))
    assert fingerprint("20_small", {"seed": 1, "recording_path": "/b"}) == before
    assert fingerprint("20_small", {"seed": 2}) != before
    assert fingerprint("20_small", {"seed": 1}, "other recording") != before
    write_chapter(checkout, "20_small", SAVE + "\n1")
    assert fingerprint("20_small", {"seed": 1}) != before


def test_a_run_stops_with_the_engine_that_started_it(checkout):
    write_chapter(checkout, "20_small", "import time; time.sleep(60)", SAVE)
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host, _, _ = engine_identity().rsplit(":", 2)
    import psutil

    identity = f"{host}:{engine.pid}:{psutil.Process(engine.pid).create_time():.0f}"
    run = subprocess.Popen(
        [sys.executable, "-m", "saebook", "run", "20"],
        env={**os.environ, ENGINE: identity},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        kernels = []
        deadline = time.monotonic() + 60
        while not kernels and time.monotonic() < deadline:
            children = psutil.Process(run.pid).children()
            kernels = [c for c in children if any("ipykernel" in word for word in c.cmdline())]
            time.sleep(0.1)
        assert kernels and engine_alive(identity)
        engine.kill()
        engine.wait()
        assert run.wait(timeout=30) == 137
        assert not psutil.wait_procs(kernels, timeout=10)[1]
    finally:
        for process in (engine, run):
            process.kill()
            process.wait()
    assert not run_records()


def test_the_engine_runs_what_is_missing_and_reports_what_failed(checkout):
    write_chapter(checkout, "30_failing", SAVE, "1 / 0")
    first = saebook("handbook", "--params", "laptop")
    assert first.returncode == 1, first.stderr
    assert "ZeroDivisionError" in first.stdout
    records = {record.chapter: record for record in run_records()}
    assert {name: r.state for name, r in records.items()} == {
        "20_small": "finished",
        "30_failing": "failed",
    }
    assert json.loads((records["20_small"].folder / "metrics.json").read_text())["seed"] == 5
    front = (checkout / "reports" / "site" / "index.html").read_text()
    assert "ZeroDivisionError" in front and "30 Chapter 30_failing" in front
    # The finished one is kept, the failed one tried again.
    write_chapter(checkout, "30_failing", SAVE)
    second = saebook("handbook", "--params", "laptop")
    assert second.returncode == 0, second.stderr
    assert "running 30_failing" in second.stdout and "running 20_small" not in second.stdout
    assert "ZeroDivisionError" not in (checkout / "reports" / "site" / "index.html").read_text()


def test_a_chapter_that_draws_others_waits_for_them(checkout):
    drawn = (
        PARAMETERS + '\nresults_of: list[str] = ["30_late"]  # chapters whose results are drawn\n'
    )
    read = """
from saebook.notebook.results import find_results
folder = pathlib.Path(os.environ["SAEBOOK_RUN_DIR"])
metrics = find_results("30_late", folder).metrics
(folder / "metrics.json").write_text(json.dumps({"read": metrics["seed"]}))
"""
    # By its place in the order it would come first.
    write_chapter(checkout, "10_draws", SAVE, read, declared=drawn)
    write_chapter(checkout, "30_late", "import time; time.sleep(2)", SAVE)
    for seed in (4, 6):
        (checkout / "notebooks" / "params" / "laptop.yaml").write_text(
            f"30_late:\n  seed: {seed}\n"
        )
        done = saebook("handbook", "--params", "laptop")
        assert done.returncode == 0, done.stdout + done.stderr
        (record,) = (r for r in run_records() if r.chapter == "10_draws")
        assert json.loads((record.folder / "metrics.json").read_text()) == {"read": seed}


def test_the_slurm_profile_plans_one_job_a_chapter(checkout):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", "-n", "--nolock"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "slurm_partition=all" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["saebook handbook", "-m snakemake", "saebook run", "ipykernel"])
def test_killed_at_any_level_the_same_command_ends_with_the_same_metrics(checkout, victim):
    import psutil

    write_chapter(checkout, "30_slow", "import time; time.sleep(15)", SAVE)
    command = [sys.executable, "-m", "saebook", "handbook", "--params", "laptop"]
    engine = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    small = checkout / "reports/runs/20_small/simulated-laptop/metrics.json"
    deadline = time.monotonic() + 120

    def is_victim(process: psutil.Process) -> bool:
        # A process that has just ended has no command any more.
        with contextlib.suppress(psutil.Error):
            return victim in " ".join(process.cmdline()) and "bash" not in process.name()
        return False

    target = None
    while target is None and time.monotonic() < deadline:
        time.sleep(0.1)
        top = psutil.Process(engine.pid)
        found = [p for p in [top, *top.children(recursive=True)] if is_victim(p)]
        # Snakemake takes a result for whole once its mark of an unfinished job is gone.
        marks = [m for m in (checkout / ".snakemake" / "incomplete").rglob("*") if m.is_file()]
        target = found[0] if found and small.is_file() and len(marks) == 1 else None
    if target is None:
        engine.kill()
        engine.wait()
    assert target is not None
    before = small.stat().st_mtime_ns
    target.kill()
    again = saebook("handbook", "--params", "laptop")
    engine.wait(timeout=60)
    assert again.returncode == 0, again.stderr
    assert json.loads(small.read_text())["seed"] == 5
    assert small.stat().st_mtime_ns == before
    assert {record.state for record in run_records()} == {"finished"}
    assert len(run_records()) == 2


def test_screening_keeps_usable_files_and_says_why_not(checkout, monkeypatch, capsys):
    for name in ("a/rat.nwb", "b/rat.nwb", "c/bad.nwb"):
        (checkout / name).parent.mkdir()
        (checkout / name).write_text(name)

    def reading(path, criteria):
        if path.stem == "bad":
            raise RecordingError(f"{path}: no units table; record some")
        return {"path": str(path), "units": 3, "units_kept": 2, "seconds": 60.0, "warnings": []}

    monkeypatch.setattr(screen_command, "screen_recording", reading)
    monkeypatch.setattr(screen_command, "criteria_values", lambda params: {})
    assert main(["screen", "a", "b/*.nwb", "c", "--out", "found.json"]) == 0
    found = json.loads((checkout / "found.json").read_text())
    first, second = found["usable"]
    assert first == "rat" and re.fullmatch(r"rat-[0-9a-f]{6}", second)
    assert found["unusable"] == [
        {"path": str(checkout / "c/bad.nwb"), "reason": "no units table; record some"}
    ]
    capsys.readouterr()
    assert main(["screen", "c"]) == 2
    assert "none of 1" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [True, False])
def test_a_session_is_simulated_with_the_embedding_that_was_asked_for(kept, checkout, capsys):
    from saebook.data.simulate import rebuild_simulation

    sizes = ["--units", "20", "--trials", "8", "--embedding", "nonlinear"]
    out = [] if kept else ["--out", "made/session.nwb"]
    assert main(["simulate", *sizes, *out]) == 0
    written = Path(capsys.readouterr().out.split(": ")[1].strip())
    simulation = rebuild_simulation(checkout / written)
    assert simulation.parameters["embedding"] == "nonlinear"
    assert main(["simulate", "--kind", "place_cells", *sizes, "--out", "made/cells.nwb"]) == 2
    assert "embedding='nonlinear' with kind='place_cells'" in capsys.readouterr().err


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(RecordingError, match=r"folder without any \.nwb"):
        recording_files([tmp_path])


def test_keys_are_stable_and_never_stand_for_two_files():
    assert recording_key(Path("/a/x.nwb"), {"x": "/a/x.nwb"}) == "x"
    assert recording_key(Path("/b/x.nwb"), {"x": "/a/x.nwb"}) != "x"
    assert recording_key(Path("/a/simulated.nwb"), {}) != "simulated"


def test_pages_show_no_dead_widgets_and_only_the_end_of_a_progress_bar(checkout):
    output = nbformat.v4.new_output
    notebook = nbformat.v4.new_notebook()
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "VBox(children=())"}
    bar = {**widget, "text/plain": "  0%|          | 0/10"}
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [
        output("stream", name="stderr", text="10%\r50%\r100%\nend\n"),
        output("display_data", data=widget),
        output("display_data", data=bar),
    ]
    notebook.cells = [nbformat.v4.new_markdown_cell("# Title"), cell]
    path = checkout / "page.ipynb"
    nbformat.write(notebook, path)
    record = RunRecord("20_small", "rat <1>", "smoke", "failed", error="ValueError: `x` < 1")
    page = nbformat.reads(notebook_page(path, record), as_version=4)
    assert "rat &lt;1&gt;" in page.cells[1].source
    assert ":::{error}" in page.cells[1].source
    first, second = page.cells[2].outputs
    assert first.text == "100%\nend\n"
    assert "make lab" in second.data["text/html"]


def test_a_damaged_notebook_of_one_run_does_not_stop_the_report(checkout):
    (checkout / "empty.ipynb").touch()
    record = RunRecord("20_small", "rat", "smoke")
    for name in ("empty.ipynb", "missing.ipynb"):
        page = nbformat.reads(notebook_page(checkout / name, record), as_version=4)
        assert "can't be shown" in page.cells[0].source


def test_a_kernel_that_cannot_start_is_a_failed_run(checkout, monkeypatch):
    import papermill

    def refuse(*arguments, **options):
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(papermill, "execute_notebook", refuse)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert main(["run", "20"]) == 1
    (record,) = run_records()
    assert record.error == "RuntimeError: Kernel died before replying to kernel_info"
    assert (record.folder / "20_small.ipynb").stat().st_size


def test_a_finished_run_without_its_metrics_is_out_of_date(checkout):
    record = RunRecord("20_small", "simulated", "smoke", "finished")
    record.folder.mkdir(parents=True)
    record.write(record.folder)
    assert [found.state for found in run_records()] == ["out of date"]


def test_formulas_of_a_card_are_drawn_and_text_is_escaped():
    text = inline_html("a < b, $x^2$")
    assert text.startswith("a &lt; b, ") and "<script" not in text


def test_publishing_replaces_what_changed_and_removes_what_is_gone(tmp_path):
    built, site = tmp_path / "built", tmp_path / "site"
    (built / "a").mkdir(parents=True)
    (built / "index.html").write_text("1")
    (built / "a" / "same.html").write_text("same")
    publish(built, site)
    before = (site / "a" / "same.html").stat().st_mtime_ns
    (site / "gone").mkdir()
    (site / "gone" / "page.html").write_text("x")
    (built / "index.html").write_text("2")
    publish(built, site)
    assert (site / "index.html").read_text() == "2"
    assert (site / "a" / "same.html").stat().st_mtime_ns == before
    assert not (site / "gone").exists()
