"""The scaling of one model's inputs: a mode, and what it fitted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saebook.errors import ConfigError, DataError
from saebook.models.scaling.affine import (
    Center,
    CenterScale,
    NoScaling,
    Scale,
    ScaleMeanNorm,
    Standardize,
)
from saebook.models.scaling.base import Context, ScalingMode
from saebook.models.scaling.nonlinear import SquareRoot, Whiten
from saebook.models.scaling.per_example import ConstantNorm, LayerNorm

SCALINGS: dict[str, ScalingMode] = {
    "none": NoScaling(),
    "scale": Scale(),
    "scale_mean_norm": ScaleMeanNorm(),
    "center": Center(),
    "center_scale": CenterScale(),
    "standardize": Standardize(),
    "whiten": Whiten(),
    "sqrt": SquareRoot(),
    "layer_norm": LayerNorm(),
    "constant_norm_rescale": ConstantNorm(),
}


class InputScaling(nn.Module):
    """What is done to an input before it is encoded, and undone after it is decoded.

    Parameters
    ----------
    mode
        ``none``; ``scale`` (one gain, so that the mean squared norm is d_in);
        ``scale_mean_norm`` (one gain, so that the mean norm is √d_in); ``center``;
        ``center_scale``; ``standardize`` (per unit); ``whiten``; ``sqrt`` (counts, before the
        encoder only); and per example ``layer_norm`` and ``constant_norm_rescale``.
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
    whitening: Tensor
    colouring: Tensor
    n_rows: Tensor

    def __init__(self, mode: str, d_in: int):
        super().__init__()
        if mode not in SCALINGS:
            raise ConfigError(f"input scaling {mode!r}: choose one of {', '.join(SCALINGS)}")
        self.name = mode
        self.mode = SCALINGS[mode]
        self.register_buffer("shift", torch.zeros(d_in))
        self.register_buffer("gain", torch.ones(d_in))
        self.register_buffer("n_rows", torch.tensor(0))
        for name, value in self.mode.buffers(d_in).items():
            self.register_buffer(name, value)

    def extra_repr(self) -> str:
        """Mode and number of rows seen, for printing."""
        return f"{self.name!r}, fitted on {int(self.n_rows)} rows"

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Fit the scaling on rows x [n, d_in].

        Raises
        ------
        DataError
            The rows are empty, hold NaN or infinity, are all zero, so that no factor brings
            them to scale, or are of a kind that the mode can't take.
        """
        if x.ndim != 2 or x.shape[1] != len(self.shift) or len(x) == 0:
            raise DataError(
                f"input scaling was given {tuple(x.shape)}: it needs [n, {len(self.shift)}], n ≥ 1"
            )
        x = x.to(torch.float64)
        if not x.isfinite().all():
            bad = int((~x.isfinite()).any(dim=1).sum())
            raise DataError(f"{bad} of {len(x)} rows hold NaN or infinity; drop or repair them")
        self.mode.fit(self, x)
        if not self.gain.isfinite().all():
            raise DataError(
                f"all {len(x)} rows are {'zero' if not x.any() else 'the same'}: there is no "
                f"scale to fit with input_scaling={self.name!r}"
            )
        self.n_rows.fill_(len(x))

    def context(self, x: Tensor) -> Context:
        """What undoing the scaling of x [..., d_in] needs; empty unless it is per example."""
        return self.mode.context(x)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Scaled inputs [..., d_in], as the encoder sees them."""
        return self.mode.apply(self, x, self.mode.context(x) if context is None else context)

    def invert(self, scaled: Tensor, context: Context | None = None) -> Tensor:
        """Back to the caller's units, [..., d_in].

        Raises
        ------
        DataError
            The mode has a scale for each example and no context was given.
        """
        if self.mode.per_example and not context:
            raise DataError(
                f"input_scaling={self.name!r} has a scale for each example: decode with "
                "context=sae.context(x) of the same examples"
            )
        return self.mode.invert(self, scaled, context or ())
