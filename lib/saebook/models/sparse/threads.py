"""Ranges of a compiled loop on as many threads as torch may use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch

# Multiplications below which a second thread costs more than it saves.
WORTH_A_THREAD = 1_000_000


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="saebook-sparse")


def spread(loop: Callable[[int, int], None], n: int, work: float) -> None:
    """Run ``loop(first, last)`` over 0 … n, in equal ranges, one for each thread.

    Parameters
    ----------
    loop
        Writes the results of its own range alone, and releases the interpreter.
    n
        Rows.
    work
        About how many multiplications all of them take.
    """
    run_ranges(loop, np.linspace(0, n, n_threads(work) + 1).astype(np.int64))


def spread_evenly(loop: Callable[[int, int], None], starts: np.ndarray, work: float) -> None:
    """As `spread`, over rows whose entries begin at ``starts`` [n + 1]: ranges of equal entries."""
    cuts = np.linspace(0, starts[-1], n_threads(work) + 1)[1:-1]
    edges = np.searchsorted(starts[1:-1], cuts, side="right")
    run_ranges(loop, np.concatenate([[0], edges, [len(starts) - 1]]))


def n_threads(work: float) -> int:
    """Threads that this much work deserves, of those that torch may use."""
    return max(1, min(torch.get_num_threads(), int(work / WORTH_A_THREAD)))


def run_ranges(loop: Callable[[int, int], None], edges: np.ndarray) -> None:
    """Run a loop over the ranges between successive edges; the last one on this very thread."""
    pairs = [(int(a), int(b)) for a, b in pairwise(edges) if b > a]
    if not pairs:
        return
    others = [_pool(len(pairs) - 1).submit(loop, a, b) for a, b in pairs[:-1]]
    loop(*pairs[-1])
    for other in others:
        other.result()
