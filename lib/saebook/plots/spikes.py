"""Figures of recordings: unit quality, sparsity of counts, rasters."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saebook.errors import DataError
from saebook.plots.style import (
    GREY,
    PAGE_WIDTH,
    PALETTE,
    horizontal_line,
    panels,
    styled,
    vertical_line,
)

OUTCOME_STYLE = {
    "kept": (PALETTE["blue"], "o"),
    "kept, undecided": (PALETTE["orange"], "D"),
    "dropped": (PALETTE["vermillion"], "X"),
}


def require_columns(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Refuse a table without the columns a figure needs, naming them."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"the {what} table lacks {', '.join(missing)}; it has {', '.join(map(str, table))}"
        )


_RULE_END = re.compile(r"[\d:,(=<>≤≥'\"]")


def dropped_per_rule(quality: pd.DataFrame) -> pd.Series:
    """Number of dropped units per rule; a unit that breaks two rules counts under both.

    Parameters
    ----------
    quality : DataFrame
        Columns ``kept`` (bool), ``verdict`` and ``reason`` (text; several reasons separated by
        ";", each beginning with the rule's name, which ends before the first number or sign).
        Units with the verdict "faulty" count as one rule, whatever their fault.

    Returns
    -------
    Series
        Counts, most frequent rule first.

    Examples
    --------
    >>> quality = pd.DataFrame({"kept": [True, False, False], "verdict": "pass",
    ...     "reason": ["", "rate 0.1 Hz under 0.5 Hz", "rate 0.2 Hz under 0.5 Hz; label 'mua'"]})
    >>> dropped_per_rule(quality).to_dict()
    {'rate': 2, 'label': 1}
    """
    rules: dict[str, int] = {}
    for kept, verdict, text in zip(
        quality["kept"], quality["verdict"], quality["reason"], strict=True
    ):
        if kept:
            continue
        parts = ["faulty train"] if verdict == "faulty" else str(text).split(";")
        # A set in order: each rule once per unit.
        for rule in dict.fromkeys(_RULE_END.split(part)[0].strip() or "other" for part in parts):
            rules[rule] = rules.get(rule, 0) + 1
    return pd.Series(rules, dtype=int).sort_values(ascending=False, kind="stable")


@styled
def plot_unit_quality(
    quality: pd.DataFrame,
    *,
    min_rate_hz: float | None = None,
    max_isi_violations: float | None = None,
) -> Figure:
    """Units kept and dropped per rule, and where each unit lies.

    Parameters
    ----------
    quality : DataFrame
        One row per unit, from ``select_units``: ``rate_hz``, ``isi_violations_ratio``,
        ``verdict`` ("pass", "fail", "undecided", "faulty"), ``kept``, ``reason``; where
        present, ``isi_violations_ratio_low`` and ``_high`` draw each unit's interval. Units
        without a rate or ratio are counted on the left and not drawn on the right.
    min_rate_hz, max_isi_violations : float, optional
        The limits used, drawn as dashed lines.

    Returns
    -------
    Figure
        Left, counts; right, ISI violations against rate.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> quality = pd.DataFrame({"rate_hz": [4.0, 0.1], "isi_violations_ratio": [0.02, 0.0],
    ...     "verdict": ["pass", "fail"], "kept": [True, False], "reason": ["", "rate 0.1 Hz"]})
    >>> len(plot_unit_quality(quality, min_rate_hz=0.5).axes)
    2
    """
    columns = ["rate_hz", "isi_violations_ratio", "verdict", "kept", "reason"]
    require_columns(quality, columns, "quality")
    rules = dropped_per_rule(quality)
    n_bars = len(rules) + 2
    figure, (bars, scatter) = panels(
        1, 2, height=max(2.4, 0.9 + 0.27 * n_bars), width_ratios=[1.0, 1.35]
    )
    kept = quality["kept"].to_numpy(dtype=bool)
    undecided = kept & (quality["verdict"] == "undecided").to_numpy()
    outcome = np.where(~kept, "dropped", np.where(undecided, "kept, undecided", "kept"))
    counts = {"kept": int((outcome == "kept").sum()), "kept, undecided": int(undecided.sum())}
    counts |= {f"dropped: {_short(rule)}": n for rule, n in rules.to_dict().items()}
    colors = [PALETTE["blue"], PALETTE["orange"], *[PALETTE["vermillion"]] * len(rules)]
    drawn = bars.barh(list(counts), list(counts.values()), color=colors, height=0.68)
    bars.bar_label(drawn, padding=3, fontsize=8)
    bars.invert_yaxis()
    bars.set_xlabel("units")
    bars.set_xlim(0, 1.15 * max(1, *counts.values()))
    bars.tick_params(axis="y", length=0)
    bars.set_title(f"{len(quality)} units: {kept.sum()} kept, {(~kept).sum()} dropped")

    rate = quality["rate_hz"].to_numpy(dtype=float, na_value=np.nan)
    ratio = quality["isi_violations_ratio"].to_numpy(dtype=float, na_value=np.nan)
    ends = [f"isi_violations_ratio_{end}" for end in ("low", "high")]
    shown = (rate > 0) & np.isfinite(ratio)
    for name, (color, marker) in OUTCOME_STYLE.items():
        chosen = shown & (outcome == name)
        if not chosen.any():
            continue
        if set(ends) <= set(quality.columns):
            low, high = (quality[end].to_numpy(dtype=float, na_value=np.nan) for end in ends)
            scatter.vlines(
                rate[chosen], low[chosen], high[chosen], color=color, alpha=0.3, linewidth=0.8
            )
        scatter.scatter(
            rate[chosen], ratio[chosen], s=16, color=color, marker=marker, alpha=0.85,
            linewidths=0, label=name,
        )  # fmt: skip
    scatter.set_xscale("log")
    scatter.xaxis.set_major_formatter("{x:g}")
    scatter.set_yscale("symlog", linthresh=0.01)
    scatter.yaxis.set_major_formatter("{x:g}")
    scatter.set_ylim(bottom=-0.001)
    scatter.set_xlabel("firing rate (Hz)")
    scatter.set_ylabel("ISI violations (ratio)")
    if min_rate_hz:
        vertical_line(scatter, min_rate_hz)
    if max_isi_violations is not None:
        horizontal_line(scatter, max_isi_violations, "limit")
    if scatter.get_legend_handles_labels()[0]:
        scatter.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3)
    return figure


def _short(rule: object, length: int = 26) -> str:
    text = str(rule)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


@styled
def plot_count_sparsity(table: pd.DataFrame, *, chosen_bin_s: float | None = None) -> Figure:
    """How sparse binned counts are, by bin size.

    Parameters
    ----------
    table : DataFrame
        One row per bin size and, optionally, session: ``bin_size_s`` (s), ``zero_share``
        (share of cells without a spike), ``empty_share`` (share of bins in which every unit
        is silent), ``active_units`` (mean units with a spike per bin); ``session``, optional,
        draws one line each.
    chosen_bin_s : float, optional
        Bin size in use, s.

    Returns
    -------
    Figure
        Left, shares; right, active units per bin.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> table = pd.DataFrame({"bin_size_s": [0.01, 0.1], "zero_share": [0.95, 0.7],
    ...     "empty_share": [0.4, 0.0], "active_units": [2.0, 12.0]})
    >>> plot_count_sparsity(table, chosen_bin_s=0.05).axes[1].get_ylabel()
    'active units per bin'
    """
    require_columns(
        table, ["bin_size_s", "zero_share", "empty_share", "active_units"], "count sparsity"
    )
    figure, (shares, active) = panels(1, 2, height=2.5)
    sessions = table.groupby("session", sort=False) if "session" in table else [("", table)]
    for number, (_, rows) in enumerate(sessions):
        rows = rows.sort_values("bin_size_s")
        milliseconds = 1000 * rows["bin_size_s"]
        first = number == 0
        shares.plot(
            milliseconds, 100 * rows["zero_share"], "o-", color=PALETTE["blue"],
            label="cells without a spike" if first else None,
        )  # fmt: skip
        shares.plot(
            milliseconds, 100 * rows["empty_share"], "s--", color=PALETTE["vermillion"],
            label="bins with all units silent" if first else None,
        )  # fmt: skip
        active.plot(milliseconds, rows["active_units"], "o-", color=PALETTE["green"])
    shares.set_ylim(-2, 102)
    shares.set_ylabel("share (%)")
    # Above the panel: the two curves may run anywhere inside it.
    shares.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0))
    active.set_ylabel("active units per bin")
    active.set_ylim(bottom=0)
    sizes = np.unique(1000 * table["bin_size_s"].to_numpy())
    for axes in (shares, active):
        axes.set_xscale("log")
        axes.set_xlabel("bin size (ms)")
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.grid(axis="y")
        if chosen_bin_s is not None:
            vertical_line(axes, 1000 * chosen_bin_s, "in use" if axes is active else "")
    return figure


@styled
def plot_raster(
    spike_times: Sequence[np.ndarray],
    *,
    start: float,
    stop: float,
    events: dict[str, Sequence[float]] | None = None,
    unit_order: Sequence[int] | None = None,
    title: str = "",
) -> Figure:
    """Spikes of many units over a stretch of time.

    Parameters
    ----------
    spike_times : sequence of ndarray
        One array of times per unit, s.
    start, stop : float
        Stretch shown, s, on the recording's own clock.
    events : dict, optional
        Name to times (s), drawn as vertical lines, one colour per name.
    unit_order : sequence of int, optional
        Order of the rows, top to bottom; as given by default.
    title : str
        Heading; none by default.

    Returns
    -------
    Figure
        Rows are units, the total rate lies below.

    Raises
    ------
    DataError
        ``stop`` is not after ``start``, or there is no unit.

    Examples
    --------
    >>> figure = plot_raster([np.array([0.1, 0.5]), np.array([0.3])], start=0.0, stop=1.0)
    >>> figure.axes[1].get_xlabel()
    'time (s)'
    """
    if not stop > start:
        raise DataError(f"start = {start} s, stop = {stop} s: the stretch must have a length")
    if not len(spike_times):
        raise DataError("no unit to draw: select units first")
    order = range(len(spike_times)) if unit_order is None else unit_order
    shown = [np.asarray(spike_times[unit], dtype=float) for unit in order]
    shown = [times[(times >= start) & (times < stop)] for times in shown]
    height = float(np.clip(1.4 + 0.035 * len(shown), 2.4, 5.0))
    figure, (raster, rate) = panels(
        2, 1, width=PAGE_WIDTH, height=height, sharex=True, height_ratios=[4, 1]
    )
    n_spikes = sum(map(len, shown))
    # Points, not lines, once marks would touch; rasterised so that a PDF stays small.
    rows = np.repeat(np.arange(len(shown)), [len(times) for times in shown])
    size = float(np.clip(150 * (height - 1) / max(len(shown), 1), 1.2, 60))
    raster.scatter(
        np.concatenate(shown), rows, marker="|", s=size, color="#222222", linewidths=0.6,
        rasterized=n_spikes > 5000,
    )  # fmt: skip
    raster.set_ylim(len(shown) - 0.4, -0.6)
    raster.set_ylabel("unit")
    if title:
        raster.set_title(title, pad=18 if events else 6)
    bins = np.linspace(start, stop, 101)
    per_second = np.histogram(np.concatenate(shown), bins)[0] / np.diff(bins) / len(shown)
    rate.stairs(per_second, bins, fill=True, color=GREY)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("mean\nrate (Hz)")
    rate.set_xlabel("time (s)")
    rate.set_xlim(start, stop)
    colors = [PALETTE[name] for name in ("vermillion", "blue", "green", "purple", "orange")]
    for number, (name, times) in enumerate((events or {}).items()):
        inside = [time for time in times if start <= time < stop]
        for axes in (raster, rate):
            for time in inside:
                axes.axvline(
                    time, color=colors[number % len(colors)], linewidth=1.0, alpha=0.8,
                    label=name if axes is raster and time == inside[0] else None,
                )  # fmt: skip
    if raster.get_legend_handles_labels()[0]:
        raster.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5)
    figure.align_ylabels()
    return figure
