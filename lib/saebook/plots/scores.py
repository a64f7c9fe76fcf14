"""Figures of scores: an SAE beside its controls, density, recovery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saebook.errors import DataError
from saebook.plots.spikes import require_columns
from saebook.plots.style import (
    COLUMN_WIDTH,
    GREY,
    LIGHT_GREY,
    PAGE_WIDTH,
    PALETTE,
    horizontal_line,
    panels,
    styled,
    vertical_line,
)


@styled
def plot_controls(table: pd.DataFrame, *, title: str = "") -> Figure:
    """FVU of an SAE beside its controls at the same L0.

    Parameters
    ----------
    table : DataFrame
        From ``control_table``: index the models' names, columns ``fvu``, ``low``, ``high``
        (NaN for no interval), ``l0``. A row named "SAE" is set off by colour.
    title : str
        Heading; one that says what is compared by default.

    Returns
    -------
    Figure
        One bar per model, shorter is better, with its interval over seeds.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> table = pd.DataFrame({"fvu": [0.4, 1.0], "low": [np.nan] * 2, "high": [np.nan] * 2,
    ...     "l0": [8.0, 0.0]}, index=["SAE", "mean"])
    >>> plot_controls(table).axes[0].get_xlabel()
    'FVU (shorter is better)'
    """
    require_columns(table, ["fvu", "low", "high", "l0"], "controls")
    figure, (axes,) = panels(width=PAGE_WIDTH * 0.75, height=0.9 + 0.32 * len(table))
    names = [str(name) for name in table.index]
    values = table["fvu"].to_numpy(dtype=float)
    ends = table[["low", "high"]].to_numpy(dtype=float)
    colors = [PALETTE["blue"] if name == "SAE" else LIGHT_GREY for name in names]
    drawn_to = 1.15 if np.nanmax(values) <= 1.5 else 1.5
    axes.barh(names, values, color=colors, height=0.66)
    for row, (value, (low, high), l0) in enumerate(
        zip(values, ends, table["l0"].to_numpy(dtype=float), strict=True)
    ):
        if np.isfinite(low):
            axes.plot([low, high], [row, row], color="#222222", linewidth=1.2)
        reach = min(max(value, high if np.isfinite(high) else value), drawn_to)
        remark = f"{value:.3f}" + (f"  (L0 {l0:.1f})" if l0 > 0 else "")
        inside = reach > 0.72 * drawn_to
        axes.annotate(
            remark, (reach, row), xytext=(-5 if inside else 5, 0), textcoords="offset points",
            va="center", ha="right" if inside else "left", fontsize=8,
            color="white" if inside and names[row] == "SAE" else "#222222",
        )  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlim(0, drawn_to)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("FVU (shorter is better)")
    axes.set_title(title or "The SAE beside its controls")
    if "mean" not in names:
        vertical_line(axes, 1.0, "mean of the data")
    return figure


@styled
def plot_score_card(card: Any) -> Figure:
    """A score card: FVU against L0 with the raw-unit curve, R² of units, density of latents.

    Parameters
    ----------
    card : ScoreCard
        From ``evaluate``.

    Returns
    -------
    Figure
        Three panels.

    Examples
    --------
    >>> import torch
    >>> from saebook.metrics import CardSums
    >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    >>> sums = CardSums(centre=x.mean(0))
    >>> sums.update(x, latents=x, reconstruction=0.9 * x)
    >>> len(plot_score_card(sums.card()).axes)
    3
    """
    figure, (error, units, latents) = panels(1, 3, height=2.35)
    raw = card.raw_unit
    top_l0 = max(1.0, 1.3 * card.l0, 1.3 * card.active_units if raw is not None else 0.0)
    if raw is not None:
        kept = np.arange(len(raw.curve))
        error.plot(kept, raw.curve.numpy(), "-", color=GREY, label="raw units")
        top_l0 = min(top_l0, len(raw.curve) - 1.0) if card.l0 < len(raw.curve) - 1 else top_l0
        error.axvline(
            card.active_units, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)),
            label="mean active units",
        )  # fmt: skip
    error.plot([card.l0], [card.fvu], "o", color=PALETTE["blue"], markersize=6, label="SAE")
    error.set_xlim(0, top_l0)
    if np.isfinite(card.fvu):
        error.set_ylim(0, max(1.05, 1.1 * card.fvu))
    error.set_xlabel("L0, or units kept" if raw is not None else "L0")
    error.set_ylabel("FVU")
    error.set_title("Error at its L0")
    error.legend(loc="upper right", frameon=True, framealpha=0.85, edgecolor="none", fontsize=7.5)

    r2 = card.r2_per_unit.numpy()
    r2 = r2[np.isfinite(r2)]
    if len(r2):
        shown = np.clip(r2, -1.0, 1.0)
        units.hist(
            shown, bins=np.linspace(min(0.0, shown.min()), 1.0, 21).tolist(), color=PALETTE["blue"]
        )
        vertical_line(units, float(np.median(shown)), "median")
    units.set_xlabel("R² (below -1 drawn at -1)" if len(r2) and r2.min() < -1 else "R²")
    units.set_ylabel("units" if raw is not None else "input dimensions")
    units.set_title("R² per unit" if raw is not None else "R² per input")

    density = card.density.numpy()
    alive = density[density > 0]
    n_dead = len(density) - len(alive)
    if len(alive):
        floor = min(1e-3, float(alive.min()))
        latents.hist(
            100 * alive, bins=np.geomspace(100 * floor, 100, 25).tolist(), color=PALETTE["green"]
        )
        latents.set_xscale("log")
        vertical_line(latents, 50.0)
    latents.set_xlabel("active on (% of examples)")
    latents.set_ylabel("latents")
    latents.set_title(f"Density ({n_dead} of {len(density)} dead)")
    return figure


@styled
def plot_recovery(
    similarity: Any,
    *,
    feature_names: Sequence[str] | None = None,
    threshold: float | None = 0.9,
    label: str = "cosine similarity",
    max_latents: int = 60,
) -> Figure:
    """Similarity of latents to true features, matched latents first.

    Parameters
    ----------
    similarity : Tensor or ndarray
        [n_latents, n_features] cosines (``cosine_similarity_matrix``) or correlations.
    feature_names : sequence of str, optional
        Names of the columns.
    threshold : float, optional
        Pairs of the one-to-one match at or above it get a dot.
    label : str
        What the colour means.
    max_latents : int
        Latents drawn: the matched ones, in the order of their features, then the most similar
        of the rest.

    Returns
    -------
    Figure
        Rows are features, columns latents.

    Raises
    ------
    DataError
        Not a matrix, or names that do not fit.

    Examples
    --------
    >>> figure = plot_recovery(np.eye(5)[[3, 1, 0]], feature_names=list("abcde"))
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['a', 'b', 'c', 'd', 'e']
    """
    import torch

    from saebook.metrics import match_one_to_one

    matrix = torch.as_tensor(similarity).detach().cpu().float()
    if matrix.ndim != 2 or not matrix.numel():
        raise DataError(f"similarity has shape {tuple(matrix.shape)}: give [n_latents, n_features]")
    n_features = matrix.shape[1]
    names = [str(n) for n in range(n_features)] if feature_names is None else list(feature_names)
    if len(names) != n_features:
        raise DataError(f"{len(names)} names for {n_features} features")
    rows, columns = match_one_to_one(matrix)
    order = columns.argsort()
    rows, columns = rows[order], columns[order]
    matched = set(rows.tolist())
    rest = [n for n in matrix.amax(1).argsort(descending=True).tolist() if n not in matched]
    shown = (rows.tolist() + rest)[: max(max_latents, len(rows))]
    picture = matrix[shown].T.numpy()  # [n_features, n_shown]

    width = float(np.clip(1.6 + 0.11 * len(shown), COLUMN_WIDTH, PAGE_WIDTH))
    height = float(np.clip(1.0 + 0.16 * n_features, 2.2, 6.5))
    figure, (axes,) = panels(width=width, height=height)
    low = -1.0 if picture.min() < -0.05 else 0.0
    cmap = "RdBu_r" if low < 0 else "cividis"
    image = axes.imshow(picture, aspect="auto", vmin=low, vmax=1.0, cmap=cmap)
    n_found = 0
    if threshold is not None:
        pairs = matrix[rows, columns]
        found = torch.nonzero(pairs >= threshold).flatten().numpy()
        n_found = len(found)
        axes.plot(
            found, columns.numpy()[found], "o", markersize=3.5, markerfacecolor="white",
            markeredgecolor="black", markeredgewidth=0.8,
        )  # fmt: skip
    if len(rest) and len(shown) > len(rows):
        axes.axvline(len(rows) - 0.5, color="#222222", linewidth=0.8)
    step = max(1, -(-n_features // 40))
    axes.set_yticks(range(0, n_features, step), names[::step], fontsize=7 if n_features > 15 else 8)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    left_out = matrix.shape[0] - len(shown)
    remark = f" ({left_out} more not shown)" if left_out else ""
    axes.set_xlabel(f"latents: matched, then others{remark}")
    axes.set_ylabel("true feature")
    if threshold is not None:
        axes.set_title(f"{n_found} of {n_features} features matched at ≥ {threshold:g} (dots)")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


@styled
def plot_recovery_scores(table: pd.DataFrame) -> Figure:
    """Recovery of the true features beside random dictionaries.

    Parameters
    ----------
    table : DataFrame
        From ``Recovery.table()``: index the scores, columns ``learned``, ``random``,
        ``random_low``, ``random_high``.

    Returns
    -------
    Figure
        Points for the SAE, points with intervals for chance.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> table = pd.DataFrame({"learned": [0.9], "random": [0.1], "random_low": [0.05],
    ...     "random_high": [0.15]}, index=["recall"])
    >>> plot_recovery_scores(table).axes[0].get_ylabel()
    'score'
    """
    require_columns(table, ["learned", "random", "random_low", "random_high"], "recovery")
    figure, (axes,) = panels(width=PAGE_WIDTH * 0.62, height=2.5)
    places = np.arange(len(table))
    axes.vlines(places + 0.12, table["random_low"], table["random_high"], color=GREY)
    axes.plot(places + 0.12, table["random"], "s", color=GREY, label="random dictionaries")
    axes.plot(places - 0.12, table["learned"], "o", color=PALETTE["blue"], label="SAE", ms=6)
    axes.set_xticks(places, [_SCORE_NAMES.get(str(name), str(name)) for name in table.index])
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_ylim(-0.03, 1.05)
    axes.set_ylabel("score")
    axes.set_title("Recovery of the true features")
    axes.grid(axis="y")
    horizontal_line(axes, 1.0, "")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


_SCORE_NAMES = {
    "recall": "recall\n1:1",
    "precision": "precision\n1:1",
    "mmcs_true": "MMCS\nof true",
    "mmcs_learned": "MMCS\nof learned",
}
