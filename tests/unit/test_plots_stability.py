"""Figures of stability draw what they are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saebook.errors import DataError
from saebook.plots.stability import (
    plot_angles,
    plot_classes,
    plot_matched_cosines,
    plot_session_matches,
    plot_shares,
)


def test_curves_fall_from_all_to_none_and_skip_what_is_unknown():
    figure = plot_matched_cosines(
        {"topk": np.array([0.5, np.nan, 0.9])}, {"random": np.array([0.1, 0.2])}, 0.7
    )
    curve, null = figure.axes[0].lines[:2]
    assert np.asarray(curve.get_xdata()).tolist() == [0.5, 0.9]
    assert np.asarray(curve.get_ydata()).tolist() == [1.0, 0.5]
    assert null.get_label() == "random"


def test_shares_show_every_point_its_interval_and_chance():
    points = pd.DataFrame({"model": ["a", "a", "b"], "found": [0.2, 0.4, 0.9]})
    means = pd.DataFrame(
        {
            "model": ["a", "b"],
            "score": "found",
            "mean": [0.3, 0.9],
            "low": [0.1, np.nan],
            "high": [0.5, np.nan],
            "shuffled": [0.05, 0.1],
        }
    )
    figure = plot_shares(points, means, {"found": "found"}, controls=["b"])
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    drawn = [np.asarray(line.get_xdata()).tolist() for line in axis.lines]
    assert [0.2, 0.4] in drawn
    assert [0.1, 0.5] in drawn
    assert [0.05] in drawn
    assert figure.legends[0].get_texts()[0].get_text() == "shuffled"
    with pytest.raises(DataError, match="mean"):
        plot_shares(points, means.drop(columns="mean"), {"found": "found"})


def test_classes_are_logarithmic_where_they_span_decades():
    table = pd.DataFrame({"median": [0.001, 0.1], "mean": [0.0, 1.0]})
    narrow = table.assign(median=[0.1, 0.2])
    figure = plot_classes({"density": {"a": table}, "other": {"a": narrow}}, {})
    assert [axis.get_xscale() for axis in figure.axes] == ["log", "linear"]


def test_angles_are_beside_their_controls():
    figure = plot_angles([np.array([0.0, 45.0])] * 3, {"random": [np.array([[60.0, 80.0]])]})
    (axis,) = figure.axes
    assert len(axis.lines) == 4
    legend = axis.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 2


def test_sessions_have_a_row_per_pair_and_a_panel_per_way():
    rows = pd.DataFrame(
        {
            "pair": ["0-1", "0-1", "0-2", "0-1"],
            "way": ["units", "units", "units", "profiles"],
            "share": [0.6, 0.6, 0.5, 0.4],
            "control": ["other units", "latents shuffled", "other units", "conditions"],
            "chance": 0.1,
            "chance_high": 0.2,
        }
    )
    figure = plot_session_matches(rows)
    assert [len(axis.get_yticks()) for axis in figure.axes] == [2, 1]
    assert len(figure.legends[0].get_texts()) == 4
    with pytest.raises(DataError, match="chance_high"):
        plot_session_matches(rows.drop(columns="chance_high"))
