"""Forget damage against retain damage: sweeps over clamps, their controls, and one score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import DataError, SelectionError
from saebook.evaluation.unlearning import Clamp, LatentEvidence

# One dictionary per clamp, with "forget" and "retain" among its keys.
Damage = Callable[[Sequence[Clamp]], Sequence[Mapping[str, float]]]
SETTINGS = ("max_retain", "n_latents", "multiplier")
# Random latents are drawn among this many of the nearest frequency.
N_NEAREST = 8


def matched_random(
    chosen: Iterable[int], frequency: Any, *, seed: int, n_nearest: int = N_NEAREST
) -> np.ndarray:
    """Other latents, one for each chosen one, that are active about as often.

    Parameters
    ----------
    chosen : iterable of int
        Latents to stand in for.
    frequency : array
        [d_sae], share of rows on which each latent is active.
    seed : int
        Of the draws.
    n_nearest : int
        Each is drawn among this many latents, neither chosen nor drawn before, whose frequency
        is nearest in ratio.

    Returns
    -------
    ndarray
        One latent per chosen one, in that order.

    Raises
    ------
    SelectionError
        Fewer living latents are left than were chosen.

    Examples
    --------
    >>> frequency = [0.5, 0.01, 0.012, 0.4, 0.0]
    >>> matched_random([0, 1], frequency, seed=0, n_nearest=1).tolist()
    [3, 2]
    """
    chosen, frequency = np.asarray(list(chosen), dtype=int), np.asarray(frequency, dtype=float)
    free = frequency > 0
    free[chosen] = False
    if free.sum() < len(chosen):
        raise SelectionError(
            f"{len(chosen)} latents were chosen and {int(free.sum())} other living ones are left "
            "to draw a control from: clamp fewer"
        )
    rng, drawn = np.random.default_rng(seed), []
    log = np.log(np.maximum(frequency, 1e-12))
    for latent in chosen:
        others = np.flatnonzero(free)
        nearest = others[np.argsort(np.abs(log[others] - log[latent]), kind="stable")[:n_nearest]]
        drawn.append(int(rng.choice(nearest)))
        free[drawn[-1]] = False
    return np.asarray(drawn, dtype=int)


def unlearning_sweep(
    evidence: LatentEvidence,
    damage: Damage,
    *,
    n_latents: Sequence[int] = (1, 2, 5, 10, 20),
    multipliers: Sequence[float] = (0.0, 1.0, 2.0, 5.0, 10.0),
    max_retain: Sequence[float] = (0.001, 0.01),
    random_seeds: Sequence[int] = (0, 1, 2),
    name: str = "SAE",
) -> pd.DataFrame:
    """Clamp more and more latents, harder and harder, and see what is lost.

    Parameters
    ----------
    evidence : LatentEvidence
        From training rows.
    damage : callable
        From clamps to their damages on held-out rows, such as ``loss_damage`` or
        ``decoding_damage`` return. Each distinct clamp is asked for once.
    n_latents : sequence of int
        How many latents to clamp. Where fewer pass, those that pass.
    multipliers : sequence of float
        How hard: 0 switches latents off; else see :func:`~saebook.evaluation.sizes`.
    max_retain : sequence of float
        Thresholds on what a chosen latent may have to do with what is kept.
    random_seeds : sequence of int
        Draws of random latents of matched frequency, for the control; none where empty.
    name : str
        Of the SAE, for a table over several.

    Returns
    -------
    DataFrame
        One row per setting and arm: ``sae``, ``arm`` ("chosen" or "random"), ``seed`` (-1 for
        chosen), ``max_retain``, ``n_latents`` (asked for), ``n_clamped`` (found),
        ``multiplier``, and what ``damage`` gave. Settings under which no latent passes have
        ``n_clamped`` 0. A random arm that can't be matched, for want of latents, is left out.

    Raises
    ------
    DataError
        The damages are not one per clamp, or lack "forget" or "retain".

    Examples
    --------
    >>> evidence = LatentEvidence(
    ...     np.array([0.9, 0.5, 0.0]), np.array([0.0, 0.2, 0.0]), np.full(3, 0.3), np.ones(3)
    ... )
    >>> table = unlearning_sweep(
    ...     evidence, lambda clamps: [{"forget": 1.0 * len(c.latents), "retain": 0.0} for c in clamps],
    ...     n_latents=(2,), multipliers=(0.0,), max_retain=(0.1, 0.5), random_seeds=(),
    ... )
    >>> table[["max_retain", "n_clamped", "forget"]].to_numpy().tolist()
    [[0.1, 1.0, 1.0], [0.5, 2.0, 2.0]]
    """
    rows, clamps = [], []
    for threshold in max_retain:
        ranked = evidence.ranked(threshold)
        for n in n_latents:
            for arm, seed, latents in _arms(ranked[:n], evidence.frequency, random_seeds):
                for multiplier in multipliers:
                    clamps.append(evidence.clamp(latents, multiplier))
                    rows.append(
                        {
                            "sae": name, "arm": arm, "seed": seed, "max_retain": threshold,
                            "n_latents": n, "n_clamped": len(latents), "multiplier": multiplier,
                        }
                    )  # fmt: skip
    distinct = list(dict.fromkeys(clamps))
    damages = damage(distinct)
    if len(damages) != len(distinct) or any(not {"forget", "retain"} <= set(d) for d in damages):
        raise DataError(
            f"{len(distinct)} clamps gave {len(damages)} damages: return one per clamp, with "
            "'forget' and 'retain' among its keys"
        )
    found = dict(zip(distinct, damages))
    return pd.DataFrame([{**row, **found[clamp]} for row, clamp in zip(rows, clamps)])


def _arms(
    chosen: np.ndarray, frequency: np.ndarray, seeds: Sequence[int]
) -> list[tuple[str, int, np.ndarray]]:
    arms = [("chosen", -1, chosen)]
    if len(chosen) and (np.delete(frequency, chosen) > 0).sum() >= len(chosen):
        arms += [("random", s, matched_random(chosen, frequency, seed=s)) for s in seeds]
    return arms


def damage_front(table: pd.DataFrame) -> pd.DataFrame:
    """Settings that no other one beats: less damage to what is kept, more to what is forgotten.

    Parameters
    ----------
    table : DataFrame
        From :func:`unlearning_sweep`, of one SAE and arm.

    Returns
    -------
    DataFrame
        Its front, by increasing ``retain``; ``forget`` increases too.

    Examples
    --------
    >>> table = pd.DataFrame({"retain": [0.0, 0.1, 0.2], "forget": [0.3, 0.2, 0.9]})
    >>> damage_front(table).index.tolist()
    [0, 2]
    """
    ordered = table.sort_values(["retain", "forget"], ascending=[True, False], kind="stable")
    best_before = ordered["forget"].cummax().shift(fill_value=-np.inf)
    return ordered.loc[ordered["forget"] > best_before]


def unlearning_score(table: pd.DataFrame, *, max_retain_damage: float) -> pd.DataFrame:
    """The most that is forgotten while what is kept loses no more than a limit.

    Parameters
    ----------
    table : DataFrame
        From :func:`unlearning_sweep`; several may be stacked.
    max_retain_damage : float
        The limit, in the unit of ``retain``. SAEBench's is 1 % of the correct answers.

    Returns
    -------
    DataFrame
        One row per ``sae``, ``arm`` and ``seed``: the setting, its ``forget`` and ``retain``,
        and ``chosen_on``. Where the table has ``forget_validation`` and ``retain_validation``,
        the setting is chosen by these alone, and ``retain`` may then exceed the limit.
        Otherwise it is chosen on the rows that are reported, as SAEBench does: a maximum over
        settings, which favours every arm alike. Where no setting keeps to the limit, nothing is
        clamped: forget and retain 0, ``n_clamped`` 0.

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "sae": "SAE", "arm": "chosen", "seed": -1, "max_retain": 0.01, "n_latents": [1, 2],
    ...     "n_clamped": [1, 2], "multiplier": 5.0, "forget": [0.2, 0.9], "retain": [0.0, 0.3],
    ... })
    >>> unlearning_score(table, max_retain_damage=0.1)["forget"].tolist()
    [0.2]
    """
    needed = {"sae", "arm", "seed", "n_clamped", "forget", "retain", *SETTINGS}
    if not needed <= set(table.columns):
        raise DataError(f"the sweep lacks {', '.join(sorted(needed - set(table.columns)))}")
    apart = {"forget_validation", "retain_validation"} <= set(table.columns)
    suffix = "_validation" if apart else ""
    best = []
    # Stacked tables may repeat their index.
    arms = table.reset_index(drop=True).groupby(["sae", "arm", "seed"], sort=False)
    for _, group in arms:
        within = group[f"retain{suffix}"] <= max_retain_damage
        allowed = group.loc[within & (group[f"forget{suffix}"] > 0)]
        row: dict[str, Any] = {c: group[c].iloc[0] for c in ("sae", "arm", "seed")}
        if len(allowed):
            found = allowed.loc[allowed[f"forget{suffix}"].idxmax()]
            row |= {c: found[c] for c in (*SETTINGS, "n_clamped", "forget", "retain")}
        else:
            row |= dict.fromkeys(SETTINGS, np.nan) | {"n_clamped": 0, "forget": 0.0, "retain": 0.0}
        best.append(row | {"chosen_on": "validation" if apart else "test"})
    return pd.DataFrame(best)
