"""What a device can do at most, measured: matrix products, and memory moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.training.speed.gpu.timing import back_to_back
from saebook.training.speed.workloads import Workload

# Multiplicand widths of the product that counts as dense peak.
PEAK_SIZE = 8192
COPIED_BYTES = 2**31
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32}


def product(kind: str, device: torch.device, size: int = PEAK_SIZE) -> dict[str, float]:
    """A dense product [size, size] @ [size, size] of random numbers.

    Parameters
    ----------
    kind
        ``"bf16"``, ``"fp32"``, or ``"tf32"``: float32 with factors rounded to 10 bits.
    device
        That computes it.
    size
        Of the matrices.

    Returns
    -------
    dict
        ``tflop_s`` (a multiplication and an addition count as two) and ``ms``.
    """
    with _precision(kind):
        timing = back_to_back(_product(kind, device, size), device, n=10, rounds=7, warmup=3)
    return _rate(2 * size**3, timing.wall_us)


def copy(device: torch.device, n_bytes: int = COPIED_BYTES) -> dict[str, float]:
    """A copy within the device's memory; bytes read and bytes written both count.

    Returns
    -------
    dict
        ``tb_s`` and ``ms``.
    """
    source = torch.randint(0, 255, (n_bytes,), dtype=torch.uint8, device=device)
    made = torch.empty_like(source)
    timing = back_to_back(lambda: made.copy_(source), device, n=10, rounds=7, warmup=3)
    return {"tb_s": 2 * n_bytes / timing.wall_us / 1e6, "ms": timing.wall_us / 1000}


def encoder(workload: Workload, device: torch.device, size: int = PEAK_SIZE) -> dict[str, float]:
    """The encoder's product of a workload alone, in bf16, in turn with the dense peak.

    Returns
    -------
    dict
        ``tflop_s`` and ``ms`` with the bias, ``peak_tflop_s``, and ``share_of_peak``, of the
        medians.
    """
    n, d_in, d_sae = workload.batch_size, workload.d_in, workload.d_sae
    x = torch.randn(n, d_in, device=device, dtype=torch.bfloat16)
    rows = torch.randn(d_sae, d_in, device=device, dtype=torch.bfloat16)
    bias = torch.randn(d_sae, device=device, dtype=torch.bfloat16)
    peak = _product("bf16", device, size)
    products, peaks = [], []
    for _ in range(5):
        products.append(back_to_back(lambda: F.linear(x, rows, bias), device, n=10, rounds=1))
        peaks.append(back_to_back(peak, device, n=10, rounds=1))
    made = _rate(2 * n * d_in * d_sae, sorted(t.wall_us for t in products)[2])
    best = _rate(2 * size**3, sorted(t.wall_us for t in peaks)[2])
    share = made["tflop_s"] / best["tflop_s"]
    return made | {"peak_tflop_s": best["tflop_s"], "share_of_peak": share}


def _product(kind: str, device: torch.device, size: int) -> Callable[[], Tensor]:
    one, two = torch.randn(2, size, size, device=device, dtype=TYPES[kind])
    made = torch.empty_like(one)
    return lambda: torch.mm(one, two, out=made)


def _rate(operations: float, us: float) -> dict[str, float]:
    return {"tflop_s": operations / us / 1e6, "ms": us / 1000}


@contextmanager
def _precision(kind: str) -> Iterator[None]:
    """Whether products of float32 may round their factors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
