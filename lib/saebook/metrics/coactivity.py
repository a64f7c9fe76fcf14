"""How often two latents are active together, beside what chance gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from saebook.errors import DataError


class Coactivity(NamedTuple):
    """Co-activity of one latent with others, each [m] float64.

    Attributes
    ----------
    jaccard
        Rows with both over rows with either.
    jaccard_chance
        The same from as many rows with both as chance gives, ``n_this · n_other / n_rows``. That
        number is exact over all circular shifts of one against the other, however slow they are.
    given
        Share of this latent's rows on which the other is active as well.
    given_chance
        Share of all rows on which the other is active.
    """

    jaccard: np.ndarray
    jaccard_chance: np.ndarray
    given: np.ndarray
    given_chance: np.ndarray


def coactivity(n_both: Any, n_this: int, n_other: Any, n_rows: int) -> Coactivity:
    """Jaccard index and conditional co-activity of one latent with others.

    Parameters
    ----------
    n_both : array
        [m] rows on which this latent and the other are active.
    n_this : int
        Rows on which this latent is active.
    n_other : array
        [m] rows on which the other is active.
    n_rows : int
        All rows.

    Returns
    -------
    Coactivity
        NaN where neither is ever active (`jaccard`) or this one never is (`given`).

    Raises
    ------
    DataError
        More rows with both than with either of them alone, or than there are.

    Examples
    --------
    >>> found = coactivity([5, 0], 10, [20, 30], 100)
    >>> found.jaccard.tolist(), found.given.tolist()
    ([0.2, 0.0], [0.5, 0.0])
    >>> found.given_chance.tolist(), found.jaccard_chance.round(3).tolist()
    ([0.2, 0.3], [0.071, 0.081])
    """
    both, other = np.asarray(n_both, dtype=float), np.asarray(n_other, dtype=float)
    if (both > np.minimum(other, n_this)).any() or max(n_this, other.max(initial=0)) > n_rows:
        raise DataError(
            f"up to {both.max(initial=0):.0f} rows with both, {n_this} with this latent, up to "
            f"{other.max(initial=0):.0f} with another, of {n_rows}: these can't be counts of rows"
        )
    by_chance = n_this * other / max(n_rows, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Coactivity(
            jaccard=both / (n_this + other - both),
            jaccard_chance=by_chance / (n_this + other - by_chance),
            given=both / n_this,
            given_chance=other / n_rows,
        )
