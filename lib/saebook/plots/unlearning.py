"""Figures of unlearning: damage to what is forgotten against damage to what is kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saebook.evaluation.unlearning_sweep import damage_front
from saebook.plots.spikes import require_columns
from saebook.plots.style import GREY, PAGE_WIDTH, PALETTE, panels, styled, vertical_line

COLORS = ("blue", "vermillion", "green", "purple", "orange", "sky")


@styled
def plot_unlearning(
    table: pd.DataFrame,
    *,
    damage: str = "rise of next-token loss (nats)",
    max_retain_damage: float | None = None,
    title: str = "",
) -> Figure:
    """Every setting of a sweep, the front of each SAE, and that of random latents.

    Parameters
    ----------
    table : DataFrame
        From ``unlearning_sweep``; several may be stacked.
    damage : str
        What ``forget`` and ``retain`` are, with their unit, for the axes.
    max_retain_damage : float, optional
        The limit of ``unlearning_score``, drawn.
    title : str
        Heading; one that says what is compared by default.

    Returns
    -------
    Figure
    Up on the left is better. Settings that clamp no latent are not drawn; random latents'
        fronts are grey, one per draw, and may leave the axes, which the chosen ones set.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> table = pd.DataFrame({"sae": "SAE", "arm": ["chosen", "random"], "seed": [-1, 0],
    ...     "n_clamped": 2, "forget": [0.8, 0.1], "retain": [0.05, 0.1]})
    >>> plot_unlearning(table).axes[0].get_xlabel()
    'kept: rise of next-token loss (nats)'
    """
    require_columns(table, ["sae", "arm", "seed", "n_clamped", "forget", "retain"], "unlearning")
    figure, (axes,) = panels(width=PAGE_WIDTH * 0.72, height=3.1)
    table = table.loc[table["n_clamped"] > 0]
    labelled = False
    for _, of_sae in table.groupby("sae", sort=False):
        for _, draw in of_sae.loc[of_sae["arm"] == "random"].groupby("seed"):
            _front(axes, draw, GREY, "" if labelled else "random latents", dashed=True)
            labelled = True
    for color, (name, of_sae) in zip(_colors(), table.groupby("sae", sort=False)):
        chosen = of_sae.loc[of_sae["arm"] == "chosen"]
        axes.plot(
            chosen["retain"], chosen["forget"], ".", color=color, alpha=0.35, markersize=5, zorder=2
        )
        _front(axes, chosen, color, str(name))
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.6, zorder=1, label="equal damage")
    _fit_axes(axes, table.loc[table["arm"] == "chosen"])
    if max_retain_damage is not None:
        vertical_line(axes, max_retain_damage, "limit")
    axes.set_xlabel(f"kept: {damage}")
    axes.set_ylabel(f"forgotten: {damage}")
    axes.set_title(title or "What is forgotten, and what it costs")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _colors() -> list[str]:
    return [PALETTE[name] for name in COLORS] * 4


def _front(
    axes: Axes, table: pd.DataFrame, color: str, label: str, *, dashed: bool = False
) -> None:
    """The front as steps: between two settings, the one that costs less."""
    front = damage_front(table)
    axes.step(
        [0.0, *front["retain"].clip(lower=0)],
        [0.0, *front["forget"].clip(lower=0)],
        where="post", color=color, label=label or None, zorder=3 if not dashed else 2,
        linewidth=1.0 if dashed else 1.8, linestyle=(0, (3, 2)) if dashed else "-",
    )  # fmt: skip


def _fit_axes(axes: Axes, table: pd.DataFrame) -> None:
    """Show the settings; damage to what is kept far beyond all that is forgotten adds nothing."""
    forget = float(np.nanmax([0.0, *table["forget"]])) or 1.0
    retain = float(np.nanmax([0.0, *table["retain"]])) or forget
    axes.set_xlim(-0.03 * min(retain, forget), 1.05 * min(retain, 1.2 * forget))
    axes.set_ylim(-0.05 * forget, 1.1 * forget)
