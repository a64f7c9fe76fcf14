"""Choosing one of several runs, by scores that can be compared between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

from saebook.errors import ConfigError, DataError
from saebook.models import SAEConfig
from saebook.training.run import Run

# Which end of each score is the good one; any other name needs `better`.
HIGHER_IS_BETTER = (
    "recall",
    "precision",
    "mmcs",
    "mean_r",
    "bits_per_spike",
    "rate_r2",
    "r2",
    "accuracy",
)
LOWER_IS_BETTER = ("dead_fraction",)
# Scores of the own input improve with every further active latent, whatever these are worth.
AT_MATCHED_L0: dict[str, Literal["higher", "lower"]] = {
    "fvu": "lower",
    "explained_variance": "higher",
    "cosine": "higher",
}
PENALISED = (
    "total",
    "total_loss",
    "loss",
    "objective",
    "l1",
    "l1_decoder_norm",
    "l1_gate",
    "tanh",
    "l0_step",
    "l0_quadratic",
)
# Settings that two runs must share for their totals to be sums of the same things.
SHARED_BY_TOTALS = (
    "d_in",
    "reconstruction",
    "lmse_tau",
    "sparsity",
    "sparsity_coefficient",
    "tanh_a",
    "tanh_b",
    "input_scaling",
    "auxiliary",
    "aux_coefficient",
    "prefixes",
    "prefix_weights",
    "prefix_sparsity",
)
LAST_LOGS = 0.1  # share of the history over which a logged loss is averaged: one batch is noise

C = TypeVar("C", bound="Run | tuple[Run | SAEConfig, Mapping[str, float]]")


def select_run(
    runs: Iterable[C],
    by: str | Callable[[C], float],
    *,
    better: Literal["higher", "lower"] | None = None,
    l0_tolerance: float = 0.1,
) -> C:
    """The best of several runs, by a score that means the same in each of them.

    Parameters
    ----------
    runs
        Runs, scored by their cards; or pairs of a run (or its ``SAEConfig``) and its scores by
        name, such as a recall or a mean over seeds.
    by
        Name of a score: ``"recall"``, ``"bits_per_spike"`` of held-out units, ``"fvu"``, …; or a
        function of one element of ``runs``. Score rows that were not trained on, and not the
        ones that you will report.
    better
        Which end of the score is the good one. Default: known for the names in this module, and
        ``"higher"`` for a function.
    l0_tolerance
        For scores of the own input (``"fvu"``, ``"explained_variance"``, ``"cosine"``), which
        more active latents always improve: how much larger, relatively, the largest L0 may be
        than the smallest.

    Returns
    -------
    Run or tuple
        The element of ``runs``, as it was given; the first of equals. One whose score is not
        finite is passed over.

    Raises
    ------
    ConfigError
        Asked for the total loss, or a penalty, across runs whose coefficients or other parts of
        the objective differ; for FVU across runs of differing L0, or on training rows; for an
        unknown score without ``better``.
    DataError
        No run, a score that one of them lacks, or none that is finite.

    Notes
    -----
    "We note that losses with different L1 coefficients are not comparable" (Templeton et al.
    2024, Scaling Monosemanticity). For fixed weights ``E + λ S`` rises with λ, and so does its
    minimum: the smallest λ has the smallest total, whatever its latents are worth.

    Examples
    --------
    >>> def relu(coefficient):
    ...     return SAEConfig(8, 16, architecture="relu", sparsity_coefficient=coefficient)
    >>> weak, strong = relu(0.1), relu(2.0)
    >>> scored = [(weak, {"total": 0.4, "recall": 0.2}), (strong, {"total": 2.1, "recall": 0.9})]
    >>> config, scores = select_run(scored, by="recall")
    >>> config.sparsity_coefficient
    2.0
    >>> select_run(scored, by="total")
    Traceback (most recent call last):
    ...
    saebook.errors.ConfigError: by = 'total' across sparsity_coefficient = 0.1 and 2: losses with different coefficients are not comparable; select by recall of known features, bits_per_spike of held-out units, or fvu at matched L0
    """
    candidates = list(runs)
    if not candidates:
        raise DataError("no run to select from: give at least one")
    if better not in (None, "higher", "lower"):
        raise ConfigError(f"better = {better!r}: choose 'higher' or 'lower'")
    if callable(by):
        values, name = [float(by(candidate)) for candidate in candidates], "the function's score"
        better = better or "higher"
    else:
        name = f"by = {by!r}"
        better = better or _good_end(by)
        if by in PENALISED:
            _check_same_objective(by, candidates)
        if by in AT_MATCHED_L0:
            _check_matched(by, candidates, l0_tolerance)
        values = [_value(by, candidate) for candidate in candidates]
    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        raise DataError(f"{name}: no run has a finite score ({values[:3]} …): nothing to compare")
    sign = 1 if better == "higher" else -1
    return candidates[max(finite, key=lambda i: (sign * values[i], -i))]


def _good_end(by: str) -> Literal["higher", "lower"]:
    if by in AT_MATCHED_L0:
        return AT_MATCHED_L0[by]
    if by in HIGHER_IS_BETTER:
        return "higher"
    if by in LOWER_IS_BETTER or by in PENALISED:
        return "lower"
    known = ", ".join([*HIGHER_IS_BETTER, *AT_MATCHED_L0, *LOWER_IS_BETTER])
    raise ConfigError(
        f"by = {by!r}: whether more of it is better is not known; say better='higher' or "
        f"better='lower', or choose one of {known}"
    )


def _config(candidate: Any) -> SAEConfig:
    made = candidate[0] if isinstance(candidate, tuple) else candidate
    return made if isinstance(made, SAEConfig) else made.sae.config


def _value(name: str, candidate: Any) -> float:
    """A score from the pair's own mapping, the run's card or, for losses, its history."""
    given: Mapping[str, Any] = candidate[1] if isinstance(candidate, tuple) else {}
    run = candidate[0] if isinstance(candidate, tuple) else candidate
    if name in given:
        value = given[name]
    elif isinstance(run, Run) and name in run.card:
        value = run.card[name]
    elif isinstance(run, Run) and name in PENALISED and name in run.history:
        logged = run.history[name].to_numpy(float)
        value = logged[-max(1, round(LAST_LOGS * len(logged))) :].mean()
    else:
        held = sorted(given) if given else sorted(run.card) if isinstance(run, Run) else []
        raise DataError(
            f"by = {name!r}: a run has no such score; it has {', '.join(held) or 'none'}. Give "
            "pairs of a run and its scores, or a function of the run"
        )
    return math.nan if value is None else float(value)


def _check_same_objective(by: str, candidates: list[Any]) -> None:
    configs = [_config(candidate) for candidate in candidates]
    if len(configs) == 1:
        return
    for setting in SHARED_BY_TOTALS:
        found = list(dict.fromkeys(getattr(config, setting) for config in configs))
        if len(found) > 1:
            raise ConfigError(
                f"by = {by!r} across {setting} = {_listed(found)}: losses with different "
                "coefficients are not comparable; select by recall of known features, "
                "bits_per_spike of held-out units, or fvu at matched L0"
            )
    if any(c.target_l0 is not None and c.sparsity != "l0_quadratic" for c in configs):
        raise ConfigError(
            f"by = {by!r} of runs with a target_l0: a controller moved each run's coefficient, and "
            "losses with different coefficients are not comparable; select by fvu (L0 being "
            "matched), recall or bits_per_spike"
        )


def _check_matched(by: str, candidates: list[Any], tolerance: float) -> None:
    if len(candidates) == 1:
        return
    for candidate in candidates:
        run = candidate[0] if isinstance(candidate, tuple) else candidate
        from_card = not isinstance(candidate, tuple) or by not in candidate[1]
        if from_card and isinstance(run, Run) and run.card.get("split") == "train":
            raise ConfigError(
                f"by = {by!r} of training rows, which a model can learn by heart: give fit a "
                "validation set, or pairs of a run and its scores on held-out rows"
            )
    l0 = [_value("l0", candidate) for candidate in candidates]
    if not all(math.isfinite(value) for value in l0):
        raise DataError(f"by = {by!r}: an L0 is not finite ({l0}), so it can't be matched")
    low, high = min(l0), max(l0)
    if high > low * (1 + tolerance):
        raise ConfigError(
            f"by = {by!r} across L0 from {low:.3g} to {high:.3g}, more than {tolerance:.0%} apart: "
            "the run with more active latents reconstructs better whatever they mean; match L0 "
            "(k, or target_l0), or select by recall or bits_per_spike of held-out units"
        )


def _listed(values: list[Any]) -> str:
    shown = [f"{value:g}" if isinstance(value, float) else repr(value) for value in values]
    if len(shown) > 4:
        shown = [*shown[:3], f"{len(shown) - 3} more"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
