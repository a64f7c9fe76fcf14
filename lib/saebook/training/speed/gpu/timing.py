"""Work done again and again on a device: what it takes, and what asking for it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

# A round of slow work is shorter, so that all rounds take about so long.
LONGEST_S = 4.0
FEWEST = 5


@dataclass(frozen=True)
class Timing:
    """Medians over rounds of work done back to back, waited for once at the end of each.

    Attributes
    ----------
    wall_us
        Time of one piece of work, in microseconds.
    device_us
        The same between two events on the device, its idle gaps included; None without a GPU.
    asking_us
        The host's part: the time that asking for it took. Close to ``wall_us`` where the device
        waits for the host.
    least_us, most_us
        Smallest and largest ``wall_us`` of a round.
    n, rounds
        Pieces of work in a round, and rounds.
    """

    wall_us: float
    device_us: float | None
    asking_us: float
    least_us: float
    most_us: float
    n: int
    rounds: int


def back_to_back(
    work: Callable[[], object],
    device: torch.device,
    *,
    n: int = 200,
    rounds: int = 5,
    warmup: int = 8,
) -> Timing:
    """Time work that is asked for without waiting for what was asked before.

    Parameters
    ----------
    work
        What to time.
    device
        That does it.
    n
        How often in a round; less often where that would take too long.
    rounds
        Of which medians are taken.
    warmup
        Times before, which pay for compilation, recording and memory.

    Examples
    --------
    >>> timing = back_to_back(lambda: sum(range(1000)), torch.device("cpu"), n=10, rounds=3)
    >>> timing.n, timing.least_us <= timing.wall_us <= timing.most_us
    (10, True)
    """
    on_gpu = device.type == "cuda"
    for _ in range(warmup):
        work()
    _round(work, device, 1)
    each = _round(work, device, 3)[0] / 1e6
    n = max(min(n, int(LONGEST_S / (rounds * each))), min(n, FEWEST))
    found = [_round(work, device, n) for _ in range(rounds)]
    walls = [wall for wall, _, _ in found]
    return Timing(
        wall_us=statistics.median(walls),
        device_us=statistics.median(between for _, _, between in found) if on_gpu else None,
        asking_us=statistics.median(asking for _, asking, _ in found),
        least_us=min(walls),
        most_us=max(walls),
        n=n,
        rounds=rounds,
    )


def _round(work: Callable[[], object], device: torch.device, n: int) -> tuple[float, float, float]:
    """Microseconds each of n pieces of work took: in all, to ask for, and between events."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(n):
            work()
        wall = 1e6 * (time.perf_counter() - start) / n
        return wall, wall, 0.0
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    first.record(torch.cuda.current_stream(device))
    for _ in range(n):
        work()
    last.record(torch.cuda.current_stream(device))
    asked = time.perf_counter()
    torch.cuda.synchronize(device)
    ended = time.perf_counter()
    between = 1000 * first.elapsed_time(last)
    return 1e6 * (ended - start) / n, 1e6 * (asked - start) / n, between / n
