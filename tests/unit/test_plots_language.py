"""Figures of SAEs in language models: what they draw, and what they leave out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saebook.errors import DataError
from saebook.language.token_views import Excerpt, Excerpts
from saebook.plots.language import plot_final_metrics, plot_pareto, plot_training_metrics
from saebook.plots.tokens import CHARACTERS, plot_excerpts


def test_training_metrics_say_which_way_l1_is_sparser():
    history = pd.DataFrame(
        {"step": [1, 2], "fvu": [1.0, 0.4], "l1": [9.0, 8.0], "l0": [4.0, 3.0],
         "temporal": [5.0, 4.0]}
    )  # fmt: skip
    figure = plot_training_metrics({"base": [history, history], "TC": history}, chance=4.5)
    error, sparsity, temporal, counted = figure.axes
    assert "less is sparser" in sparsity.get_ylabel() and "L0" in counted.get_ylabel()
    assert [len(axes.lines) for axes in (error, sparsity, temporal, counted)] == [4, 3, 4, 3]
    assert np.asarray(counted.lines[0].get_ydata()).tolist() == [4.0, 3.0]
    with pytest.raises(DataError, match="l0"):
        plot_training_metrics({"base": history.drop(columns="l0")})


def test_final_metrics_leave_a_model_without_a_score_without_a_bar():
    scores = pd.DataFrame(
        {"model": ["SAE", "SAE", "random model"], "explained_variance": [0.7, 0.8, 0.6],
         "mse": [2.0, 1.0, np.nan], "kl": [0.1, 0.2, np.nan]}
    )  # fmt: skip
    variance, error, divergence = plot_final_metrics(scores, anchors={"mean": 3.0}).axes
    assert [len(axes.patches) for axes in (variance, error, divergence)] == [2, 1, 0]
    assert variance.patches[0].get_width() == pytest.approx(0.75)  # type: ignore[attr-defined]
    assert "–" in [text.get_text() for text in error.texts]
    assert divergence.get_xscale() == "log" and divergence.get_xlim()[1] > 3.0


def test_the_front_is_of_means_over_seeds():
    points = pd.DataFrame(
        {"model": ["a", "a", "b", "b"], "setting": [8, 8, 8, 8], "l0": [8.0] * 4,
         "delta_ce": [0.1, 0.5, 0.2, 0.2]}
    )  # fmt: skip
    rings = plot_pareto(points).axes[0].lines[-1]
    assert rings.get_label() == "not beaten in both"
    assert np.asarray(rings.get_ydata()).tolist() == [0.2]


def test_excerpts_show_the_peak_however_long_the_line():
    tokens = tuple(f" token{i}" for i in range(60))
    excerpt = Excerpt(0, 40, tokens, tuple(float(i == 40) for i in range(60)), 40)
    axes = plot_excerpts([Excerpts([excerpt], "latent 1"), Excerpts([], "latent 2")]).axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert " token40" in shown and " token0" not in shown and "never active here" in shown
    assert sum(len(text) for text in shown if text.startswith(" token")) <= CHARACTERS


def test_dollars_are_no_formula():
    view = Excerpts([Excerpt(0, 0, ("$", "a_b", "$"), (1.0, 0.0, 0.0), 0)], "costs")
    plot_excerpts([view]).canvas.draw()
