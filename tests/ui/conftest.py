"""Headless Chromium for the tests in a real browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

LAB = Path(__file__).resolve().parents[1] / "fixtures" / "jupyter_lab.py"


@pytest.fixture(scope="session")
def jupyter():
    """How to start JupyterLab and run a notebook in it."""
    spec: Any = importlib.util.spec_from_file_location("jupyter_lab", LAB)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def browser():
    """Chromium of the system; where there is none the test is skipped, but never under CI."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs Chromium: apt-get install chromium")
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()
