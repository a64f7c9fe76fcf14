"""Hold-out by document, decided as documents come by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saebook.data.store import SPLITS
from saebook.errors import ConfigError

_BLOCK = 100


class DocumentSplits:
    """Training, validation and test for the documents of a stream whose end nobody knows.

    Of every hundred documents each split gets its share, spread evenly, so that five documents
    are enough for three splits. The order is shifted from hundred to hundred by the seed.

    Parameters
    ----------
    fractions : (float, float, float)
        Shares of train, validation and test; they sum to 1.
    seed : int
        Draws the shifts.

    Raises
    ------
    ConfigError
        If the fractions are no such shares.

    Examples
    --------
    >>> [DocumentSplits((0.7, 0.15, 0.15)).of(number) for number in range(5)]
    ['train', 'train', 'validation', 'train', 'test']
    """

    def __init__(self, fractions: Sequence[float], seed: int = 0) -> None:
        shares = np.asarray(fractions, dtype=np.float64)
        if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
            raise ConfigError(
                f"fractions={tuple(fractions)}: give three shares (train, validation, test) of at "
                "least 0 that sum to 1"
            )
        given = np.zeros(3)
        order = []
        for number in range(_BLOCK):
            # The split that is furthest behind its share; rounded, so that ties are ties.
            behind = np.round((number + 1) * shares - given, 9)
            order.append(int(np.argmax(np.where(shares > 0, behind, -np.inf))))
            given[order[-1]] += 1
        self._order, self._seed = order, seed
        self._shifts: dict[int, int] = {0: 0}

    def of(self, document: int) -> str:
        """Split of a document by its number."""
        block, place = divmod(document, _BLOCK)
        if block not in self._shifts:
            shift = int(np.random.default_rng([self._seed, block]).integers(_BLOCK))
            self._shifts = {0: 0, block: shift}
        return SPLITS[self._order[(place + self._shifts[block]) % _BLOCK]]
