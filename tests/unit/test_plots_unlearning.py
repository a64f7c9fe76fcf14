"""The figure of forget against retain damage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saebook.errors import DataError
from saebook.plots import plot_unlearning


def sweep(name: str, gain: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    retain = rng.random(12) * 0.4
    chosen = pd.DataFrame({"retain": retain, "forget": gain * retain, "n_clamped": 5, "seed": -1})
    random = [
        pd.DataFrame({"retain": retain * 9, "forget": retain * 3, "n_clamped": 5, "seed": seed})
        for seed in (0, 1)
    ]
    parts = [chosen.assign(arm="chosen"), *(part.assign(arm="random") for part in random)]
    return pd.concat(parts).assign(sae=name)


def test_each_sae_has_its_front_and_random_latents_do_not_set_the_axes():
    table = pd.concat([sweep("SAE", 2.0), sweep("TC-SAE", 3.0)])
    (axes,) = plot_unlearning(table, max_retain_damage=0.1).axes
    legend = axes.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["random latents", "SAE", "TC-SAE", "equal damage"]
    assert axes.get_ylim()[1] < 1.5 and axes.get_xlim()[1] < 0.5


def test_settings_that_clamp_nothing_are_not_drawn():
    table = sweep("SAE", 2.0).assign(n_clamped=0)
    table["forget"] = 100.0
    (axes,) = plot_unlearning(table).axes
    assert axes.get_ylim()[1] < 5


def test_a_table_of_something_else_is_refused():
    with pytest.raises(DataError, match="retain"):
        plot_unlearning(sweep("SAE", 2.0).drop(columns="retain"))
