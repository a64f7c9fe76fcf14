"""Modes that are one affine map per unit, fitted once: all of them fold exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saebook.models.scaling.base import ScalingMode


def gain_to_unit_scale(x: Tensor) -> Tensor:
    """The factor that brings the mean squared norm of rows x [n, d_in] to d_in, 0-d."""
    return math.sqrt(x.shape[-1]) / x.square().sum(dim=-1).mean().sqrt()


def centred(x: Tensor) -> Tensor:
    """Rows x [n, d_in] without their mean; exactly 0 where a unit is constant.

    Subtraction alone would leave a constant unit the rounding of its mean, which a gain of one
    over the deviation would then blow up to the size of a signal.
    """
    return (x - x.mean(dim=0)).where(x.amax(dim=0) > x.amin(dim=0), 0.0)


class NoScaling(ScalingMode):
    """Inputs as they come."""


class Scale(ScalingMode):
    """One gain, so that the mean squared norm is d_in (Templeton et al. 2024)."""

    def shift_and_gain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """No shift; the gain is the same for every unit."""
        return torch.zeros_like(x[0]), gain_to_unit_scale(x).expand(x.shape[-1])


class ScaleMeanNorm(ScalingMode):
    """One gain, so that the mean norm is √d_in (SAELens' ``expected_average_only_in``)."""

    def shift_and_gain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """No shift; the gain is the same for every unit."""
        gain = math.sqrt(x.shape[-1]) / x.norm(dim=-1).mean()
        return torch.zeros_like(x[0]), gain.expand(x.shape[-1])


class Center(ScalingMode):
    """The mean of every unit is subtracted."""

    def shift_and_gain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift by the mean, gain 1."""
        return x.mean(dim=0), torch.ones_like(x[0])


class CenterScale(ScalingMode):
    """Centred, then one gain, so that the mean squared norm is d_in."""

    def shift_and_gain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift by the mean, one gain."""
        return x.mean(dim=0), gain_to_unit_scale(centred(x)).expand(x.shape[-1])


class Standardize(ScalingMode):
    """Mean 0 and variance 1 per unit, so that fast units do not own the squared error."""

    def shift_and_gain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift by the mean, gain 1 over the deviation; a constant unit is only centred."""
        deviation = centred(x).square().mean(dim=0).sqrt()
        return x.mean(dim=0), torch.where(deviation > 0, 1 / deviation, torch.ones_like(deviation))
