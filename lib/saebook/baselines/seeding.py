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

    of_numpy = np.random.get_state()  # noqa: NPY002
    # Forks the generators of accelerators too.
    with torch.random.fork_rng():
        torch.manual_seed(random_state)
        np.random.seed(random_state % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
