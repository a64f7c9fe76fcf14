"""Which files have no doctests to run here."""

from __future__ import annotations

from importlib.util import find_spec

# Kernels import Triton, which there is for Linux alone.
WITH_KERNELS = ["saebook/models/sparse/gpu/*.py", "saebook/training/updating/kernels.py"]
collect_ignore_glob = [] if find_spec("triton") else WITH_KERNELS
