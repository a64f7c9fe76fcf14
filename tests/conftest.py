"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"


@pytest.fixture
def project() -> Path:
    """Root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings kept beside the checkout, where there are any."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real recordings: {SHARED_DATA.name} is not beside this checkout")
    return SHARED_DATA
