"""Modes with a scale of their own for each example; they can't fold into the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.models.scaling.base import Context, ScalingMode

if TYPE_CHECKING:
    from saebook.models.scaling.scaling import InputScaling

# SAELens adds this where it divides and leaves it out where it multiplies back, and so does this,
# so that its models compute the same.
EPSILON = 1e-5


class LayerNorm(ScalingMode):
    """Each example is centred over its units and divided by its standard deviation."""

    folds = False
    per_example = True

    def context(self, x: Tensor) -> Context:
        """Mean and standard deviation over the units of each example, [..., 1]."""
        mean = x.mean(dim=-1, keepdim=True)
        # SAELens divides by n - 1; a single unit has no deviation.
        spread = (x - mean).square().sum(dim=-1, keepdim=True) / max(1, x.shape[-1] - 1)
        return mean, spread.sqrt()

    def apply(self, scaling: InputScaling, x: Tensor, context: Context) -> Tensor:
        """Scaled inputs [..., d_in]."""
        mean, deviation = context
        return (x - mean) / (deviation + EPSILON)

    def invert(self, scaling: InputScaling, scaled: Tensor, context: Context) -> Tensor:
        """Back to the caller's units."""
        mean, deviation = context
        return scaled * deviation + mean


class ConstantNorm(ScalingMode):
    """Each example is rescaled to norm √d_in; an all-zero one stays zero."""

    folds = False
    per_example = True

    def context(self, x: Tensor) -> Context:
        """The factor of each example, [..., 1]."""
        norm = x.norm(dim=-1, keepdim=True)
        return (torch.where(norm > 0, math.sqrt(x.shape[-1]) / norm, torch.ones_like(norm)),)

    def apply(self, scaling: InputScaling, x: Tensor, context: Context) -> Tensor:
        """Scaled inputs [..., d_in]."""
        return x * context[0]

    def invert(self, scaling: InputScaling, scaled: Tensor, context: Context) -> Tensor:
        """Back to the caller's units."""
        return scaled / context[0]
