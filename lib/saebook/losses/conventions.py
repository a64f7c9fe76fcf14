"""Sparsity coefficients from one convention to another.

A coefficient λ means nothing without the reductions of the two terms it weighs. Here the error
is summed over ``d_in``, the penalty summed over latents, both averaged over examples, and inputs
have a mean square of 1 per entry (``E‖x‖² = d_in``).
"""

from __future__ import annotations

import math
from typing import Literal

from saebook.errors import ConfigError

# Power of the latents' scale that a penalty grows with; the squared error's is 2.
DEGREES = {"l1": 1, "l0": 0}


def lambda_equivalent(
    coefficient: float,
    *,
    d_in: int | None = None,
    d_sae: int | None = None,
    batch_size: int | None = None,
    error: Literal["sum", "mean"] = "sum",
    l1_over_latents: Literal["sum", "mean"] = "sum",
    l1_over_batch: Literal["mean", "sum"] = "mean",
    input_rms: float = 1.0,
    penalty: Literal["l1", "l0"] = "l1",
    to: Literal["canonical", "other"] = "canonical",
) -> float:
    """Coefficient that makes this library's loss proportional to another convention's.

    Parameters
    ----------
    coefficient
        λ, ≥ 0: under the other convention, or under this library's with ``to="other"``.
    d_in, d_sae, batch_size
        Sizes under the other convention, each needed only where it averages or sums over that
        axis unlike this library.
    error
        How the other convention reduces the squared error over ``d_in``.
    l1_over_latents
        How it reduces the penalty over latents.
    l1_over_batch
        How it reduces the penalty over examples, the error being averaged over them. Where
        both are summed, λ is the same as where both are averaged: ``"mean"``.
    input_rms
        Root mean square of its input entries, ``√(E‖x‖² / d_in)``; this library's is 1.
    penalty
        ``"l1"`` (plain, or weighted by decoder norms) or ``"l0"`` (step, and quadratic, whose
        ratio to a target has no reduction to convert: leave ``l1_over_…`` as they are).
    to
        ``"canonical"``: from the other convention to this library's. ``"other"``: back.

    Returns
    -------
    float
        ``λ · D[error averaged] · B[penalty summed over the batch] / F[penalty averaged over
        latents] / s^(2-p)`` with s the input RMS, p = 1 for L1 and 0 for L0. With
        ``to="other"``, its inverse.

    Raises
    ------
    ConfigError
        For an unknown word, a missing size, or a number out of range.

    Notes
    -----
    With the other loss ``E/D + λ (B/F) S``, multiplying by D gives ``E + λ (D B / F) S``: the
    same minimiser, gradients D times as large. Inputs s times as large scale the error by s²
    and an L1 penalty by s. For :func:`saebook.losses.tanh`, convert ``a`` as ``"l1"`` and
    multiply ``b`` by ``input_rms``.

    Examples
    --------
    An error averaged over examples and inputs, beside an L1 summed over the batch, inflates λ
    by D·B. There, the 5 of "Scaling Monosemanticity" is a 2e-7:

    >>> log = {"d_in": 3072, "batch_size": 8192, "error": "mean", "l1_over_batch": "sum"}
    >>> f"{lambda_equivalent(5.0, to='other', **log):.2g}"
    '2e-07'
    >>> f"{lambda_equivalent(5.0, **log):.3g}"  # and a 5 there is this much here
    '1.26e+08'
    >>> f"{lambda_equivalent(1e-9, **log):.3g}"  # a λ of 1e-9 there is a weak one
    '0.0252'
    """
    words = {
        "error": (error, ("sum", "mean")),
        "l1_over_latents": (l1_over_latents, ("sum", "mean")),
        "l1_over_batch": (l1_over_batch, ("mean", "sum")),
        "to": (to, ("canonical", "other")),
    }
    for name, (value, choices) in words.items():
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}: choose {choices[0]!r} or {choices[1]!r}")
    factor = _positive("input_rms", input_rms) ** (_degree(penalty) - 2)
    if error == "mean":
        factor *= _size("d_in", d_in, 'error="mean"')
    if l1_over_batch == "sum":
        factor *= _size("batch_size", batch_size, 'l1_over_batch="sum"')
    if l1_over_latents == "mean":
        factor /= _size("d_sae", d_sae, 'l1_over_latents="mean"')
    return _nonnegative(coefficient) * (factor if to == "canonical" else 1 / factor)


def lambda_at_width(
    coefficient: float, *, d_in: int, new_d_in: int, penalty: Literal["l1", "l0"] = "l1"
) -> float:
    """Coefficient of the same strength at another input width.

    Parameters
    ----------
    coefficient
        λ ≥ 0 at ``d_in``, in this library's convention.
    d_in, new_d_in
        Input widths, from and to.
    penalty
        ``"l1"`` or ``"l0"``.

    Returns
    -------
    float
        ``λ √(new_d_in / d_in)`` for L1, ``λ new_d_in / d_in`` for L0.

    Raises
    ------
    ConfigError
        For an unknown penalty, or a number out of range.

    Notes
    -----
    Inputs are scaled to ``E‖x‖² = d_in``, so the same sparse data in a wider space is longer by
    ``√(new_d_in / d_in)``. The squared error then grows with the width, an L1 penalty with its
    root, and an L0 penalty not at all.

    Examples
    --------
    >>> lambda_at_width(5.0, d_in=64, new_d_in=256)
    10.0
    >>> lambda_at_width(5.0, d_in=64, new_d_in=256, penalty="l0")
    20.0
    """
    ratio = _size("new_d_in", new_d_in, "a width") / _size("d_in", d_in, "a width")
    return _nonnegative(coefficient) * math.sqrt(ratio) ** (2 - _degree(penalty))


def _degree(penalty: str) -> int:
    if penalty not in DEGREES:
        raise ConfigError(f"penalty is {penalty!r}: choose 'l1' or 'l0'")
    return DEGREES[penalty]


def _nonnegative(coefficient: float) -> float:
    if not (math.isfinite(coefficient) and coefficient >= 0):
        raise ConfigError(f"coefficient is {coefficient}: give a finite number of 0 or more")
    return coefficient


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {value}: give a finite number above 0")
    return value


def _size(name: str, value: int | None, reason: str) -> int:
    if value is None:
        raise ConfigError(f"{reason} needs {name}, which is missing: pass {name}=…")
    if value < 1:
        raise ConfigError(f"{name} is {value}: give a size of 1 or more")
    return value
