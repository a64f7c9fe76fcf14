"""Latents that stopped firing: all of them, or more and more."""

from __future__ import annotations

import math

from saebook.training.doctor.coefficient import TOO_STRONG, largest_coefficient
from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Finding

SILENT = 0.05  # active latents per example, at most; with a target, also this share of it
MANY_DEAD, MOST_DEAD = 0.5, 0.75
DEAD_AT_A_HIGH_RATE = 0.25
HIGH_RELATIVE_STEP = 0.05


def silent(evidence: Evidence) -> Finding | None:
    """Find a dictionary of which next to nothing is ever active."""
    late = evidence.late("l0")
    values = [late, evidence.card.get("l0")]
    if evidence.training is not None:
        values.append(evidence.training.l0)
    known = [value for value in values if value is not None and not math.isnan(value)]
    limit = SILENT * max(1.0, evidence.wanted_l0 or 1.0)
    if not known or min(known) > limit:
        return None
    where = "late in training" if late <= limit else "when evaluated"
    return Finding(
        "silent",
        "error",
        f"{min(known):.3g} latents are active per example {where} (first log: "
        f"{evidence.first('l0'):.3g}); FVU {evidence.late('fvu'):.2f} late in training",
        _cause_of_silence(evidence, late <= limit),
        "an SAE without active latents is a constant: read nothing from its scores, and change "
        "that cause before λ",
    )


def _cause_of_silence(evidence: Evidence, in_training: bool) -> str:
    if not in_training:
        return "training left active latents, so what was evaluated is not what was trained"
    coefficient, largest = evidence.config.sparsity_coefficient, largest_coefficient(evidence)
    if evidence.config.target_l0 is None and coefficient and coefficient > TOO_STRONG * largest:
        return (
            "the penalty outweighed the error, and under Adam its strength no longer matters: "
            "updates are ± the learning rate whatever λ is, so a smaller λ collapses as fast "
            "until the error leads again"
        )
    if evidence.relative_step > HIGH_RELATIVE_STEP:
        return f"a learning rate that kills ({_rate(evidence)})"
    return "the penalty led for long enough to push every bias below zero, where no gradient comes"


def dead(evidence: Evidence) -> Finding | None:
    """Find dictionaries that lost many latents, the sooner where the learning rate is high."""
    fast = evidence.relative_step > HIGH_RELATIVE_STEP
    shares = [evidence.card.get("dead_fraction"), evidence.late("dead")]
    if evidence.training is not None:
        # Whatever a high rate killed is retired in the end.
        shares = [evidence.silent_share if fast else evidence.dead_share]
    known = [share for share in shares if share is not None and not math.isnan(share)]
    limit = DEAD_AT_A_HIGH_RATE if fast else MANY_DEAD
    if not known or not min(known) > limit or silent(evidence) is not None:
        return None
    n = evidence.training.n_examples if evidence.training is not None else None
    over = f" on {n:,} training rows" if n else ""
    cause = "d_sae is more than the data need, or nothing revives dead latents"
    remedy = "lower d_sae, or revive dead latents (auxiliary='auxk', resample_every)"
    if fast:
        cause = f"the learning rate: {_rate(evidence)}, and one step too far leaves a latent silent"
        lower = HIGH_RELATIVE_STEP / 3 / math.sqrt(evidence.config.d_encoder)
        remedy = f"lower learning_rate to about {lower:.1g} first, then look at d_sae"
    return Finding(
        "dead",
        "warning" if fast or min(known) > MOST_DEAD else "note",
        f"{min(known):.0%} of latents never fire{over} (during training: "
        f"{evidence.first('dead'):.0%} at first, {evidence.late('dead'):.0%} late)",
        cause,
        remedy,
    )


def _rate(evidence: Evidence) -> str:
    rate = evidence.train.learning_rate if evidence.train is not None else math.nan
    return f"{rate:g} moves a typical weight by {evidence.relative_step:.0%} of itself per step"
