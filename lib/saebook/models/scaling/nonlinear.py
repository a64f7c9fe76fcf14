"""Modes that mix units or bend them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.models.scaling.affine import centred, gain_to_unit_scale
from saebook.models.scaling.base import Context, ScalingMode

if TYPE_CHECKING:
    from saebook.models.scaling.scaling import InputScaling

# Directions with less than this share of the largest variance are noise, and stay small.
SMALLEST_VARIANCE = 1e-6


class Whiten(ScalingMode):
    """Centred, decorrelated and at unit variance along every direction (ZCA)."""

    def buffers(self, d_in: int) -> dict[str, Tensor]:
        """The whitening matrix [d_in, d_in] and its inverse."""
        return {"whitening": torch.eye(d_in), "colouring": torch.eye(d_in)}

    def fit(self, scaling: InputScaling, x: Tensor) -> None:
        """Fit the mean and the covariance; directions without variance are left alone."""
        deviations = centred(x)
        covariance = deviations.T @ deviations / len(x)
        variances, directions = torch.linalg.eigh(covariance)
        smallest = variances.max() * SMALLEST_VARIANCE
        spread = torch.where(variances > smallest, variances, torch.ones_like(variances)).sqrt()
        scaling.shift.copy_(x.mean(dim=0))
        scaling.whitening.copy_((directions / spread) @ directions.T)
        scaling.colouring.copy_((directions * spread) @ directions.T)

    def apply(self, scaling: InputScaling, x: Tensor, context: Context) -> Tensor:
        """Scaled inputs [..., d_in]."""
        del context
        return (x - scaling.shift) @ scaling.whitening

    def invert(self, scaling: InputScaling, scaled: Tensor, context: Context) -> Tensor:
        """Back to the caller's units."""
        del context
        return scaled @ scaling.colouring + scaling.shift


class SquareRoot(ScalingMode):
    """Square roots of counts, then one gain: for Poisson counts, noise of equal size.

    It touches the encoder's input alone; reconstructions are compared in counts.
    """

    folds = False
    inverts = False

    def shift_and_gain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One gain, so that the mean squared norm of the roots is d_in."""
        if (x < 0).any():
            raise DataError(
                f"input_scaling='sqrt' takes counts, and the smallest value is {float(x.min()):g}: "
                "use 'scale' or 'standardize' for values below zero"
            )
        return torch.zeros_like(x[0]), gain_to_unit_scale(x.sqrt()).expand(x.shape[-1])

    def apply(self, scaling: InputScaling, x: Tensor, context: Context) -> Tensor:
        """Scaled inputs [..., d_in]; NaN where a count is negative."""
        del context
        return x.sqrt() * scaling.gain
