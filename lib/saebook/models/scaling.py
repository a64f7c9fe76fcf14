"""Input scaling: one affine map per model, fitted once on training rows and saved with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from saebook.errors import ConfigError, DataError


def _no_scaling(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(x[0]), torch.ones_like(x[0])


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    gain = math.sqrt(x.shape[-1]) / x.square().sum(dim=-1).mean().sqrt()
    return torch.zeros_like(x[0]), gain.expand(x.shape[-1])


def _scale_mean_norm(x: Tensor) -> tuple[Tensor, Tensor]:
    gain = math.sqrt(x.shape[-1]) / x.norm(dim=-1).mean()
    return torch.zeros_like(x[0]), gain.expand(x.shape[-1])


def _center(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(dim=0), torch.ones_like(x[0])


def _center_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(dim=0)
    return mean, _scale(x - mean)[1]


def _standardize(x: Tensor) -> tuple[Tensor, Tensor]:
    deviation = x.std(dim=0, correction=0)
    # A constant unit carries nothing to learn: it is centred and otherwise left alone.
    return x.mean(dim=0), torch.where(deviation > 0, 1 / deviation, torch.ones_like(deviation))


SCALINGS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "none": _no_scaling,
    "scale": _scale,
    "scale_mean_norm": _scale_mean_norm,
    "center": _center,
    "center_scale": _center_scale,
    "standardize": _standardize,
}


class InputScaling(nn.Module):
    """``scaled = (x - shift) * gain``, with both fitted on training rows.

    Modes, each fitted on rows x [n, d_in]: ``none``; ``scale`` (one gain, so that the mean
    squared norm is d_in: Templeton et al. 2024); ``scale_mean_norm`` (one gain, so that the
    mean norm is √d_in: SAELens' ``expected_average_only_in``); ``center``; ``center_scale``
    (center, then scale); ``standardize`` (mean 0 and variance 1 per unit).

    Parameters
    ----------
    mode
        One of the names above.
    d_in
        Width of the input.

    Examples
    --------
    >>> import torch
    >>> scaling = InputScaling("scale", d_in=2)
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 5.0]])  # squared norms 25 and 25
    >>> scaling.fit(x)
    >>> scaling(x).square().sum(dim=-1).mean().item()
    2.0
    """

    shift: Tensor
    gain: Tensor
    n_rows: Tensor
    total_variance: Tensor

    def __init__(self, mode: str, d_in: int):
        super().__init__()
        if mode not in SCALINGS:
            raise ConfigError(f"input scaling {mode!r}: choose one of {', '.join(SCALINGS)}")
        self.mode = mode
        self.register_buffer("shift", torch.zeros(d_in))
        self.register_buffer("gain", torch.ones(d_in))
        self.register_buffer("n_rows", torch.tensor(0))
        self.register_buffer("total_variance", torch.tensor(float("nan")))

    def extra_repr(self) -> str:
        """Mode and number of rows seen, for printing."""
        return f"{self.mode!r}, fitted on {int(self.n_rows)} rows"

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Fit shift and gain on rows x [n, d_in].

        Raises
        ------
        DataError
            The rows are empty, hold NaN or infinity, or are all zero, so that no factor
            brings them to scale.
        """
        if x.ndim != 2 or x.shape[1] != len(self.shift) or len(x) == 0:
            raise DataError(
                f"input scaling was given {tuple(x.shape)}: it needs [n, {len(self.shift)}], n ≥ 1"
            )
        x = x.to(torch.float64)
        if not x.isfinite().all():
            bad = int((~x.isfinite()).any(dim=1).sum())
            raise DataError(f"{bad} of {len(x)} rows hold NaN or infinity; drop or repair them")
        shift, gain = SCALINGS[self.mode](x)
        if not gain.isfinite().all():
            raise DataError(
                f"all {len(x)} rows are {'zero' if not x.any() else 'the same'}: there is no "
                f"scale to fit with input_scaling={self.mode!r}"
            )
        self.shift.copy_(shift)
        self.gain.copy_(gain)
        self.n_rows.fill_(len(x))
        self.total_variance.copy_(((x - x.mean(dim=0)) * gain).square().sum(dim=1).mean())

    def forward(self, x: Tensor) -> Tensor:
        """Scaled inputs [..., d_in], as the encoder sees them."""
        return (x - self.shift) * self.gain

    def invert(self, scaled: Tensor) -> Tensor:
        """Back to the caller's units, [..., d_in]."""
        return scaled / self.gain + self.shift
