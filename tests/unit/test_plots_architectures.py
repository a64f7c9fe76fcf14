"""Figures that compare architectures draw what they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saebook.errors import DataError
from saebook.plots.architectures import plot_against_size, plot_contestants, plot_power_laws


def runs():
    return pd.DataFrame(
        {
            "model": ["topk", "topk", "relu", "PCA"],
            "matched": [True, True, False, True],
            "fvu": [0.2, 0.4, 0.9, 0.7],
            "r": [0.5, 0.7, 0.4, np.nan],
        }
    )


def test_points_ticks_and_hollow_runs_of_contestants():
    figure = plot_contestants(runs(), {"fvu": "FVU", "r": "r"}, controls=["PCA"])
    first = figure.axes[0]
    points = [line for line in first.lines if line.get_marker() == "o"]
    drawn = {
        (str(line.get_color()), str(line.get_markerfacecolor()), float(x))
        for line in points
        for x in np.asarray(line.get_xdata())
    }
    assert len(drawn) == 4
    hollow = [x for _, face, x in drawn if face == "white"]
    assert hollow == [0.9]
    means = [xs[0] for line in first.lines if len(xs := np.asarray(line.get_xdata())) == 2]
    assert pytest.approx(0.3) in means


def test_missing_column_of_contestants_is_refused():
    with pytest.raises(DataError, match="recall"):
        plot_contestants(runs(), {"recall": "recall"})


def test_sizes_are_ticks_and_means_are_lines():
    table = pd.DataFrame(
        {"model": ["topk"] * 4, "d_sae": [64, 64, 128, 128], "dead": [0.0, 0.2, 0.4, 0.6]}
    )
    axes = plot_against_size(table, "d_sae", {"dead": "dead"}, size_label="latents").axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["64", "128"]
    assert axes.lines[0].get_ydata() == pytest.approx([0.1, 0.5])


def test_a_law_without_a_fit_shows_its_points_alone():
    law = {"x": np.array([1.0, 2.0]), "y": np.array([1.0, 0.5]), "text": "too few"}
    axes = plot_power_laws({"latents": law}, y_label="error").axes[0]
    assert len(axes.lines) == 1
    assert axes.get_title(loc="left") == "too few"


def test_intervals_lie_within_their_panel():
    runs = pd.DataFrame({"model": ["a"] * 3 + ["b"] * 2, "fvu": [0.1, 0.5, 0.9, 0.4, 0.6]})
    (axes,) = plot_contestants(runs, {"fvu": "FVU"}, intervals=True).axes
    bars = [line for line in axes.lines if line.get_alpha() == 0.35]
    # Three runs bear an interval, two do not.
    assert len(bars) == 1
    low, high = axes.get_xlim()
    ends = np.asarray(bars[0].get_xdata(), float)
    assert low < ends.min() < 0.1 and 0.9 < ends.max() < high
