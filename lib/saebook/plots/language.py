"""Figures of SAEs in language models: training, final scores, and cost against sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from saebook.metrics import mean_interval, pareto_front
from saebook.plots.spikes import require_columns
from saebook.plots.style import GREY, PAGE_WIDTH, PALETTE, horizontal_line, panels, styled

HUES = ("blue", "vermillion", "green", "purple", "sky", "orange", "black")
MARKERS = "osD^vPX"


@styled
def plot_training_metrics(
    histories: Mapping[str, pd.DataFrame | Sequence[pd.DataFrame]], *, chance: float | None = None
) -> Figure:
    """Reconstruction, sparsity and temporal consistency over training, one colour per model.

    Parameters
    ----------
    histories : mapping of str to DataFrame, or to several (one per seed)
        ``step``, ``fvu``, ``l1``, ``l0`` and ``temporal`` (the temporal-contrastive loss), all
        measured on the same held-out examples for every model, whether or not it trains on them.
    chance : float, optional
        Value of the temporal loss where all codes are alike, ln(1 + N).

    Returns
    -------
    Figure
        Three panels. The middle one shows L1 as a line and L0 dashed: both are *smaller* where
        codes are sparser, and L1 shrinks with the latents' size too, so L0 is the one to trust.

    Raises
    ------
    DataError
        A history lacks a column.

    Examples
    --------
    >>> history = pd.DataFrame({"step": [1, 2], "fvu": [1.0, 0.5], "l1": [9.0, 8.0],
    ...     "l0": [4.0, 4.0], "temporal": [5.0, 4.0]})
    >>> [axes.get_ylabel() for axes in plot_training_metrics({"base": history}).axes]
    ['FVU', 'L1 (less is sparser)', 'temporal loss (nats)', 'L0, dashed']
    """
    figure, (error, sparsity, temporal) = panels(1, 3, height=2.6)
    counted = sparsity.twinx()
    counted.spines["right"].set_visible(True)
    for hue, (name, runs) in zip(HUES, histories.items()):
        for i, history in enumerate([runs] if isinstance(runs, pd.DataFrame) else runs):
            require_columns(history, ["step", "fvu", "l1", "l0", "temporal"], f"history of {name}")
            line = {"color": PALETTE[hue], "linewidth": 1.2, "alpha": 0.8}
            error.plot(history["step"], history["fvu"], label=None if i else name, **line)
            sparsity.plot(history["step"], history["l1"], **line)
            counted.plot(history["step"], history["l0"], linestyle=(0, (4, 2)), **line)
            temporal.plot(history["step"], history["temporal"], **line)
    error.set_ylabel("FVU")
    error.set_title("Reconstruction")
    top = min(1.6, 1.08 * max(line.get_ydata().max() for line in error.lines))  # type: ignore[union-attr]
    error.set_ylim(0, max(top, 1.05))
    horizontal_line(error, 1.0, "mean of the data", above=False)
    sparsity.set_ylabel("L1 (less is sparser)")
    sparsity.set_title("Sparsity")
    sparsity.set_ylim(bottom=0)
    counted.set_ylabel("L0, dashed")
    counted.set_ylim(bottom=0)
    temporal.set_ylabel("temporal loss (nats)")
    temporal.set_title("Temporal consistency")
    if chance is not None:
        horizontal_line(temporal, chance, "all codes alike")
    for axes in (error, sparsity, temporal):
        axes.set_xlabel("step")
    figure.legend(loc="outside lower center", ncols=max(1, len(histories)))
    return figure


@styled
def plot_final_metrics(
    scores: pd.DataFrame, *, anchors: Mapping[str, float] | None = None
) -> Figure:
    """Explained variance, squared error and KL divergence of each model, with intervals.

    Parameters
    ----------
    scores : DataFrame
        One row per model and seed: ``model``, ``explained_variance``, ``mse``, ``kl`` (nats).
    anchors : mapping, optional
        KL divergence of trivial replacements by name, such as that of mean-ablation.

    Returns
    -------
    Figure
        Three panels: mean over seeds, the 95 % interval where there are several, and a
        point per seed. A model without a score (NaN) gets a dash.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> scores = pd.DataFrame({"model": ["base", "base", "PCA"], "kl": [0.2, 0.3, 0.5],
    ...     "explained_variance": [0.7, 0.72, 0.6], "mse": [3.0, 2.9, 4.0]})
    >>> len(plot_final_metrics(scores, anchors={"mean ablation": 4.0}).axes)
    3
    """
    require_columns(scores, ["model", "explained_variance", "mse", "kl"], "scores")
    names = list(dict.fromkeys(scores["model"]))
    figure, (variance, error, divergence) = panels(
        1, 3, height=1.1 + 0.27 * len(names), sharey=True
    )
    for axes, column, title, label in (
        (variance, "explained_variance", "Explained variance", "share (longer is better)"),
        (error, "mse", "Squared error", "per token (shorter is better)"),
        (divergence, "kl", "KL divergence", "nats (further left is better)"),
    ):
        _bars(axes, scores, names, column)
        axes.set_title(title)
        axes.set_xlabel(label)
    _clip_variance(variance, scores["explained_variance"].to_numpy(dtype=float))
    error.set_xlim(left=0)
    _log_divergence(divergence, scores["kl"].to_numpy(dtype=float), anchors or {})
    variance.set_yticks(range(len(names)), names)
    variance.set_ylim(len(names) - 0.45, -0.55)
    variance.tick_params(axis="y", length=0)
    return figure


def _bars(axes: Axes, scores: pd.DataFrame, names: list[str], column: str) -> None:
    for row, name in enumerate(names):
        values = scores.loc[scores["model"] == name, column].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        if not len(values):
            axes.annotate(
                "–", (0, row), xycoords=("axes fraction", "data"), xytext=(4, 0),
                textcoords="offset points", va="center", color=GREY,
            )  # fmt: skip
            continue
        interval = mean_interval(values.tolist())
        hue = PALETTE[HUES[row]] if row < 2 else "#b9b9b9"
        if column == "kl":  # on a logarithmic axis a bar has no length
            axes.plot(interval.mean, row, "D", color=hue, markersize=7)
        else:
            axes.barh(row, interval.mean, color=hue, height=0.62, alpha=0.85)
        axes.plot(values, np.full(len(values), row), ".", color="#222222", markersize=3.5)
        if np.isfinite(interval.low):
            axes.plot([interval.low, interval.high], [row, row], color="#222222", linewidth=1)


def _clip_variance(axes: Axes, values: np.ndarray) -> None:
    lowest = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    axes.set_xlim(max(-1.0, min(0.0, 1.1 * lowest)), 1.0)
    axes.axvline(0.0, color=GREY, linewidth=0.8)


def _log_divergence(axes: Axes, values: np.ndarray, anchors: Mapping[str, float]) -> None:
    shown = [float(v) for v in [*values, *anchors.values()] if np.isfinite(v) and v > 0]
    if shown:
        axes.set_xscale("log")
        axes.set_xlim(0.5 * min(shown), 2.0 * max(shown))
        wide = max(shown) > 30 * min(shown)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    for name, value in anchors.items():
        axes.axvline(value, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            name, (value, 1.0), xycoords=("data", "axes fraction"), xytext=(-2, -2),
            textcoords="offset points", rotation=90, ha="right", va="top", fontsize=7.5,
            color="#666666",
        )  # fmt: skip


@styled
def plot_pareto(
    points: pd.DataFrame, *, cost: str = "delta_ce", label: str = "Δloss (nats)",
    mean_ablation: float | None = None,
) -> Figure:  # fmt: skip
    """What SAEs cost the model against how many latents they use.

    Parameters
    ----------
    points : DataFrame
        One row per SAE: ``model`` (the family, joined by a line), ``l0`` and the cost; with
        several seeds, rows of equal ``setting`` (k or λ) are averaged for the line.
    cost : str
        Column of the cost; smaller is better.
    label : str
        Of its axis.
    mean_ablation : float, optional
        Cost of the mean in place of every activation.

    Returns
    -------
    Figure
        Rings mark settings that no other one beats in both, on average over seeds.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> points = pd.DataFrame({"model": ["base"] * 2, "l0": [4.0, 8.0], "delta_ce": [0.5, 0.2]})
    >>> plot_pareto(points).axes[0].get_xlabel()
    'L0 (fewer is sparser)'
    """
    require_columns(points, ["model", "l0", cost], "points")
    figure, (axes,) = panels(1, 1, width=PAGE_WIDTH * 0.72, height=3.0)
    settings = points["setting"] if "setting" in points else points["l0"]
    by = points.assign(at=settings).groupby(["model", "at"])[["l0", cost]]
    means = pd.DataFrame(by.mean())
    front = means.loc[pareto_front(torch.tensor(means.to_numpy(dtype=float))).numpy()]
    for hue, marker, name in zip(HUES, MARKERS, dict.fromkeys(points["model"])):
        own = points[points["model"] == name]
        line = means.loc[[name]].sort_values(by="l0")
        axes.plot(line["l0"], line[cost], "-", color=PALETTE[hue], linewidth=1.1)
        axes.plot(own["l0"], own[cost], marker, color=PALETTE[hue], markersize=4, label=name)
    axes.plot(front["l0"], front[cost], "o", mfc="none", mec="#222222", markersize=8,
              label="not beaten in both", zorder=3)  # fmt: skip
    axes.set_xscale("log")
    ticks = sorted({round(float(value), 1) for value in settings})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    values = points[cost].to_numpy(dtype=float)
    if (values > 0).all():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    if mean_ablation is not None:
        horizontal_line(axes, mean_ablation, "mean ablation")
    axes.set_xlabel("L0 (fewer is sparser)")
    axes.set_ylabel(label)
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


@styled
def plot_density(cards: Mapping[str, Any]) -> Figure:
    """How often latents are active: a histogram of log density for each model.

    Parameters
    ----------
    cards : mapping of str to ScoreCard
        By name; those of one model over the same rows.

    Returns
    -------
    Figure
        Dead latents have no logarithm: their share stands in the legend, with the number of rows
        that it was counted on.

    Examples
    --------
    >>> from saebook.metrics import CardSums
    >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0)).relu()
    >>> sums = CardSums()
    >>> sums.update(x, latents=x, reconstruction=x)
    >>> plot_density({"copy": sums.card()}).axes[0].get_ylabel()
    'share of latents (%)'
    """
    figure, (axes,) = panels(1, 1, width=PAGE_WIDTH * 0.72, height=2.5)
    n_rows = max(card.n_examples for card in cards.values())
    edges = np.linspace(np.log10(0.7 / n_rows), 0.0, 32)
    for hue, (name, card) in zip(HUES, cards.items()):
        density = card.density.numpy()
        alive = np.log10(density[density > 0])
        axes.hist(
            alive, bins=list(edges), weights=np.full(len(alive), 100 / len(density)),
            histtype="step", color=PALETTE[hue], linewidth=1.3,
            label=f"{name}: {card.dead_fraction:.0%} dead",
        )  # fmt: skip
    lowest = int(np.floor(edges[0]))
    axes.set_xticks(range(lowest, 1), [f"$10^{{{p}}}$" if p else "1" for p in range(lowest, 1)])
    axes.set_xlim(edges[0], 0.02)
    axes.set_xlabel(f"share of {n_rows:,} held-out tokens on which the latent is active")
    axes.set_ylabel("share of latents (%)")
    handles, labels = axes.get_legend_handles_labels()
    lines = [Line2D([], [], color=handle.get_edgecolor()) for handle in handles]  # type: ignore[attr-defined]
    axes.legend(lines, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure
