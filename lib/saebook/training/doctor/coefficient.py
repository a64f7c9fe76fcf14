"""A sparsity coefficient in other units than its error."""

from __future__ import annotations

import math

from saebook.losses import COUNT_RECONSTRUCTIONS
from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Finding

# Coefficient over the largest that the error supports (see `largest_coefficient`).
TOO_STRONG = 0.7
# An error of counts is no square: small latents gain more than the mean's error suggests.
COUNT_ALLOWANCE = 10.0
TOO_WEAK = 2e-3
MANY_ACTIVE = 0.2
USUAL = 0.08


def largest_coefficient(evidence: Evidence) -> float:
    """Coefficient at which even a perfect latent costs what it gains.

    One latent that reconstructs a whole typical example gains ``G``, the error of the mean, and
    costs λ times the penalty of a latent of size ``√V``, V being the variance of the targets.
    Above ``λ = G / penalty(√V)`` silence is the optimum. NaN where the penalty has no such point.
    """
    config, variance = evidence.config, evidence.target_variance
    if not variance > 0:
        return math.nan
    gain = variance
    if _compares_counts(evidence):
        gain = evidence.first(config.reconstruction)
    size = math.sqrt(variance)
    penalty = {
        "l1": size,
        "l1_decoder_norm": size,
        "l1_gate": size,
        "tanh": config.tanh_a / config.tanh_b * math.tanh(config.tanh_b * size),
        "l0_step": 1.0,
    }.get(config.sparsity or "", math.nan)
    return gain / penalty


def coefficient_off_scale(evidence: Evidence) -> Finding | None:
    """Find coefficients that are orders of magnitude away from what the error supports."""
    config = evidence.config
    coefficient = _used(evidence)
    largest = largest_coefficient(evidence)
    ratio = coefficient / largest if largest > 0 else math.nan
    l0 = evidence.l0
    if math.isnan(ratio) or math.isnan(l0):
        return None
    term = evidence.column(config.sparsity or "")
    error = evidence.column(config.objective.reconstruction)
    share = float((coefficient * term / error.clip(lower=1e-12)).max())
    measured = (
        f"the coefficient {coefficient:.3g} is {ratio:.2g} times the {largest:.3g} at which one "
        f"perfect latent per example costs what it gains (penalty : error = {share:.2g} at "
        f"most; L0 {l0:.2f} of {config.d_sae})"
    )
    convention = _convention(evidence, ratio)
    if ratio > _too_strong(evidence):
        return Finding(
            "coefficient_off_scale",
            "error",
            measured,
            f"λ is in other units than the error{convention}, or far too strong",
            "convert it with saebook.losses.lambda_equivalent (what is summed here may be averaged "
            f"there), begin at {USUAL * largest:.2g}, or give target_l0 instead",
        )
    if ratio < TOO_WEAK and l0 > MANY_ACTIVE * config.d_sae:
        return Finding(
            "coefficient_off_scale",
            "warning",
            measured,
            "λ is in other units than the error or far too weak: the penalty decides nothing",
            "convert it with saebook.losses.lambda_equivalent, begin at "
            f"{USUAL * largest:.2g}, or give target_l0 instead",
        )
    return None


def _too_strong(evidence: Evidence) -> float:
    """Ratio above which λ is at fault; never, where a controller needed it for its target."""
    wanted = evidence.config.target_l0
    if wanted is not None and evidence.l0 > wanted / 2:
        return math.inf
    return TOO_STRONG * (COUNT_ALLOWANCE if _compares_counts(evidence) else 1.0)


def _compares_counts(evidence: Evidence) -> bool:
    return evidence.config.reconstruction in COUNT_RECONSTRUCTIONS


def _used(evidence: Evidence) -> float:
    """The coefficient that decided the run: the fixed one, or where the controller went."""
    values = evidence.column("sparsity_coefficient")
    if evidence.config.target_l0 is None or not len(values):
        fixed = evidence.config.sparsity_coefficient
        return math.nan if fixed is None else fixed
    return float(values.iloc[len(values) // 2 :].median())


def _convention(evidence: Evidence, ratio: float) -> str:
    """Which reductions would explain a coefficient that is too large."""
    if ratio < TOO_STRONG:
        return ""
    d_in = evidence.config.d_encoder
    batch = evidence.train.batch_size if evidence.train is not None else None
    factors = {"an error averaged over d_in": d_in}
    if batch:
        factors["a penalty summed over the batch"] = batch
        factors["an error averaged over d_in beside a penalty summed over the batch"] = d_in * batch
    name, factor = min(factors.items(), key=lambda f: abs(math.log(ratio / f[1] / USUAL)))
    if abs(math.log(ratio / factor / USUAL)) > math.log(5):
        return ""
    return f" ({name} would make it {factor:g} times too large)"
