"""Where and with what a GPU's measurements were made."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("triton", "sae-lens")


def describe(device: str) -> dict[str, Any]:
    """Device, driver, versions and date, for a file of results.

    Parameters
    ----------
    device
        Name of a CUDA device.
    """
    properties = torch.cuda.get_device_properties(torch.device(device))
    versions = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    return {
        "what": (
            "full training steps and the products, copies and kernels behind them on one GPU, back "
            "to back, waited for once at the end of each round; medians over rounds"
        ),
        "note": (
            "peak memory is what a step takes beside the examples: weights, gradients, Adam's "
            "moments and everything between, with the batch's own copies; needed are the first "
            "three and two bf16 matrices of one number for each example and latent"
        ),
        "device": properties.name,
        "memory_gb": properties.total_memory / 1e9,
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver(),
        "versions": versions | {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _driver() -> str | None:
    """The driver's version, where its own tool tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (told.stdout.strip().splitlines() or [None])[0]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
