"""Tests of a CUDA GPU; where there is none, their bodies still run on the CPU."""

from __future__ import annotations

import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that takes a device runs on both kinds."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say why a GPU's tests don't run."""
    if torch.cuda.is_available():
        return
    built = torch.version.cuda
    reason = "torch is built without CUDA" if built is None else "there is no CUDA GPU here"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
