"""Figures that compare losses: what they draw where values are few, missing or equal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from saebook.errors import DataError
from saebook.plots.losses import (
    plot_against_coefficient,
    plot_count_response,
    plot_judged,
    plot_minimisers,
    plot_populations,
)


def render(figure: Figure) -> Figure:
    """Drawing is where a bad label, limit or empty legend shows."""
    figure.canvas.draw()
    assert plt.get_fignums() == []
    return figure


def scores(n_seeds: int) -> pd.DataFrame:
    rows = [
        {"rule": rule, "loss": loss, "seed": s, "r2": 0.1 * s, "bits": np.nan}
        for rule in ("BatchTopK", "L1")
        for loss in ("MSE", "PKL")
        for s in range(n_seeds)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("n_seeds", "n_bars"), [(2, 0), (3, 4)])
def test_intervals_are_drawn_from_three_seeds_on(n_seeds, n_bars):
    figure = render(plot_judged(scores(n_seeds), {"r2": "R²"}, place="rule", colour="loss"))
    (axes,) = figure.axes
    bars = [line for line in axes.lines if line.get_marker() == "None"]
    assert len(bars) == n_bars


def test_a_judge_without_values_leaves_its_panel_empty():
    figure = render(
        plot_judged(
            scores(3),
            {"r2": "R²", "bits": "bits/spike"},
            place="rule",
            colour="loss",
            controls={"PCA": {"r2": 0.5, "bits": np.nan}},
            targets={"r2": 1.0},
        )
    )
    assert [len(axes.lines) > 0 for axes in figure.axes] == [True, False]


def test_a_missing_judge_is_refused():
    with pytest.raises(DataError, match="recall"):
        plot_judged(scores(1), {"recall": "recall"}, place="rule", colour="loss")


def test_the_best_coefficient_is_ringed():
    table = pd.DataFrame(
        {"coefficient": [1.0, 2.0, 4.0], "total": [1.0, 2, 3], "r": [0.1, 0.3, 0.2]}
    )
    figure = render(plot_against_coefficient(table, {"total": "total ↓", "r": "recall"}))
    rings = [np.asarray(axes.lines[-1].get_xdata())[0] for axes in figure.axes]
    assert rings == [1.0, 2.0]


def test_minimisers_and_responses_share_colours_between_panels():
    means = np.geomspace(0.1, 10, 5)
    figure = render(plot_minimisers(means, {"LMSE": 0.8 * means}, {"MSE": means, "LMSE": means}))
    left, right = figure.axes
    assert left.lines[0].get_color() == right.lines[1].get_color()
    counts = np.arange(4)
    figure = render(plot_count_response(counts, {"a": counts}, {"a": counts}, undone={"a": counts}))
    assert len(figure.axes) == 2


def test_populations_share_one_scale_and_a_lone_run_has_no_interval():
    table = pd.DataFrame(
        [
            {"units": units, "loss": loss, "spikes": spikes, "seed": 0, "r": 0.1 * spikes}
            for units in ("4 units", "8 units")
            for loss in ("raw units", "MSE", "LMSE")
            for spikes in (2.0, 6.0)
        ]
    )
    figure = render(plot_populations(table, "r", "r"))
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim()
    assert all(len(axes.lines) == 3 * (1 + 2 * 2) for axes in figure.axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["MSE", "LMSE", "raw units"]
