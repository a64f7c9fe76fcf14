"""Figures of discovery: a score inside its null, what was claimed, and who else would have found it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saebook.plots.spikes import require_columns
from saebook.plots.style import COLUMN_WIDTH, GREY, LIGHT_GREY, PALETTE, panels, styled


@styled
def plot_null(score: Any, *, title: str = "") -> Figure:
    """A latent's score inside the distribution that its null gives.

    Parameters
    ----------
    score : LatentScore
        From ``Discovery.score``.
    title : str
        Heading.

    Returns
    -------
    Figure
        Histogram of the null, a dashed line at its 95th percentile, and the score.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> null = np.random.default_rng(0).normal(size=500) / 20
    >>> score = SimpleNamespace(null=null, r=0.4, p=1e-4, method="tail", null_kind="shifts")
    >>> plot_null(score).axes[0].get_xlabel()
    'correlation with the prediction, test rows'
    """
    figure, (axes,) = panels(width=COLUMN_WIDTH, height=2.5)
    null = np.asarray(score.null, dtype=float)
    null = null[np.isfinite(null)]
    what = "circular shifts" if score.null_kind == "shifts" else "permuted labels"
    if len(null):
        axes.hist(null, bins=40, color=LIGHT_GREY, label=f"{len(null):,} {what}")
    top = axes.get_ylim()[1]
    if len(null):
        limit = float(np.quantile(null, 0.95))
        axes.vlines(limit, 0, top, color=GREY, ls="--", lw=1, label="95th percentile")
    how = "Pareto tail" if score.method == "tail" else "counted"
    axes.vlines(
        score.r, 0, top, color=PALETTE["vermillion"], lw=1.8,
        label=f"observed: p = {score.p:.2g} ({how})",
    )  # fmt: skip
    # Room for the legend above the lines.
    axes.set_ylim(0, 1.55 * top)
    axes.set_xlabel("correlation with the prediction, test rows")
    axes.set_ylabel("number in the null")
    axes.legend(loc="upper left", fontsize=7)
    axes.set_title(title or "A score inside its null")
    return figure


@styled
def plot_claims(claims: pd.DataFrame) -> Figure:
    """How many latents each procedure would name, beside how many it names where nothing is true.

    Parameters
    ----------
    claims : DataFrame
        One row per procedure, index its name; columns ``recorded`` and ``rotated``, numbers of
        latents.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> claims = pd.DataFrame({"recorded": [40, 12], "rotated": [38, 0]}, ["in sample", "tested"])
    >>> len(plot_claims(claims).axes[0].patches)
    4
    """
    require_columns(claims, ["recorded", "rotated"], "claims")
    figure, (axes,) = panels(height=0.7 + 0.5 * len(claims))
    place = np.arange(len(claims))
    for offset, name, color, label in (
        (-0.19, "recorded", PALETTE["blue"], "as recorded"),
        (0.19, "rotated", LIGHT_GREY, "latents moved against behaviour: all claims are false"),
    ):
        values = claims[name].to_numpy(dtype=float)
        axes.barh(place + offset, values, height=0.36, color=color, label=label)
        for y, value in zip(place + offset, values, strict=True):
            axes.text(value, y, f" {value:.0f}", va="center", fontsize=7)
    axes.set_yticks(place, [str(name) for name in claims.index])
    axes.set_ylim(len(claims) - 0.4, -1.3)
    axes.set_xlim(0, 1.12 * max(float(claims[["recorded", "rotated"]].max().max()), 1.0))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("latents that would be named")
    axes.legend(loc="upper right", fontsize=7)
    return figure


@styled
def plot_codes(table: pd.DataFrame, *, score: str = "score_equal", most: int = 14) -> Figure:
    """The best dimension of each code for each variable, on test rows.

    Parameters
    ----------
    table : DataFrame
        From ``compare_codes``: columns ``variable``, ``code`` and the score.
    score : str
        Column to draw.
    most : int
        Variables drawn, those with the highest score of any code.

    Returns
    -------
    Figure
        One row per variable, one marker per code.

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> table = pd.DataFrame(
    ...     {"variable": ["x", "x"], "code": ["SAE", "units"], "score_equal": [0.3, 0.2]}
    ... )
    >>> len(plot_codes(table).axes[0].lines)
    3
    """
    require_columns(table, ["variable", "code", score], "table")
    best: Any = table.groupby("variable", sort=False)[score].max()
    best = best.sort_values(ascending=False, kind="stable")
    names = list(best.index[:most])
    figure, (axes,) = panels(height=0.9 + 0.24 * len(names))
    styles = zip(("o", "s", "^", "D", "v"), PALETTE.values(), strict=False)
    for (code, rows), (marker, color) in zip(table.groupby("code", sort=False), styles):
        values = rows.set_index("variable")[score].reindex(names).to_numpy(dtype=float)
        axes.plot(
            values, np.arange(len(names)), marker, color=color, label=str(code), markersize=5,
            alpha=0.85,
        )  # fmt: skip
    axes.axvline(0.0, color=GREY, lw=0.7)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("test variance explained by the best dimension")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5, fontsize=7)
    return figure


@styled
def plot_ablation(effects: pd.DataFrame) -> Figure:
    """What removing each latent costs its variable, beside removing others as frequent.

    Parameters
    ----------
    effects : DataFrame
        From ``ablation_effects``.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> effects = pd.DataFrame(
    ...     {"variable": ["x"], "lost": [0.1], "lost_control": [0.0]}, index=pd.Index([3])
    ... )
    >>> len(plot_ablation(effects).axes[0].lines)
    3
    """
    require_columns(effects, ["variable", "lost", "lost_control"], "effects")
    figure, (axes,) = panels(height=0.9 + 0.24 * len(effects))
    place = np.arange(len(effects))
    axes.plot(effects["lost_control"], place, "o", color=GREY, mfc="none", label="as frequent ones")
    axes.plot(effects["lost"], place, "o", color=PALETTE["blue"], label="this latent")
    axes.axvline(0.0, color=GREY, lw=0.7)
    names = [f"{latent}: {name}" for latent, name in effects["variable"].items()]
    axes.set_yticks(place, names)
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("decoding score lost when removed")
    axes.legend(loc="best", fontsize=7)
    return figure


@styled
def plot_attribution(table: pd.DataFrame, *, title: str = "", most: int = 12) -> Figure:
    """Units that a latent reads, and what it writes to the same units.

    Parameters
    ----------
    table : DataFrame
        From ``attribute_latent``; lags of a unit are summed.
    title : str
        Heading.
    most : int
        Units drawn.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"unit": [4, 2], "reads": [0.5, -0.1], "writes": [0.2, 0.0]})
    >>> len(plot_attribution(table).axes)
    2
    """
    require_columns(table, ["unit", "reads", "writes"], "table")
    sums: Any = table.groupby("unit", sort=False)[["reads", "writes"]].sum()
    order = np.argsort(-sums["reads"].abs().to_numpy(), kind="stable")[:most]
    sums = sums.iloc[order]
    figure, (reads, writes) = panels(1, 2, height=2.4, sharex=True)
    for axes, name, label in (
        (reads, "reads", "gradient x input"),
        (writes, "writes", "decoder weight (spikes)"),
    ):
        axes.bar(range(len(sums)), sums[name], color=PALETTE["blue"], width=0.7)
        axes.axhline(0.0, color=GREY, lw=0.7)
        axes.set_xticks(range(len(sums)), [str(unit) for unit in sums.index], rotation=90)
        axes.set_xlabel("unit, most read first")
        axes.set_ylabel(label)
    reads.set_title(title or "What switches it on")
    writes.set_title("What it writes")
    return figure
