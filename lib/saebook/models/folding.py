"""Fold the input scaling into the weights, so that inference needs no scaling."""

from __future__ import annotations

import dataclasses

import torch

from saebook.models.sae import SAE


@torch.no_grad()
def fold_scaling(sae: SAE) -> SAE:
    """Return an SAE with ``input_scaling="none"`` that computes the same function.

    The encoder takes the gain and the shift, the decoder undoes them; latents and any
    threshold stay as they are. Every affine mode folds exactly (Gemma Scope, appendix A,
    with one gain per unit).

    Parameters
    ----------
    sae
        A fitted SAE; it is not changed.

    Returns
    -------
    SAE
        In the same mode (train or eval) and of the same dtype.

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
    shift, gain = sae.scaling.shift, sae.scaling.gain
    # Rows of a folded decoder carry 1/gain, so they can't be held at unit norm any more.
    config = dataclasses.replace(sae.config, input_scaling="none", decoder_norm="free")
    folded = SAE(config).to(sae.W_dec)
    folded.load_state_dict(sae.state_dict())
    folded.encoder_rows.mul_(gain)
    folded.W_dec.div_(gain)
    folded.b_dec.copy_(sae.b_dec / gain + shift)
    if not config.apply_b_dec_to_input:
        folded.b_enc.sub_((sae.encoder_rows * gain) @ shift)
    folded.scaling.shift.zero_()
    folded.scaling.gain.fill_(1.0)
    folded.scaling.total_variance.fill_(float("nan"))
    return folded.train(sae.training)
