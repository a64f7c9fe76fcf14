"""Figures of settings draw what they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saebook.errors import DataError
from saebook.plots.hyperparameters import plot_advice, plot_grid, plot_traces


def cells() -> pd.DataFrame:
    rows = [(2, 0.1, 1.0, 0.2), (2, 0.1, 1.0, 0.4), (2, 0.3, 1.0, 0.9), (8, 0.1, 3.0, 0.5)]
    return pd.DataFrame(rows, columns=["width", "lr", "coefficient", "recall"])


def grid(**changes):
    names = {"x": "lr", "y": "coefficient", "score": "recall", "panel": "width"}
    return plot_grid(cells(), label="recall", **names, **changes)


def test_cells_are_means_over_runs_and_missing_ones_stay_empty():
    first, second = grid().axes[:2]
    assert sorted(text.get_text() for text in first.texts) == ["0.30", "0.90"]
    assert [text.get_text() for text in second.texts] == ["0.50"]
    assert [text.get_position() for text in second.texts] == [(0, 1)]


def test_marks_lie_in_their_cells():
    first, second = grid(marks={"total": [(2, 0.3, 1.0)], "recall": [(8, 0.1, 3.0)]}).axes[:2]
    x, y = np.ravel(first.lines[0].get_xydata())
    assert (round(x), round(y)) == (1, 0)
    x, y = np.ravel(second.lines[0].get_xydata())
    assert (round(x), round(y)) == (0, 1)
    assert len(first.lines) == len(second.lines) == 1


def test_a_choice_outside_the_grid_is_not_drawn():
    assert not grid(marks={"rule": [(2, 0.2, 1.0)]}).axes[0].lines


def test_a_missing_column_of_the_grid_is_refused():
    with pytest.raises(DataError, match="recall"):
        plot_grid(
            cells().drop(columns="recall"),
            x="lr", y="coefficient", score="recall", label="recall", panel="width",
        )  # fmt: skip


def test_traces_have_a_line_per_run_that_holds_the_curve():
    one = pd.DataFrame({"step": [1, 2], "total": [3.0, 2.0], "l0": [5.0, 4.0]})
    figure = plot_traces(
        {"a": one, "b": one.drop(columns="l0")},
        {"total": "total loss", "l0": "L0"},
        logarithmic=["total"],
        spans={"ramp": (1.0, 1.5)},
    )
    assert [len(axis.lines) for axis in figure.axes] == [2, 1]
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "linear"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["ramp"]


def test_advice_stands_beside_the_best_of_each_setting_smallest_first():
    scores = {"recommended": 0.5, "best": 0.6, "raw_units": 0.2}
    table = pd.DataFrame(
        [
            {"n_units": n, "n_examples": 2000, "mean_rate": 5.0, **scores, "best": 0.6 + n / 1e4}
            for n in (300, 20)
        ]
    )
    axis = plot_advice(table).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "20 units, 2,000 bins, 5.0 Hz",
        "300 units, 2,000 bins, 5.0 Hz",
    ]
    drawn = {line.get_label(): list(np.asarray(line.get_xdata())) for line in axis.lines}
    assert drawn["best of the grid"] == pytest.approx([0.602, 0.63])
    assert drawn["recommended"] == [0.5, 0.5] and drawn["raw units"] == [0.2, 0.2]
