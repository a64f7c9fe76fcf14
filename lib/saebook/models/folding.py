"""Fold scaling or decoder norms into the weights, so that inference needs neither."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from saebook.errors import ConfigError
from saebook.models.sae import SAE
from saebook.models.scaling import InputScaling


@torch.no_grad()
def fold_scaling(sae: SAE) -> SAE:
    """Return an SAE with ``input_scaling="none"`` that computes the same function.

    The encoder takes the scaling, the decoder undoes it; latents and any threshold stay as they
    are. Every mode that is one fitted affine map folds exactly (Gemma Scope, appendix A, with
    one gain per unit, or a whole matrix).

    Parameters
    ----------
    sae
        A fitted SAE; it is not changed.

    Returns
    -------
    SAE
        In the same mode (train or eval) and of the same dtype.

    Raises
    ------
    ConfigError
        The mode has a scale for each example, or bends its input: no weights can do that.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAE, SAEConfig
    >>> sae = SAE(SAEConfig(d_in=3, d_sae=8, architecture="topk", k=2))
    >>> x = torch.tensor([[1.0, 5.0, 2.0], [0.0, 3.0, 9.0]])
    >>> sae.fit_inputs(x)
    >>> folded = fold_scaling(sae)
    >>> torch.allclose(folded(x)[0], sae(x)[0], atol=1e-5), folded.config.input_scaling
    (True, 'none')
    """
    if not sae.scaling.mode.folds:
        raise ConfigError(
            f"input_scaling={sae.config.input_scaling!r} can't be folded into weights: keep it "
            "with the model, or train with 'scale', 'standardize' or 'whiten'"
        )
    # Rows of a folded decoder carry the inverse scale, so they can't be held at unit norm.
    config = dataclasses.replace(sae.config, input_scaling="none", decoder_norm="free")
    folded = SAE(config).to(sae.W_dec)
    kept = folded.state_dict()
    folded.load_state_dict({k: v for k, v in sae.state_dict().items() if k in kept})
    to_scaled, offset = _affine(sae.scaling)
    bins = (config.d_sae, config.seq_len, config.d_in)
    rows = (sae.encoder_rows.reshape(bins) @ to_scaled.T).reshape(config.d_sae, -1)
    folded.encoder_rows.copy_(rows)
    if not config.apply_b_dec_to_input:
        added = sae.encoder_rows.reshape(bins).sum(dim=1) @ offset
        config.selection.move_b_enc(folded, added)
    _fold_decoder(sae, folded)
    for scaling in {folded.scaling, folded.target_scaling}:
        scaling.shift.zero_()
        scaling.gain.fill_(1.0)
    folded.target_variance.fill_(float("nan"))
    return folded.train(sae.training)


def _affine(scaling: InputScaling) -> tuple[Tensor, Tensor]:
    """Matrix A [d, d] and offset b [d] with ``scaled = x @ A + b``."""
    identity = torch.eye(len(scaling.shift)).to(scaling.shift)
    offset = scaling(torch.zeros_like(scaling.shift))
    return scaling(identity) - offset, offset


def _fold_decoder(sae: SAE, folded: SAE) -> None:
    scaling = sae.target_scaling
    at_zero = scaling.invert(torch.zeros_like(scaling.shift))

    def in_units(rows: Tensor) -> Tensor:
        return scaling.invert(rows.unflatten(-1, (-1, len(at_zero)))).flatten(-2)

    zero = in_units(torch.zeros_like(sae.b_dec))
    last = "W_dec" if sae.config.decoder == "linear" else "W_out"
    getattr(folded, last).copy_(in_units(getattr(sae, last)) - zero)
    folded.b_dec.copy_(in_units(sae.b_dec))


@torch.no_grad()
def fold_decoder_norms(sae: SAE) -> SAE:
    """Return an SAE with decoder rows of unit norm that computes the same function.

    Latents are multiplied by the norms of their rows, ``f ← f ‖d‖``, so that their sizes can be
    compared. A row of zeros stays one.

    Raises
    ------
    ConfigError
        Latents compete by size (topk, batchtopk), so that other ones would be selected.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAE, SAEConfig
    >>> sae = SAE(SAEConfig(d_in=3, d_sae=8, architecture="relu"))
    >>> x = torch.tensor([[1.0, 5.0, 2.0], [0.0, 3.0, 9.0]])
    >>> sae.fit_inputs(x)
    >>> folded = fold_decoder_norms(sae)
    >>> torch.allclose(folded(x)[0], sae(x)[0], atol=1e-5), folded.W_dec.norm(dim=1).max().item()
    (True, 1.0)
    """
    if sae.config.selection.uses_k:
        raise ConfigError(
            f"folding decoder norms with architecture={sae.config.architecture!r} would change "
            "which latents are the largest: train it with decoder_norm='unit' instead"
        )
    folded = SAE(dataclasses.replace(sae.config, decoder_norm="unit")).to(sae.W_dec)
    folded.load_state_dict(sae.state_dict())
    norms = sae.W_dec.norm(dim=1)
    norms = torch.where(norms > 0, norms, torch.ones_like(norms))
    folded.W_dec.div_(norms[:, None])
    sae.config.selection.rescale(folded, norms)
    return folded.train(sae.training)
