"""Figures of the failure museum: what they draw where values are extreme, missing or many."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from saebook.errors import DataError
from saebook.plots.museum import plot_before_after, plot_curves

EXHIBITS = pd.DataFrame(
    {
        "exhibit": ["zero weights", "two phases", "scale"],
        "before": [1.9, 1.0, 54.0],
        "after": [0.2, 1.1, 0.3],
        "severity": ["error", "", "warning"],
    }
)


def render(figure: Figure) -> Figure:
    """Drawing is where a bad label, limit or empty legend shows."""
    figure.canvas.draw()
    assert plt.get_fignums() == []
    return figure


def test_values_off_the_axis_are_drawn_at_its_end_with_their_number():
    (axes,) = render(plot_before_after(EXHIBITS)).axes
    crosses = [line for line in axes.lines if line.get_marker() == "X"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in crosses] == [1.9, 1.0, 2.0]
    assert [text.get_text() for text in axes.texts] == ["54"]


def test_what_no_detector_named_is_told_apart():
    labels = [text.get_text() for text in render(plot_before_after(EXHIBITS)).legends[0].texts]
    assert labels == [
        "before: error", "before: warning", "before: no detector", "after", "mean of the data",
    ]  # fmt: skip
    without = render(plot_before_after(EXHIBITS.iloc[[0, 2]]))
    assert "before: no detector" not in [text.get_text() for text in without.legends[0].texts]


def test_a_curve_per_seed_and_one_colour_per_name():
    run = pd.DataFrame({"step": [1, 2, 1, 2], "fvu": [1.0, 0.5, 0.9, 0.4], "seed": [0, 0, 1, 1]})
    one = pd.DataFrame({"step": [1, 2], "fvu": [1.0, 0.5]})
    figure = render(
        plot_curves(
            {"Adam": {"a": run, "b": one}, "SGD": {"b": run}},
            x="step",
            y="fvu",
            labels=("step", "FVU"),
            reference=(1.0, "mean"),
        )
    )
    curves, others = ([line for line in a.lines if line.get_linewidth() > 1] for a in figure.axes)
    assert len(curves) == 3 and len(others) == 2
    assert len({line.get_color() for line in curves}) == 2
    assert {line.get_color() for line in others} == {curves[-1].get_color()}
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b"]


def test_missing_columns_are_named():
    with pytest.raises(DataError, match="severity"):
        plot_before_after(EXHIBITS.drop(columns="severity"))
    with pytest.raises(DataError, match="fvu"):
        run = pd.DataFrame({"step": [1]})
        plot_curves({"": {"a": run}}, x="step", y="fvu", labels=("step", "FVU"))
