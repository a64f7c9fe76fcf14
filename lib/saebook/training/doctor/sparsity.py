"""How many latents are active, and whether it is always the same ones."""

from __future__ import annotations

import math

from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Finding

L0_TOLERANCE = 0.2
FAR_FROM_TARGET = 1.75  # either way
ALWAYS_ON = 0.5
MANY_DENSE = 0.1
DENSE_SHARE_OF_L0 = 0.5
LEAKED_FVU = 0.03


def l0_away_from_target(evidence: Evidence) -> Finding | None:
    """Find an L0 other than the one that was asked for."""
    wanted, found = evidence.wanted_l0, evidence.card.get("l0")
    if evidence.training is not None:
        found = evidence.training.l0
    if wanted is None or found is None or abs(found - wanted) <= L0_TOLERANCE * wanted:
        return None
    late = evidence.late("l0")
    far = not wanted / FAR_FROM_TARGET <= found <= wanted * FAR_FROM_TARGET
    return Finding(
        "l0_away_from_target",
        "warning" if far else "note",
        f"{found:.2f} latents are active per example, {wanted:g} were asked for "
        f"({late:.2f} late in training)",
        _cause(evidence, wanted, found),
        "read every score beside the L0 that was reached; compare models at equal L0 only",
    )


def _cause(evidence: Evidence, wanted: float, found: float) -> str:
    config, train = evidence.config, evidence.train
    if config.selection.uses_k:
        if found < wanted:
            return "examples have fewer positive pre-activations than k: less is all they need"
        return "the inference threshold is not the one that fits the training rows"
    coefficients = evidence.column("sparsity_coefficient")
    if train is not None and evidence.n_steps and len(coefficients) and config.target_l0:
        span = train.controller_rate * evidence.n_steps
        if span < math.log(20):
            return (
                f"the controller can change its coefficient {math.exp(min(span, 50.0)):.2g}-fold "
                f"at most in {evidence.n_steps:,} steps at controller_rate="
                f"{train.controller_rate:g}: raise it, train for longer, or begin nearer"
            )
    if config.sparsity == "l0_quadratic":
        return "the quadratic penalty is too weak against the error: raise sparsity_coefficient"
    return "the controller was still on its way, or the penalty can't reach that L0"


def dense(evidence: Evidence) -> Finding | None:
    """Find latents that are active on most rows."""
    rows = evidence.training
    if rows is None or not rows.l0 > 0:
        return None
    on = rows.density > ALWAYS_ON
    share, of_l0 = float(on.double().mean()), float(rows.density[on].sum()) / rows.l0
    if share <= MANY_DENSE and of_l0 <= DENSE_SHARE_OF_L0:
        return None
    return Finding(
        "dense",
        "warning",
        f"{int(on.sum())} of {len(on)} latents ({share:.0%}) are active on more than half of the "
        f"rows, and make up {of_l0:.0%} of L0",
        "they carry an offset or the data's main axes rather than features: the mean was not "
        "subtracted, or the penalty is too weak",
        "begin b_dec at the mean (b_dec_init='mean'), centre the inputs, or ask for a lower L0",
    )


def leaks(evidence: Evidence) -> Finding | None:
    """Find reconstructions that latents contribute to which L0 does not count."""
    rows = evidence.training
    if rows is None or not rows.active_fvu - rows.fvu > LEAKED_FVU:
        return None
    return Finding(
        "leaks",
        "warning",
        f"L0 counts {rows.l0:.2f} latents above zero; without those below zero FVU is "
        f"{rows.active_fvu:.3f} instead of {rows.fvu:.3f}",
        "a leaky activation lets every latent reconstruct at any time, so that no L0 says how "
        "many are in use",
        "lower leak, or use architecture='relu' with auxiliary='auxk' against dead latents",
    )
