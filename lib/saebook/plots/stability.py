"""Figures of stability: what is found again beside chance, by whom, and in which subspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from saebook.plots.losses import legend_columns
from saebook.plots.spikes import require_columns
from saebook.plots.style import GREY, LIGHT_GREY, PAGE_WIDTH, PALETTE, panels, styled, vertical_line

COLOURS = ("blue", "vermillion", "green", "purple", "orange", "sky", "black")
NULL_STYLES = ("-", (0, (4, 3)), (0, (1, 2)), "-.")
CONTROL_COLOURS = ("vermillion", "orange", "purple")
NULL_MARKS = ("|", "x", "+", "2")


@styled
def plot_matched_cosines(
    cosines: Mapping[str, np.ndarray], nulls: Mapping[str, np.ndarray], threshold: float
) -> Figure:
    """Share of latents whose partner reaches a cosine, for models and for chance.

    Parameters
    ----------
    cosines : mapping of str to array
        Name of a model to the cosines of its latents with their partners.
    nulls : mapping of str to array
        The same for dictionaries that mean nothing; drawn in grey.
    threshold : float
        Cosine from which a pair counts.

    Returns
    -------
    Figure

    Examples
    --------
    >>> figure = plot_matched_cosines({"topk": np.array([0.2, 0.9])}, {"random": np.zeros(2)}, 0.7)
    >>> figure.axes[0].get_xlabel()
    'cosine with the partner in another seed'
    """
    figure, (axis,) = panels(1, 1, width=0.72 * PAGE_WIDTH, height=2.8)
    for name, values, colour, style in [
        *((n, v, PALETTE[c], "-") for (n, v), c in zip(cosines.items(), COLOURS)),
        *((n, v, GREY, s) for (n, v), s in zip(nulls.items(), NULL_STYLES)),
    ]:
        ordered = np.sort(np.asarray(values, float))
        ordered = ordered[np.isfinite(ordered)]
        share = 1.0 - np.arange(len(ordered)) / max(len(ordered), 1)
        axis.step(ordered, share, where="post", color=colour, linestyle=style, label=name, lw=1.3)
    vertical_line(axis, threshold, "counts as found")
    axis.set(
        xlim=(min(0.0, axis.get_xlim()[0]), 1.0),
        ylim=(0, 1.02),
        xlabel="cosine with the partner in another seed",
        ylabel="share of latents\nat or above",
    )
    axis.grid(axis="y")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


@styled
def plot_shares(
    points: pd.DataFrame,
    means: pd.DataFrame,
    labels: Mapping[str, str],
    *,
    value_label: str = "share of latents found again",
    controls: Sequence[str] = (),
) -> Figure:
    """Shares of several models with their intervals, every repetition a point, beside chance.

    Parameters
    ----------
    points : DataFrame
        One row per repetition or pair: ``model`` and one column per score.
    means : DataFrame
        One row per model and score: ``model``, ``score``, ``mean``, ``low``, ``high`` (NaN where
        there is none), and one column per null, with its mean.
    labels : mapping of str to str
        Score to panel title.
    value_label : str
        Of the horizontal axes.
    controls : sequence of str
        Models drawn in grey.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> points = pd.DataFrame({"model": ["topk"] * 2, "found": [0.4, 0.5]})
    >>> means = pd.DataFrame({"model": ["topk"], "score": ["found"], "mean": [0.45],
    ...     "low": [0.3], "high": [0.6], "random": [0.1]})
    >>> len(plot_shares(points, means, {"found": "both"}).axes)
    1
    """
    require_columns(points, ["model", *labels], "points")
    require_columns(means, ["model", "score", "mean", "low", "high"], "means")
    models, records = list(dict.fromkeys(means["model"])), means.to_dict("records")
    nulls = [c for c in means if c not in ("model", "score", "mean", "low", "high", "n")]
    height = 1.15 + 0.24 * len(models)
    figure, axes = panels(1, len(labels), height=height, sharey=True)
    for axis, (score, title) in zip(axes, labels.items(), strict=True):
        for place, model in enumerate(models):
            colour = GREY if model in controls else PALETTE["blue"]
            own = points.loc[points["model"] == model, score].to_numpy(float)
            axis.plot(own, np.full(len(own), place), "o", color=colour, ms=3, alpha=0.35, mew=0)
            at = [r for r in records if (r["model"], r["score"]) == (model, score)]
            for row in at:
                mean, low, high = (row[name] for name in ("mean", "low", "high"))
                axis.plot([low, high], [place] * 2, color=colour, lw=1.6, zorder=3)
                axis.plot([mean] * 2, [place - 0.25, place + 0.25], color=colour, lw=1.6, zorder=3)
                for null, mark in zip(nulls, NULL_MARKS):
                    axis.plot(row[null], place, mark, color=PALETTE["vermillion"], ms=6, mew=1.1)
            axis.axhline(place, color="#eeeeee", lw=0.6, zorder=0)
        axis.set(xlim=(-0.03, 1.03), xticks=[0, 0.5, 1], xlabel=value_label)
        axis.set_title(title, fontsize=8)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(models)), models)
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    handles = [
        Line2D([], [], color=PALETTE["vermillion"], marker=mark, ls="", label=null)
        for null, mark in zip(nulls, NULL_MARKS)
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=legend_columns(len(handles)),
            title="by chance",
        )
    return figure


@styled
def plot_classes(
    tables: Mapping[str, Mapping[str, pd.DataFrame]], labels: Mapping[str, str]
) -> Figure:
    """Stability in classes of other properties of latents, one panel per property.

    Parameters
    ----------
    tables : mapping of str to mapping of str to DataFrame
        Property to model to the table of
        :func:`saebook.evaluation.stability.stability_by`.
    labels : mapping of str to str
        Property to the label of its axis.

    Returns
    -------
    Figure

    Examples
    --------
    >>> table = pd.DataFrame({"median": [0.01, 0.1], "mean": [0.2, 0.8], "n": [5, 5]})
    >>> len(plot_classes({"density": {"topk": table}}, {"density": "density"}).axes)
    1
    """
    figure, axes = panels(1, len(tables), height=2.6, sharey=True)
    handles = {}
    for axis, (name, models) in zip(axes, tables.items(), strict=True):
        for colour, (model, table) in zip(COLOURS, models.items()):
            require_columns(table, ["median", "mean"], f"{name} of {model}")
            (handles[model],) = axis.plot(
                table["median"], table["mean"], "o-", color=PALETTE[colour], ms=3.5, lw=1.2
            )
        every = np.concatenate([table["median"].to_numpy(float) for table in models.values()])
        every = every[np.isfinite(every)]
        if len(every) and every.min() > 0 and every.max() > 10 * every.min():
            axis.set_xscale("log")
            subs = (1.0,) if every.max() > 300 * every.min() else (1.0, 3.0)
            axis.xaxis.set_major_locator(LogLocator(subs=subs, numticks=5))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(labels.get(name, name))
        axis.grid(axis="y")
    axes[0].set(ylim=(-0.03, 1.03), ylabel="share of other seeds\nthat find it")
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=legend_columns(len(handles)),
    )
    return figure


@styled
def plot_angles(
    angles: Sequence[np.ndarray],
    controls: Mapping[str, Sequence[np.ndarray]],
    *,
    label: str = "latents not found again",
) -> Figure:
    """Principal angles between subspaces, one line per pair, beside those of random subspaces.

    Parameters
    ----------
    angles : sequence of array
        [·] degrees of each pair, ascending.
    controls : mapping of str to sequence of array
        Name of a control to the [n_draws, ·] angles of each pair; each pair's mean is drawn.
    label : str
        Of the measured lines.

    Returns
    -------
    Figure

    Examples
    --------
    >>> figure = plot_angles([np.array([5.0, 20.0])], {"random": [np.array([[60.0, 80.0]])]})
    >>> figure.axes[0].get_ylabel()
    'principal angle (degrees)'
    """
    figure, (axis,) = panels(1, 1, width=0.72 * PAGE_WIDTH, height=2.7)
    kinds = [(label, [np.asarray(a) for a in angles], PALETTE["blue"], "-")]
    kinds += [
        (name, [np.asarray(a).mean(0) for a in drawn], colour, style)
        for (name, drawn), colour, style in zip(
            controls.items(), (GREY, PALETTE["vermillion"]), NULL_STYLES[1:]
        )
    ]
    for name, lines, colour, style in kinds:
        for i, line in enumerate(lines):
            axis.plot(
                np.arange(1, len(line) + 1),
                line,
                color=colour,
                linestyle=style,
                lw=0.9,
                alpha=0.7,
                marker="o",
                ms=2.2,
                label=name if i == 0 else None,
            )
    axis.set(ylim=(-2, 92), yticks=[0, 30, 60, 90], xlabel="dimension of the subspaces")
    axis.set_ylabel("principal angle (degrees)")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.grid(axis="y")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


@styled
def plot_session_matches(matches: pd.DataFrame) -> Figure:
    """Latents found in another session, each pair of sessions beside its controls.

    Parameters
    ----------
    matches : DataFrame
        One row per pair of sessions: ``pair``, ``way`` (a panel each), ``share``, and columns
        ``control``, ``chance`` (mean) and ``chance_high`` (upper end of what the control finds);
        rows of one pair repeat for further controls.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> rows = pd.DataFrame({"pair": ["0-1"], "way": ["units"], "share": [0.6],
    ...     "control": ["other units"], "chance": [0.1], "chance_high": [0.2]})
    >>> len(plot_session_matches(rows).axes)
    1
    """
    require_columns(
        matches, ["pair", "way", "share", "control", "chance", "chance_high"], "matches"
    )
    rows = matches.to_dict("records")
    pairs_of: dict[str, dict[str, list]] = {}
    for row in rows:
        pairs_of.setdefault(row["way"], {}).setdefault(row["pair"], []).append(row)
    controls = list(dict.fromkeys(matches["control"]))
    most = max(len(pairs) for pairs in pairs_of.values())
    figure, axes = panels(1, len(pairs_of), height=1.3 + 0.22 * most)
    handles = {}
    for axis, (way, pairs) in zip(axes, pairs_of.items(), strict=True):
        for place, own in enumerate(pairs.values()):
            (handles["found"],) = axis.plot(
                own[0]["share"], place, "o", color=PALETTE["blue"], ms=4.5, zorder=3
            )
            for offset, row in enumerate(own):
                colour = PALETTE[CONTROL_COLOURS[controls.index(row["control"]) % 3]]
                at = place + 0.17 * (offset + 1)
                axis.plot([row["chance"], row["chance_high"]], [at] * 2, color=colour, lw=1.3)
                (handles[f"by chance: {row['control']}"],) = axis.plot(
                    row["chance"], at, "|", color=colour, ms=6, mew=1.3
                )
            axis.axhline(place, color=LIGHT_GREY, lw=0.5, zorder=0)
        axis.set_yticks(range(len(pairs)), list(pairs))
        axis.set(ylim=(len(pairs) - 0.4, -0.6), xlim=(-0.03, 1.03), xticks=[0, 0.5, 1])
        axis.set_xlabel("share of latents found")
        axis.set_title(way, fontsize=8)
        axis.tick_params(axis="y", length=0)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)
    return figure
