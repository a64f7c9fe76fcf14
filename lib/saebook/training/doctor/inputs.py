"""Inputs that are not on the scale that coefficients and learning rates assume."""

from __future__ import annotations

import math

from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Finding

# Modes that bring E‖x‖² to d_in; the others leave it to the caller or to the data.
ON_SCALE = (
    "scale",
    "scale_mean_norm",
    "center_scale",
    "standardize",
    "layer_norm",
    "constant_norm_rescale",
)
OFF_SCALE = 2.0
OFF_SCALE_UNFITTED = 12.0
HEAVY = 0.3
FEW_ROWS = 64


def inputs_off_scale(evidence: Evidence) -> Finding | None:
    """Find a mean squared norm far from d_in."""
    rows, mode = evidence.training, evidence.config.input_scaling
    if rows is None or not math.isfinite(rows.mean_square):
        return None
    fitted = mode in ON_SCALE
    limit = OFF_SCALE if fitted else OFF_SCALE_UNFITTED
    if 1 / limit <= rows.mean_square <= limit:
        return None
    width = evidence.config.d_encoder
    measured = (
        f"E‖x‖² of the scaled inputs is {rows.mean_square * width:.3g}, {rows.mean_square:.3g} "
        f"times d_in = {width}"
    )
    if fitted:
        n = int(evidence.sae.scaling.n_rows) if evidence.sae is not None else 0
        return Finding(
            "inputs_off_scale",
            "error",
            measured,
            f"input_scaling={mode!r} was fitted on {n:,} rows unlike these: other units, another "
            "preprocessing, or the first rows of a recording that drifts",
            "fit the scaling on rows spread over the whole training set, and give every later "
            "call the same units",
        )
    rms = math.sqrt(rows.mean_square)
    return Finding(
        "inputs_off_scale",
        "warning",
        measured,
        f"input_scaling={mode!r} keeps the caller's units (RMS {rms:.3g}); coefficients and "
        "thresholds then mean something else",
        "use input_scaling='scale', or convert the coefficient with "
        f"lambda_equivalent(…, input_rms={rms:.3g})",
    )


def extreme_rows(evidence: Evidence) -> Finding | None:
    """Find a few rows that own the squared norm, such as attention sinks or artefacts."""
    rows = evidence.training
    if rows is None or rows.n_examples < FEW_ROWS or not rows.heaviest_share > HEAVY:
        return None
    return Finding(
        "extreme_rows",
        "warning",
        f"the heaviest 0.5 % of rows hold {rows.heaviest_share:.0%} of Σ‖x‖²",
        "positions of massive norm (an attention sink, an artefact): they set the scale and the "
        "squared error, the other rows hardly count",
        "leave them out by a recorded mask, or scale per example (input_scaling='layer_norm')",
    )
