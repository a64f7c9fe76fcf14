"""A chapter in JupyterLab, opened and run in a real browser as a reader does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
CHAPTER = "00_start_here"
STARTUP_S = 90
RUN_S = 240


@pytest.fixture
def lab(tmp_path):
    """Address of a JupyterLab with settings and work space of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A save would write outputs into the tracked notebook.
    settings = tmp_path / "settings" / "@jupyterlab" / "docmanager-extension"
    settings.mkdir(parents=True)
    (settings / "plugin.jupyterlab-settings").write_text('{"autosave": false}')
    environment = {
        **os.environ,
        "SAEBOOK_RUNS": str(tmp_path / "runs"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    arguments = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    # The application itself is asked about the notebook, so it has to be in reach of the page.
    arguments.append("--LabApp.expose_app_in_browser=True")
    arguments += [
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--ServerApp.port_retries=0",
    ]
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "saebook", "lab", "--", *arguments],
        cwd=PROJECT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTUP_S
        while True:
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                said = (tmp_path / "lab.log").read_text()
                assert server.poll() is None and time.monotonic() < deadline, said[-2000:]
                time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


@pytest.mark.browser
def test_the_first_chapter_runs_in_jupyterlab(browser, lab):
    if not (PROJECT / "notebooks" / f"{CHAPTER}.ipynb").is_file():
        pytest.fail(f"no notebooks/{CHAPTER}.ipynb")
    before = (PROJECT / "notebooks" / f"{CHAPTER}.ipynb").read_bytes()
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{lab}/lab/tree/{CHAPTER}.ipynb")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=STARTUP_S * 1000)
    # Run before the kernel is connected, JupyterLab asks which one to take.
    page.wait_for_function(
        """() => {
            const session = window.jupyterapp.shell.currentWidget?.sessionContext;
            const kernel = session?.session?.kernel;
            return session?.isReady && kernel?.connectionStatus === 'connected'
                && kernel.status === 'idle';
        }""",
        timeout=STARTUP_S * 1000,
    )
    assert page.get_by_text("official Jupyter news").count() == 0
    # Stripped notebooks keep their counts: without them, a count says that a cell has run.
    page.evaluate("""() => {
        for (const cell of window.jupyterapp.shell.currentWidget.content.model.cells)
            if (cell.type === 'code') cell.executionCount = null;
    }""")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    # JupyterLab draws only what is in view, so the model of the notebook is asked.
    state = """() => {
        const panel = window.jupyterapp.shell.currentWidget;
        const cells = [...panel.content.model.cells].filter(c => c.type === 'code');
        return {
            idle: panel.sessionContext.session?.kernel?.status === 'idle',
            left: cells.filter(c => c.sharedModel.getSource().trim()
                && !c.executionCount).length,
            last: cells.length ? JSON.stringify(cells[cells.length - 1].sharedModel.outputs) : '',
            errors: cells.flatMap(c => c.sharedModel.outputs)
                .filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`),
        };
    }"""
    deadline = time.monotonic() + RUN_S
    found = page.evaluate(state)
    while (not found["idle"] or found["left"]) and not found["errors"]:
        assert time.monotonic() < deadline, found
        page.wait_for_timeout(500)
        found = page.evaluate(state)
    assert not found["errors"]
    assert found["last"] not in ("", "[]"), "the last cell shows nothing"
    page.keyboard.press("Escape")
    page.keyboard.press("Control+End")
    page.wait_for_timeout(500)
    assert page.locator(".jp-OutputArea-output").count() > 0
    assert errors == []
    assert (PROJECT / "notebooks" / f"{CHAPTER}.ipynb").read_bytes() == before
    page.close()
