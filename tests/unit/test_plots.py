"""Figures: what they draw, their labels with units, and that they leave nothing behind."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from saebook.data import Recording, UnitCriteria, select_units
from saebook.errors import DataError
from saebook.metrics import CardSums
from saebook.plots import (
    PALETTE,
    dropped_per_rule,
    plot_controls,
    plot_count_sparsity,
    plot_latent_peth,
    plot_latent_tuning,
    plot_raster,
    plot_recovery,
    plot_recovery_scores,
    plot_score_card,
    plot_training_history,
    plot_unit_quality,
    use_style,
)


def render(figure: Figure) -> Figure:
    """Drawing is where a bad label, limit or empty legend shows."""
    figure.canvas.draw()
    assert plt.get_fignums() == []
    return figure


def labels(figure: Figure) -> set[str]:
    return {axes.get_xlabel() for axes in figure.axes} | {a.get_ylabel() for a in figure.axes}


def history(n_steps: int = 20) -> pd.DataFrame:
    steps = np.arange(1, n_steps + 1)
    return pd.DataFrame(
        {"step": steps, "fvu": 1 / steps, "l0": 8.0, "dead": 0.0, "learning_rate": 1e-3}
    )


@pytest.fixture
def quality() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    clean = [np.cumsum(0.003 + rng.exponential(0.1, 800)) for _ in range(4)]
    doubled = np.sort(np.concatenate([clean[0], clean[0] + 0.001]))
    slow = np.array([1.0, 20.0, 60.0])
    recording = Recording.from_spike_times([*clean, doubled, slow], interval=(0.0, 120.0))
    return select_units(recording, UnitCriteria(min_rate_hz=0.5))[1]


def test_quality_bars_count_every_unit(quality: pd.DataFrame):
    rules = dropped_per_rule(quality).to_dict()
    assert rules == {"ISI violations ratio": 1, "rate": 1}
    figure = render(plot_unit_quality(quality, min_rate_hz=0.5, max_isi_violations=0.1))
    widths = [patch.get_width() for patch in figure.axes[0].patches]  # pyright: ignore
    assert sum(widths) == len(quality) == 6
    assert {"firing rate (Hz)", "ISI violations (ratio)", "units"} <= labels(figure)


def test_a_unit_that_breaks_two_rules_counts_under_both():
    table = pd.DataFrame(
        {
            "kept": [False, False, False],
            "verdict": ["fail", "faulty", "pass"],
            "reason": ["rate 0.1 Hz under 0.5 Hz; label 'mua', not good", "NaN at 3", "rate 0.2"],
        }
    )
    assert dropped_per_rule(table).to_dict() == {"rate": 2, "label": 1, "faulty train": 1}


def test_quality_with_nothing_dropped_and_with_unmeasured_units(quality: pd.DataFrame):
    kept = pd.DataFrame(quality[quality["kept"].astype(bool)])
    assert len(dropped_per_rule(kept)) == 0
    render(plot_unit_quality(kept))
    unmeasured = quality.assign(rate_hz=np.nan, isi_violations_ratio=np.nan)
    render(plot_unit_quality(unmeasured))
    with pytest.raises(DataError, match="verdict"):
        plot_unit_quality(quality.drop(columns="verdict"))


def test_count_sparsity_marks_every_bin_size_in_milliseconds():
    table = pd.DataFrame(
        {
            "bin_size_s": [0.1, 0.01, 0.05] * 2,
            "zero_share": [0.5, 0.9, 0.7] * 2,
            "empty_share": [0.0, 0.3, 0.1] * 2,
            "active_units": [20.0, 3.0, 11.0] * 2,
            "session": ["a"] * 3 + ["b"] * 3,
        }
    )
    figure = render(plot_count_sparsity(table, chosen_bin_s=0.05))
    shares = figure.axes[0]
    assert [text.get_text() for text in shares.get_xticklabels()] == ["10", "50", "100"]
    assert {"bin size (ms)", "share (%)"} <= labels(figure)
    np.testing.assert_allclose(np.asarray(shares.lines[0].get_ydata(), dtype=float), [90, 70, 50])
    legend = shares.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 2


def test_raster_draws_the_spikes_of_the_stretch_only():
    spikes = [np.array([4396.0, 4397.5, 4399.0]), np.array([]), np.array([4398.0])]
    figure = render(plot_raster(spikes, start=4397.0, stop=4399.0, events={"go": [4398.0, 9.0]}))
    drawn = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert drawn.tolist() == [[4397.5, 0.0], [4398.0, 2.0]]
    assert "time (s)" in labels(figure)
    with pytest.raises(DataError, match="length"):
        plot_raster(spikes, start=1.0, stop=1.0)
    with pytest.raises(DataError, match="no unit"):
        plot_raster([], start=0.0, stop=1.0)


def test_history_draws_one_line_per_seed_and_shows_a_bad_end():
    seeds = pd.concat([history().assign(seed=seed) for seed in range(3)])
    figure = render(plot_training_history(seeds, target_l0=8, raw_unit_fvu=0.3, phases={"go": 5}))
    assert len(figure.axes[2].get_lines()) == 3 + 1  # seeds and the phase
    diverged = history()
    diverged["fvu"] = np.linspace(1, 7, len(diverged))
    assert render(plot_training_history(diverged)).axes[0].get_ylim()[1] > 7
    undefined = history().assign(fvu=np.nan)
    render(plot_training_history(undefined))
    with pytest.raises(DataError, match="learning_rate"):
        plot_training_history(history().drop(columns="learning_rate"))


def test_control_bars_are_the_table():
    table = pd.DataFrame(
        {"fvu": [0.4, 0.7, 1.0], "low": [np.nan, 0.6, np.nan], "high": [np.nan, 0.8, np.nan]},
        index=["SAE", "random dictionary", "mean"],
    ).assign(l0=[8.0, 8.0, 0.0])
    axes = render(plot_controls(table)).axes[0]
    bars = axes.containers[0].patches  # pyright: ignore
    assert [round(bar.get_width(), 6) for bar in bars] == [0.4, 0.7, 1.0]
    assert to_hex(bars[0].get_facecolor()) == PALETTE["blue"].lower()
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata(), dtype=float), [0.6, 0.8])
    render(plot_controls(table.assign(fvu=[0.4, 9.0, 1.0])))


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("silent", [True, False])
def test_score_card_draws_even_when_all_is_dead(counts: bool, silent: bool):
    x = torch.poisson(torch.full((60, 5), 0.5), generator=torch.Generator().manual_seed(0))
    sums = CardSums(centre=x.mean(0) if counts else None)
    latents = torch.zeros(60, 9) if silent else x.repeat(1, 2)[:, :9]
    sums.update(x, latents, torch.zeros_like(x) if silent else x)
    figure = render(plot_score_card(sums.card()))
    assert "R²" in labels(figure)
    assert ("(9 of 9 dead)" in figure.axes[2].get_title(loc="left")) is silent


def test_recovery_puts_matches_on_the_diagonal():
    order = [2, 0, 3, 1]
    similarity = np.vstack([np.full((2, 4), 0.1), np.eye(4)[order]])
    figure = render(plot_recovery(similarity, feature_names=list("abcd")))
    picture = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(picture[:, :4], np.eye(4))
    assert figure.axes[0].get_title(loc="left").startswith("4 of 4")
    render(plot_recovery(-np.eye(3), threshold=None, label="correlation"))
    with pytest.raises(DataError, match="names"):
        plot_recovery(similarity, feature_names=["a"])


def test_recovery_scores_show_chance():
    table = pd.DataFrame(
        {"learned": [0.9, 0.8], "random": 0.1, "random_low": 0.0, "random_high": 0.2},
        index=["recall", "mmcs_true"],
    )
    render(plot_recovery_scores(table))
    with pytest.raises(DataError, match="random_low"):
        plot_recovery_scores(table.drop(columns="random_low"))


def test_peth_means_per_condition_ignore_missing_bins():
    activity = np.array([[1.0, np.nan, 3.0], [3.0, 4.0, 5.0], [7.0, 7.0, 7.0]])
    lags = [-0.1, 0.0, 0.1]
    figure = render(plot_latent_peth(activity, lags, condition=["b", "b", "a"], event="go"))
    assert "time from go (s)" in labels(figure)
    first, second = figure.axes[1].get_lines()[:2]
    np.testing.assert_allclose(np.asarray(first.get_ydata(), dtype=float), [7, 7, 7])
    np.testing.assert_allclose(np.asarray(second.get_ydata(), dtype=float), [2, 4, 4])
    with pytest.raises(DataError, match="9 conditions"):
        plot_latent_peth(np.ones((9, 3)), lags, condition=range(9))
    with pytest.raises(DataError, match="lags"):
        plot_latent_peth(np.ones((3, 2)), lags)
    render(plot_latent_peth(np.zeros((3, 3)), lags))


def test_tuning_averages_in_the_right_bins():
    position = np.array([0.0, 0.1, 0.9, 1.0, np.nan])
    figure = render(
        plot_latent_tuning(position, np.array([1.0, 3, 5, 5, 99]), name="x", unit="m", n_bins=2)
    )
    line = figure.axes[0].get_lines()[0]
    np.testing.assert_allclose(np.asarray(line.get_xdata(), dtype=float), [0.25, 0.75])
    np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), [2, 5])
    assert "x (m)" in labels(figure)
    with pytest.raises(DataError, match="finite"):
        plot_latent_tuning(np.full(3, np.nan), np.ones(3), name="x")


def test_circular_tuning_joins_its_ends():
    angles = np.array([np.pi, -np.pi + 0.01, 0.0, 3 * np.pi])
    figure = render(
        plot_latent_tuning(angles, np.array([4.0, 4, 1, 4]), name="direction", circular=True)
    )
    values = np.asarray(figure.axes[0].get_lines()[0].get_ydata())
    assert values[0] == pytest.approx(values[-2], nan_ok=True)
    assert values[1] == 4.0
    assert "direction (°)" in labels(figure)


def test_drawing_does_not_change_the_callers_style():
    before = dict(matplotlib.rcParams)
    render(plot_training_history(history()))
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context():
        use_style()
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][0] == "#0072B2"


def test_palette_is_told_apart_in_grey():
    # The first three colours carry most figures: they must also differ in lightness.
    def lightness(color: str) -> float:
        red, green, blue = to_rgb(color)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    values = sorted(lightness(PALETTE[name]) for name in ("black", "blue", "orange"))
    assert min(np.diff(values)) > 0.2
