"""Figures of latents in time: what they draw where runs are few, or could not be compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from saebook.errors import DataError
from saebook.plots.temporal import (
    plot_at_fvu,
    plot_autocorrelations,
    plot_paired_differences,
)


def render(figure: Figure) -> Figure:
    """Drawing is where a bad label, limit or empty legend shows."""
    figure.canvas.draw()
    assert plt.get_fignums() == []
    return figure


def test_points_of_a_curve_are_means_over_seeds_in_order_of_fvu():
    runs = pd.DataFrame(
        {
            "arm": ["a"] * 4 + ["b"] * 2,
            "setting": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0],
            "fvu": [0.1, 0.3, 0.2, 0.4, 0.2, 0.1],
            "r": [0.5, 0.7, 0.7, 0.9, np.nan, 0.3],
        }
    )
    (panel,) = render(plot_at_fvu(runs, {"r": "r"}, setting="setting", target=0.2)).axes
    lines = [line for line in panel.lines if line.get_linestyle() == "-"]
    assert np.allclose(lines[0].get_xdata(), [0.15, 0.35])
    assert np.allclose(lines[0].get_ydata(), [0.6, 0.8])
    assert np.allclose(lines[1].get_xdata(), [0.1, 0.2])
    with pytest.raises(DataError, match="l0"):
        plot_at_fvu(runs, {"l0": "L0"}, setting="setting")


def test_arms_without_a_matched_fvu_say_so_and_single_seeds_have_no_bar():
    table = pd.DataFrame(
        {
            "arm": ["one seed", "many", "out of reach"],
            "score": "r",
            "difference": [0.1, 0.2, np.nan],
            "low": [np.nan, 0.1, np.nan],
            "high": [np.nan, 0.3, np.nan],
            "n": [1, 8, 0],
        }
    )
    (panel,) = render(plot_paired_differences(table, {"r": "r"})).axes
    bars = [
        line
        for line in panel.lines
        if np.size(line.get_xdata()) == 2 and line.get_marker() == "None"
    ]
    assert len(bars) == 2  # the zero line, and one interval
    assert [text.get_text() for text in panel.texts] == ["no matched FVU"]
    assert [label.get_text() for label in panel.get_yticklabels()] == list(table["arm"])


def test_lag_zero_is_left_out_and_controls_are_named():
    figure = render(
        plot_autocorrelations(
            {"prefix": np.array([1.0, 0.5, 0.2])},
            controls={"input": np.array([1.0, 0.1, np.nan])},
            step=50,
            unit="ms",
        )
    )
    (panel,) = figure.axes
    assert np.array_equal(panel.lines[0].get_xdata(), [50, 100])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["prefix", "input"]
