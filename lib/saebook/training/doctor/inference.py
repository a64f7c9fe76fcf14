"""What is evaluated against what was trained: the weights, the mode, the batch."""

from __future__ import annotations

import math

from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Finding

L0_GAP = 0.1
FVU_GAP = 0.03
FVU_GAP_SHARE = 0.25
SPREADS = 4.0
L0_SHARE = 0.25
CHANGED_ROWS = 0.05


def inference_differs(evidence: Evidence) -> Finding | None:
    """Find an L0 at inference unlike the one in training, on the same rows and weights."""
    rows = evidence.training
    if rows is None or not rows.training_l0 > 0:
        return None
    gap = abs(rows.l0 / rows.training_l0 - 1)
    if not gap > L0_GAP:
        return None
    return Finding(
        "inference_differs",
        "error",
        f"on the same rows {rows.training_l0:.2f} latents are active by the rule of training and "
        f"{rows.l0:.2f} at inference (FVU {rows.training_fvu:.3f} and {rows.fvu:.3f})",
        "the threshold used at inference is not the one that training ended with: an average "
        "that lags behind, or one that was never set",
        "calibrate it on training rows (saebook.models.architectures.calibrate_threshold)",
    )


def other_weights(evidence: Evidence) -> Finding | None:
    """Find weights whose scores are not those that training logged last."""
    sae = evidence.sae
    if sae is not None and not bool(sae.W_dec.any()):
        return _other_weights("every weight of the decoder is zero")
    late, rows = evidence.late("fvu"), evidence.training
    if rows is None:
        return _other_by_card(evidence)
    if math.isnan(late) or math.isnan(rows.training_fvu):
        return None
    allowed = max(FVU_GAP, FVU_GAP_SHARE * late, SPREADS * evidence.late_spread("fvu"))
    l0 = evidence.late("l0")
    l0_allowed = max(L0_SHARE * l0, SPREADS * evidence.late_spread("l0"), 0.5)
    if abs(rows.training_fvu - late) <= allowed and abs(rows.training_l0 - l0) <= l0_allowed:
        return None
    first = evidence.first("fvu")
    initial = abs(rows.training_fvu - first) <= 0.1 * first and late < 0.8 * first
    return _other_weights(
        f"training ended at FVU {late:.3f} and L0 {l0:.2f}; the same rows, scored again as in "
        f"training, give {rows.training_fvu:.3f} and {rows.training_l0:.2f}"
        + (", which is where training began" if initial else "")
    )


def _other_by_card(evidence: Evidence) -> Finding | None:
    l0, logged = evidence.card.get("l0"), evidence.late("l0")
    if l0 != 0 or not logged > 0.5:
        return None
    return _other_weights(f"training ended at L0 {logged:.2f}; the evaluated model has 0")


def _other_weights(measured: str) -> Finding:
    return Finding(
        "other_weights",
        "error",
        measured,
        "the evaluated object is not the trained one: a fresh or zero-weight copy, another "
        "checkpoint, or rows in other units or another order of inputs",
        "load the trained weights, and score training rows once before reading any other number",
    )


def batch_dependent(evidence: Evidence) -> Finding | None:
    """Find latents that depend on which other rows are encoded with them."""
    rows = evidence.training
    if rows is None or not rows.batch_dependence > CHANGED_ROWS:
        return None
    return Finding(
        "batch_dependent",
        "error",
        f"{rows.batch_dependence:.0%} of rows get other latents when they are encoded alone",
        "statistics of the batch decide (batch normalisation, or BatchTopK left in training mode)",
        "call sae.eval(); replace batch normalisation by input_scaling, which is fitted once",
    )
