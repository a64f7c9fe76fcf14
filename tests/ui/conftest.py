"""Headless Chromium for the tests in a real browser."""

from __future__ import annotations

import os
import shutil

import pytest


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
