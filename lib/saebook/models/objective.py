"""The stateless terms of a model's objective, as functions of one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from saebook import losses
from saebook.models.forward import Forward
from saebook.models.shares import mean_over

if TYPE_CHECKING:
    from saebook.models.sae import SAE


Term = Callable[["SAE", Forward], Tensor]


def _error(sae: SAE, forward: Forward, reconstruction: Tensor) -> Tensor:
    """The reconstruction term that the settings name, of one reconstruction."""
    name = sae.config.objective.reconstruction
    settings = {"tau": sae.config.lmse_tau} if name == "lmse" else {}
    return losses.RECONSTRUCTIONS[name](forward.target_scaled, reconstruction, **settings)


def _reconstruction(sae: SAE, forward: Forward) -> Tensor:
    """Errors of all nested dictionaries, by their weights."""
    errors = [_error(sae, forward, level) for level in forward.level_reconstructions]
    if len(errors) == 1:
        return errors[0]
    weights = sae.config.prefix_weights or (1.0,) * len(errors)
    return torch.stack([w / sum(weights) * e for w, e in zip(weights, errors)]).sum()


def _gated_auxiliary(sae: SAE, forward: Forward) -> Tensor:
    """Error of what the gate alone would reconstruct, through a decoder that does not learn."""
    frozen = cast("SAE", SimpleNamespace(**{n: p.detach() for n, p in sae.named_parameters()}))
    projected = forward.entries.times(forward.pre_activations.relu(), frozen.W_dec)
    alone = sae.config.decoding.finish(frozen, projected)
    return _error(sae, forward, sae.with_output(alone, forward.context))


def _weights(sae: SAE, forward: Forward) -> Tensor | None:
    """Factors of the penalty, for each entry."""
    return None if sae.latent_weights is None else forward.entries.at(sae.latent_weights)


# L1 is linear in absolute values: that of their mean example is the mean over examples.
def _l1(sae: SAE, forward: Forward) -> Tensor:
    return losses.l1(forward.selected[-1].mean_latents(), weights=sae.latent_weights)


def _l1_decoder_norm(sae: SAE, forward: Forward) -> Tensor:
    mean, norms = forward.selected[-1].mean_latents(), sae.W_dec.norm(dim=1)
    return losses.l1_decoder_norm(mean, norms, weights=sae.latent_weights)


def _l1_gate(sae: SAE, forward: Forward) -> Tensor:
    gate = forward.pre_activations.relu()
    mean = forward.entries.column_sums(gate) / forward.entries.n_examples(gate)
    return losses.l1_decoder_norm(mean, sae.W_dec.norm(dim=1), weights=sae.latent_weights)


def _tanh(sae: SAE, forward: Forward) -> Tensor:
    a, b = sae.config.tanh_a, sae.config.tanh_b
    norms, weights = forward.entries.at(sae.W_dec.norm(dim=1)), _weights(sae, forward)
    total = losses.tanh(forward.latents, norms, a, b, weights=weights)
    return total / forward.entries.n_summed


def _l0_step(sae: SAE, forward: Forward) -> Tensor:
    threshold, weights = forward.entries.at(sae.threshold), _weights(sae, forward)
    total = losses.l0_step(forward.pre_activations, threshold, sae.bandwidth, weights=weights)
    return total / forward.entries.n_summed


def _l0_quadratic(sae: SAE, forward: Forward) -> Tensor:
    threshold = forward.entries.at(sae.threshold)
    target = sae.config.target_l0
    target = (1.0 if target is None else target) * forward.entries.n_summed
    whole = partial(mean_over, sae.shares)
    return losses.l0_quadratic(
        forward.pre_activations, threshold, sae.bandwidth, target, over_batch=whole
    )


TERMS: dict[str, Term] = {
    **dict.fromkeys(losses.RECONSTRUCTIONS, _reconstruction),
    "l1": _l1,
    "l1_decoder_norm": _l1_decoder_norm,
    "l1_gate": _l1_gate,
    "tanh": _tanh,
    "l0_step": _l0_step,
    "l0_quadratic": _l0_quadratic,
    "gated_auxiliary": _gated_auxiliary,
}
