"""Figures of speed: steps against the products they can't do without, and what a step is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from saebook.plots.spikes import require_columns
from saebook.plots.style import LIGHT_GREY, PAGE_WIDTH, PALETTE, panels, styled, vertical_line

ENGINE_COLOURS = {
    "dense": "black",
    "lean": "sky",
    "sparse": "vermillion",
    "fused": "vermillion",
    "auto": "blue",
}
ENGINE_MARKS = {"dense": "s", "lean": "D", "sparse": "o", "fused": "o", "auto": "o"}
PART_COLOURS = ("blue", "orange", "vermillion", "green", "purple", "sky", "yellow")
NAMED_FROM = 0.06  # share of a bar below which a part is too narrow for its number


@styled
def plot_ratios(speeds: pd.DataFrame) -> Figure:
    """Steps in units of their five dense products, a row per workload, a mark per engine.

    Parameters
    ----------
    speeds : DataFrame
        Columns workload, engine and ratio; workloads keep their order, from the top.

    Returns
    -------
    Figure

    Examples
    --------
    >>> speeds = pd.DataFrame({"workload": ["a"], "engine": ["dense"], "ratio": [1.5]})
    >>> figure = plot_ratios(speeds)
    >>> figure.axes[0].get_xlabel()
    'time of a step / time of its five dense products'
    """
    require_columns(speeds, ["workload", "engine", "ratio"], "speeds")
    names = list(dict.fromkeys(speeds["workload"]))
    figure, (axes,) = panels(width=PAGE_WIDTH, height=0.9 + 0.27 * len(names))
    for row in range(len(names)):
        axes.axhline(row, color=LIGHT_GREY, linewidth=0.6, zorder=0)
    for engine, part in speeds.groupby("engine", sort=False):
        axes.plot(
            part["ratio"], [names.index(name) for name in part["workload"]],
            ENGINE_MARKS[str(engine)], color=PALETTE[ENGINE_COLOURS[str(engine)]],
            markersize=6, markeredgecolor="white", markeredgewidth=0.8, label=str(engine),
        )  # fmt: skip
    axes.set_xscale("log")
    ratios = speeds["ratio"].to_numpy(float)
    low, high = float(ratios.min()), float(ratios.max())
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20, 50) if low / 1.6 < t < high * 1.6]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(low, 1.0) / 1.25, max(high, 1.0) * 1.25)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    vertical_line(axes, 1.0)
    axes.set_xlabel("time of a step / time of its five dense products")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="engine")
    return figure


@styled
def plot_costs(costs: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Time of a step against each size that was varied, a panel each, a line per engine.

    Parameters
    ----------
    costs : DataFrame
        Columns varied (name of the size), value, engine and step_ms; and floor_ms, drawn in grey.
    labels : mapping
        Name of a size to the label of its axis; panels in this order.

    Returns
    -------
    Figure

    Examples
    --------
    >>> costs = pd.DataFrame(
    ...     {"varied": "k", "value": [1, 2], "engine": "dense", "step_ms": [1, 2], "floor_ms": 1.0}
    ... )
    >>> [axes.get_xlabel() for axes in plot_costs(costs, {"k": "k"}).axes]
    ['k']
    """
    require_columns(costs, ["varied", "value", "engine", "step_ms", "floor_ms"], "costs")
    figure, grid = panels(1, len(labels), width=PAGE_WIDTH, height=2.3, sharey=True)
    for axes, (name, label) in zip(grid, labels.items(), strict=True):
        here = costs.loc[costs["varied"] == name].sort_values("value")
        floor = here.pivot_table(index="value", values="floor_ms", aggfunc="mean")
        values = floor.index.to_numpy()
        axes.plot(
            values, floor["floor_ms"].to_numpy(), color=LIGHT_GREY, linewidth=3,
            label="five products", zorder=1,
        )  # fmt: skip
        for engine in dict.fromkeys(costs["engine"]):
            part = here.loc[here["engine"] == engine]
            axes.plot(
                part["value"], part["step_ms"], marker=ENGINE_MARKS[engine], markersize=4,
                color=PALETTE[ENGINE_COLOURS[engine]], label=engine,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(label)
    low, high = (float(grid[0].get_ylim()[i]) for i in (0, 1))
    ticks = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    grid[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    for axes in grid:
        axes.yaxis.set_minor_locator(NullLocator())
    grid[0].set_ylabel("time of a step (ms)")
    grid[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def plot_stacks(stacks: pd.DataFrame) -> Figure:
    """Time of a step of a whole stack against its members, a line per engine and way of asking.

    Parameters
    ----------
    stacks : DataFrame
        Columns members, engine, recorded (boolean; drawn without dashes) and step_us.

    Returns
    -------
    Figure

    Examples
    --------
    >>> stacks = pd.DataFrame(
    ...     {"members": [1, 4], "engine": "dense", "recorded": True, "step_us": [100.0, 150.0]}
    ... )
    >>> [line.get_label() for line in plot_stacks(stacks).axes[0].lines]
    ['dense, recorded']
    """
    require_columns(stacks, ["members", "engine", "recorded", "step_us"], "stacks")
    figure, (axes,) = panels(width=0.7 * PAGE_WIDTH, height=2.4)
    kinds: Any = stacks.groupby(["engine", "recorded"], sort=False)
    for (engine, recorded), part in kinds:
        part = part.sort_values("members")
        axes.plot(
            part["members"], part["step_us"], marker=ENGINE_MARKS[str(engine)], markersize=4,
            color=PALETTE[ENGINE_COLOURS[str(engine)]], linestyle="-" if recorded else "--",
            label=f"{engine}, {'' if recorded else 'not '}recorded",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    members = sorted(set(stacks["members"]))
    axes.set_xticks(members, [f"{n:g}" for n in members])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = (float(axes.get_ylim()[i]) for i in (0, 1))
    ticks = [m * 10.0**e for e in range(0, 8) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("SAEs side by side")
    axes.set_ylabel("time of a step (µs)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3.5)
    return figure


@styled
def plot_parts(parts: Mapping[str, Mapping[str, float]], unit: str = "ms") -> Figure:
    """What steps are made of: a bar for each, cut into its parts.

    Parameters
    ----------
    parts : mapping
        Name of a step to the sizes of its parts; the first one's parts come first in the legend.
    unit : str
        Of the sizes.

    Returns
    -------
    Figure

    Examples
    --------
    >>> figure = plot_parts({"dense": {"products": 3.0, "rest": 1.0}})
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['3', '1']
    """
    names: Sequence[str] = list(dict.fromkeys(p for part in parts.values() for p in part))
    figure, (axes,) = panels(width=PAGE_WIDTH, height=0.9 + 0.42 * len(parts))
    longest = max(sum(part.values()) for part in parts.values())
    for row, part in enumerate(parts.values()):
        start = 0.0
        for name in names:
            size = part.get(name, 0.0)
            colour = PALETTE[PART_COLOURS[names.index(name) % len(PART_COLOURS)]]
            axes.barh(row, size, left=start, height=0.62, color=colour, linewidth=0)
            if size >= NAMED_FROM * longest:
                axes.text(
                    start + size / 2, row, f"{size:.3g}", ha="center", va="center",
                    fontsize=7.5, color="white",
                )  # fmt: skip
            start += size
    for index, name in enumerate(names):
        axes.barh(0, 0, color=PALETTE[PART_COLOURS[index % len(PART_COLOURS)]], label=name)
    axes.set_yticks(np.arange(len(parts)), list(parts))
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlabel(f"time ({unit})")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
