"""Initial weights that depend on the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.errors import DataError
from saebook.losses import COUNT_RECONSTRUCTIONS
from saebook.models.initialisation import geometric_median, spread_rows
from saebook.models.output import OUTPUTS

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig
    from saebook.models.sae import SAE

# Pre-activations looked at: rows are spread evenly where there are more.
FIT_ENTRIES = 2**24
# Size of a first reconstruction that has nothing to do with its target (the encoder was drawn by
# itself), as a share of the target's: least squares would shrink it to where nothing is learned.
SMALLEST_SIZE = 0.1


def refuse_negative(config: SAEConfig, x: Tensor, target: Tensor) -> None:
    """Refuse values below zero where the settings can only take counts.

    Parameters
    ----------
    config
        Settings of the model.
    x
        Inputs of any shape, in the caller's units.
    target
        What they should become.

    Raises
    ------
    DataError
        The smallest value is negative.
    """
    if config.reconstruction in COUNT_RECONSTRUCTIONS and float(target.min()) < 0:
        raise DataError(
            f"reconstruction={config.reconstruction!r} compares counts, and the smallest target "
            f"is {float(target.min()):g}: use reconstruction='mse' for values below zero"
        )
    if config.input_scaling == "sqrt" and float(x.min()) < 0:
        raise DataError(
            f"input_scaling='sqrt' takes counts, and the smallest input is {float(x.min()):g}: "
            "use 'scale' or 'standardize' for values below zero"
        )


def fit_weights(sae: SAE, x_scaled: Tensor, target_scaled: Tensor) -> None:
    """Set biases, data-drawn rows and the size of the latents from scaled training rows.

    Parameters
    ----------
    sae
        With its scaling fitted; weights are changed in place.
    x_scaled
        [n, d_encoder].
    target_scaled
        [n, d_target].
    """
    config = sae.config
    _fit_b_dec(sae, target_scaled)
    if config.decoder_init == "data":
        _draw_rows(sae, x_scaled, target_scaled)
    if config.b_enc_init == "center":
        sae.b_enc.copy_(-(x_scaled.mean(dim=0) @ sae.W_enc))
    rows = max(1, FIT_ENTRIES // config.d_sae)
    every = -(-len(x_scaled) // rows)
    h = sae.encode_scaled(x_scaled[::every])
    config.selection.fit(sae, h)
    if config.selection.fits_scale:
        _fit_size(sae, h, target_scaled[::every])


def _fit_b_dec(sae: SAE, target_scaled: Tensor) -> None:
    wide = target_scaled.to(torch.float64)
    if sae.config.b_dec_init == "mean":
        centre = wide.mean(dim=0)
    elif sae.config.b_dec_init == "geometric_median":
        centre = geometric_median(wide)
    else:
        return
    _, undo_output = OUTPUTS[sae.config.output or "none"]
    # Where each example has a scale of its own, the centre has no one value in its units.
    if sae.config.output == "none" or sae.target_scaling.mode.per_example:
        sae.b_dec.copy_(centre)
    else:
        shape = (-1, sae.config.d_out or sae.config.d_in)
        in_units = sae.target_scaling.invert(centre.reshape(shape).to(sae.b_dec.dtype))
        sae.b_dec.copy_(sae.target_scaling(undo_output(in_units)).flatten())


def _draw_rows(sae: SAE, x_scaled: Tensor, target_scaled: Tensor) -> None:
    """Rows of both matrices from centred training examples, at unit norm (a transcoder's too)."""
    generator = torch.Generator().manual_seed(sae.seed)
    both = torch.cat(
        [x_scaled - x_scaled.mean(dim=0), target_scaled - target_scaled.mean(dim=0)], 1
    )
    drawn = spread_rows(both, sae.config.d_sae, generator)
    encoder, decoder = drawn.split([x_scaled.shape[1], target_scaled.shape[1]], dim=1)
    if sae.config.decoder == "linear":
        norm = sae.W_dec.norm(dim=1, keepdim=True)
        sae.W_dec.copy_(_unit_or_kept(decoder, sae.W_dec) * norm)
    if sae.config.encoder_init == "transpose":
        norm = sae.encoder_rows.norm(dim=1, keepdim=True)
        sae.encoder_rows.copy_(_unit_or_kept(encoder, sae.encoder_rows) * norm)


def _unit_or_kept(drawn: Tensor, kept: Tensor) -> Tensor:
    """Rows at unit norm; an example at the mean has no direction, so its row stays random."""
    norm = drawn.norm(dim=1, keepdim=True)
    return torch.where(norm > 1e-6, drawn / norm.clamp_min(1e-6), F.normalize(kept, dim=1))


def _fit_size(sae: SAE, h: Tensor, target_scaled: Tensor) -> None:
    """Scale the encoder so that the first reconstruction has its least-squares size.

    Where d_sae is much larger than d_in, the k largest of random projections overshoot
    several times, and training would begin by undoing that.
    """
    training = sae.training
    sae.train()
    latents = sae.config.selection.select(sae, h)
    sae.train(training)
    finish = sae.config.decoding.finish
    rest = finish(sae, latents.new_zeros(1, sae.W_dec.shape[1]))
    made = (finish(sae, latents @ sae.W_dec) - rest).to(torch.float64)
    wanted = (target_scaled - rest).to(torch.float64)
    least_squares = (made * wanted).sum() / made.square().sum()
    factor = least_squares.maximum(SMALLEST_SIZE * wanted.norm() / made.norm())
    if factor.isfinite() and factor > 0:
        sae.config.selection.rescale(sae, factor.to(h.dtype))
