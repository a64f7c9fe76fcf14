"""Global random generators, borrowed: packages that know no other are seeded and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def seeded(random_state: int) -> Iterator[None]:
    """Seed the global generators of torch and numpy; afterwards they are as they were.

    Parameters
    ----------
    random_state
        Seed.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_rng_state()
    >>> with seeded(3):
    ...     first = torch.rand(1)
    >>> with seeded(3):
    ...     bool(torch.rand(1) == first)
    True
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    import torch

    accelerators = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(accelerators), seeded_numpy(random_state):
        torch.manual_seed(random_state)
        yield


@contextmanager
def seeded_numpy(random_state: int) -> Iterator[None]:
    """Seed the global generator of numpy alone, as :func:`seeded` does.

    Parameters
    ----------
    random_state
        Seed.

    Examples
    --------
    >>> with seeded_numpy(3):
    ...     round(float(np.random.rand()), 3)
    0.551
    """
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(random_state % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
