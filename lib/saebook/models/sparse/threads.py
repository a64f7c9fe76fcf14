"""Ranges of a compiled loop on as many threads as torch may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from threading import Barrier, local
from typing import TypeVar

import numpy as np
import torch

# Multiplications below which a second thread costs more than it saves.
WORTH_A_THREAD = 1_000_000


Result = TypeVar("Result")
_this_thread = local()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch's own operations use one thread in here; the loops of this module as many as before.

    An operation on a small tensor takes a few microseconds, and as long again for its threads to
    meet at its end; where other programs keep a core busy, they wait for milliseconds.
    """
    allowed = torch.get_num_threads()
    if allowed == 1:
        yield
        return
    _this_thread.allowed = allowed
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(allowed)
        del _this_thread.allowed


def _allowed() -> int:
    """Threads that loops may use here."""
    return getattr(_this_thread, "allowed", None) or torch.get_num_threads()


@cache
def _pool(n: int) -> ThreadPoolExecutor:
    """Threads in each of which torch uses no others."""
    own = torch.get_num_threads()
    pool = ThreadPoolExecutor(n, "saebook-sparse", initializer=_work_alone)
    ready = Barrier(n)
    for started in [pool.submit(ready.wait) for _ in range(n)]:
        started.result()
    # The number is each thread's own, but what new threads begin with is shared.
    torch.set_num_threads(own)
    return pool


def _work_alone() -> None:
    # The first question makes torch give this thread the shared number, which it would otherwise
    # do after it was told another.
    torch.get_num_threads()
    torch.set_num_threads(1)


def run_each(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Results of tasks, each run by one thread, as many at a time as torch may use.

    In such a thread torch, and the loops here, use no others.
    """
    n = min(_allowed(), len(tasks))
    if n < 2:
        return [task() for task in tasks]
    running = [_pool(n).submit(task) for task in tasks]
    return [task.result() for task in running]


def spread_alone(loop: Callable[[int, int], None], n: int, work: float) -> None:
    """Run ``loop(first, last)`` over 0 … n, each range in a thread of its own with its own products.

    Where compiled loops and products of torch alternate, this spares each thread from waiting for
    the other's turn. For the parameters see `spread_evenly`.
    """
    n_ranges = n_threads(work)
    edges = _edges(n, n_ranges)
    if n_ranges == 1 or torch.get_num_threads() == 1:
        # What this very thread does uses no others that it would have to wait for.
        _run(loop, edges)
        return
    pool = _pool(n_ranges)
    tasks = [pool.submit(loop, a, b) for a, b in pairwise(edges) if b > a]
    for task in tasks:
        task.result()


def spread_evenly(loop: Callable[[int, int], None], starts: np.ndarray, work: float) -> None:
    """Run ``loop(first, last)`` over rows, in ranges of equally many entries, one for each thread.

    Parameters
    ----------
    loop
        Writes the results of its own range alone, and releases the interpreter.
    starts
        [n + 1]: where the entries of each row begin.
    work
        About how many multiplications all of them take.
    """
    n, n_ranges = len(starts) - 1, n_threads(work)
    cuts = _edges(int(starts[-1]), n_ranges)[1:-1]
    _run(loop, [0, *(int(starts.searchsorted(cut)) for cut in cuts), n])


def spread_rows(loop: Callable[[int, int], None], n: int, work: float) -> None:
    """As `spread_evenly`, over n rows that all take as long."""
    _run(loop, _edges(n, n_threads(work)))


def n_threads(work: float) -> int:
    """Threads that this much work deserves, of those that torch may use."""
    return max(1, min(_allowed(), int(work / WORTH_A_THREAD)))


def _edges(n: int, n_ranges: int) -> list[int]:
    return [n * i // n_ranges for i in range(n_ranges + 1)]


def _run(loop: Callable[[int, int], None], edges: list[int]) -> None:
    """Run a loop over the ranges between successive edges; the last one on this very thread."""
    pairs = [(a, b) for a, b in pairwise(edges) if b > a]
    if not pairs:
        return
    others = [_pool(len(pairs) - 1).submit(loop, a, b) for a, b in pairs[:-1]]
    loop(*pairs[-1])
    for other in others:
        other.result()
