"""How fast a training step is, beside the matrix products that no dense step can do without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saebook.training.config import TrainConfig
from saebook.training.devices import resolve_device
from saebook.training.memory import keep_freed_memory
from saebook.training.speed.steps import full_step
from saebook.training.speed.workloads import Workload


@dataclass(frozen=True)
class Speed:
    """What was measured of one workload.

    Attributes
    ----------
    step_ms, floor_ms
        Medians: of a full step, and of the five dense products of its size; of a stack, of all
        its members together.
    ratio
        Median over rounds of step to floor: below 1, a step takes less than dense products alone.
    cpu_ratio
        The same of processor time, which other work on the machine hardly changes (one thread).
    examples_per_s
        Of the step; those of a stack count once for each member.
    l0
        Active latents per example in the last step, the mean of a stack.
    """

    step_ms: float
    floor_ms: float
    ratio: float
    cpu_ratio: float
    examples_per_s: float
    l0: float


def dense_products(workload: Workload, device: str = "cpu") -> Callable[[], None]:
    """Make the two forward and three backward products of a dense step, without anything else."""
    n, d_in, d_sae = workload.batch_size, workload.d_in, workload.d_sae
    x, g = torch.randn(2, n, d_in, device=device)
    encoder, decoder = torch.randn(2, d_sae, d_in, device=device)
    latents = torch.randn(n, d_sae, device=device)
    wide, narrow = torch.empty_like(latents), torch.empty_like(x)
    of_rows = torch.empty_like(encoder)

    def step() -> None:
        torch.mm(x, encoder.T, out=wide)
        torch.mm(latents, decoder, out=narrow)
        torch.mm(latents.T, g, out=of_rows)
        torch.mm(g, decoder.T, out=wide)
        torch.mm(latents.T, x, out=of_rows)

    return step


def measure(
    workload: Workload,
    train: TrainConfig | None = None,
    *,
    rounds: int = 7,
    warmup: int = 3,
) -> Speed:
    """Time full steps of one workload in turn with the five dense products of its size.

    Parameters
    ----------
    workload
        What to train.
    train
        Settings of the step; the thread count is torch's.
    rounds
        Pairs of both.
    warmup
        Steps before, which pay for compilation and buffers.

    Returns
    -------
    Speed
        Medians over the rounds.
    """
    train = train or TrainConfig()
    device = resolve_device(train.device)
    if device.type == "cpu":
        keep_freed_memory()
    n, products = workload.n_models or 1, dense_products(workload, device.type)
    step = full_step(workload, train)

    def floor() -> None:
        for _ in range(n):
            products()

    for _ in range(warmup):
        losses = step()
    floor()
    steps, floors = [], []
    for _ in range(rounds):
        losses, taken = _timed(step, device)
        steps.append(taken)
        floors.append(_timed(floor, device)[1])
    ratios = [[a / b for a, b in zip(s, f)] for s, f in zip(steps, floors)]
    wall = statistics.median(s[0] for s in steps)
    return Speed(
        step_ms=1000 * wall,
        floor_ms=1000 * statistics.median(f[0] for f in floors),
        ratio=statistics.median(r[0] for r in ratios),
        cpu_ratio=statistics.median(r[1] for r in ratios),
        examples_per_s=n * workload.batch_size / wall,
        l0=float(losses["l0"].mean()),
    )


def _timed(work: Callable, device: torch.device) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """Result, and seconds of wall and processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, (time.perf_counter() - wall, max(time.process_time() - cpu, 1e-9))
