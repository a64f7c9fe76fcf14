"""Figures of speed show every measurement, in the order given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from saebook.errors import DataError
from saebook.plots.performance import plot_costs, plot_parts, plot_ratios, plot_stacks

SPEEDS = pd.DataFrame(
    {
        "workload": ["topk", "topk", "relu", "relu"],
        "engine": ["dense", "auto", "dense", "auto"],
        "ratio": [2.0, 0.4, 1.8, 1.2],
    }
)


def legend(axes: Axes) -> list[str]:
    drawn = axes.get_legend()
    assert drawn is not None
    return [label.get_text() for label in drawn.get_texts()]


def test_ratios_have_a_row_per_workload_and_a_mark_per_engine():
    (axes,) = plot_ratios(SPEEDS).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["topk", "relu"]
    drawn = {line.get_label(): np.asarray(line.get_xdata()).tolist() for line in axes.lines}
    assert drawn["dense"] == [2.0, 1.8] and drawn["auto"] == [0.4, 1.2]
    low, high = axes.get_xlim()
    assert low < 0.4 and high > 2.0
    assert legend(axes) == ["dense", "auto"]


def test_costs_have_a_panel_per_size_and_readable_ticks():
    costs = pd.DataFrame(
        {
            "varied": ["k", "k", "d_in", "d_in"],
            "value": [8, 4, 64, 128],
            "engine": ["sparse"] * 4,
            "step_ms": [12.0, 11.0, 13.0, 18.0],
            "floor_ms": [8.0, 8.0, 8.0, 16.0],
        }
    )
    first, second = plot_costs(costs, {"k": "active", "d_in": "width"}).axes
    (sparse,) = [line for line in first.lines if line.get_label() == "sparse"]
    assert np.asarray(sparse.get_xydata()).tolist() == [[4, 11], [8, 12]]
    assert second.get_xlabel() == "width"
    labels = [label.get_text() for label in first.get_yticklabels()]
    assert "10" in labels and all(float(label) > 0 for label in labels)


def test_parts_add_up_to_the_whole():
    parts = {"dense": {"products": 5.0, "rest": 3.0}, "sparse": {"products": 1.0, "search": 0.5}}
    (axes,) = plot_parts(parts).axes
    ends = [patch.get_extents().transformed(axes.transData.inverted()).x1 for patch in axes.patches]
    assert max(ends) == pytest.approx(8.0)
    assert legend(axes) == ["products", "rest", "search"]
    assert {text.get_text() for text in axes.texts} >= {"5", "3", "1"}


def test_tables_without_their_columns_are_refused():
    with pytest.raises(DataError, match="ratio"):
        plot_ratios(SPEEDS.drop(columns="ratio"))
    with pytest.raises(DataError, match="floor_ms"):
        plot_costs(SPEEDS, {"k": "k"})


def test_stacks_have_a_line_for_each_way_of_asking():
    rows = [
        (n, e, r, 100.0 * n * (1 if r else 30))
        for n in (4, 1)
        for e in ("dense", "fused")
        for r in (True, False)
    ]
    stacks = pd.DataFrame(rows, columns=["members", "engine", "recorded", "step_us"])
    (axes,) = plot_stacks(stacks).axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn) == [
        "dense, recorded", "dense, not recorded", "fused, recorded", "fused, not recorded",
    ]  # fmt: skip
    line = drawn["dense, not recorded"]
    assert np.asarray(line.get_xdata()).tolist() == [1, 4] and line.get_linestyle() == "--"
    assert np.asarray(line.get_ydata()).tolist() == [3000.0, 12000.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    assert "200" in [label.get_text() for label in axes.get_yticklabels()]
    with pytest.raises(DataError, match="recorded"):
        plot_stacks(stacks.drop(columns="recorded"))
