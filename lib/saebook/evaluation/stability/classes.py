"""Which latents are stable: stability in classes of another property."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from saebook.errors import DataError


def stability_by(
    latents: pd.DataFrame, column: str, n_bins: int = 5, share: str = "share_found"
) -> pd.DataFrame:
    """Stability in classes of equal size of another property, such as density.

    Parameters
    ----------
    latents : DataFrame
        ``SeedStability.latents``.
    column : str
        ``"density"``, ``"usefulness"``, ``"unit_cosine"`` or any column of numbers.
    n_bins : int
        Classes; fewer where values repeat.
    share : str
        What to average.

    Returns
    -------
    DataFrame
        One row per class: ``low``, ``high``, ``median`` of the property, ``mean`` of the share,
        ``n`` latents. And in ``attrs["spearman"]`` the rank correlation of both over latents.

    Raises
    ------
    DataError
        The column is missing, or holds no number.

    Examples
    --------
    >>> latents = pd.DataFrame({"density": [0.1, 0.2, 0.3, 0.4], "share_found": [0, 0, 1, 1.0]})
    >>> stability_by(latents, "density", 2)["mean"].tolist()
    [0.0, 1.0]
    """
    if column not in latents or share not in latents:
        raise DataError(f"latents have columns {list(latents)}: {column!r} or {share!r} is missing")
    known = latents[[column, share]].astype(float).dropna()
    if known.empty:
        raise DataError(f"{column} is unknown for every latent: nothing to divide into classes")
    values, shares = known.to_numpy().T
    edges = np.quantile(values, np.linspace(0, 1, min(n_bins, len(values)) + 1)[1:-1])
    # A class without a latent, where values repeat, is left out.
    _, classes = np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)
    rows = []
    for number in range(int(classes.max()) + 1):
        own, part = values[classes == number], shares[classes == number]
        rows.append(
            {
                "low": own.min(),
                "high": own.max(),
                "median": float(np.median(own)),
                "mean": part.mean(),
                "n": len(own),
            }
        )
    table = pd.DataFrame(rows)
    varies = min(len(np.unique(values)), len(np.unique(shares))) > 1
    ranks = known.rank().to_numpy()
    table.attrs["spearman"] = float(np.corrcoef(ranks.T)[0, 1]) if varies else math.nan
    return table
