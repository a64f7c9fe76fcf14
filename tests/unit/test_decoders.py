"""Directions of latents: the Jacobian of the decoder, in the units of the data."""

from __future__ import annotations

import pytest
import torch

from saebook.evaluation import decoder_directions
from saebook.models import ARCHITECTURES, SAE, SCALINGS, SAEConfig, fold_scaling
from saebook.training.run import settle


def inputs(n: int = 64, d_in: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 + 2 * torch.randn(n, d_in, generator=generator)).clamp_min(0)


def make(x: torch.Tensor, towards=None, **changes) -> SAE:
    config = SAEConfig(**({"d_in": 6, "d_sae": 20, "architecture": "topk", "k": 3} | changes))
    sae = SAE(config, seed=1)
    sae.fit_inputs(x, towards)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    settle(sae, x)
    return sae


def active_jacobians(sae: SAE, x: torch.Tensor) -> torch.Tensor:
    """Jacobians of the scaled reconstruction [d_sae, d_target], over active examples' mean."""

    def reconstruct(latents: torch.Tensor) -> torch.Tensor:
        return sae.config.decoding.finish(sae, latents @ sae.W_dec)

    latents = sae.encode(x).detach()
    each = torch.stack([torch.func.jacrev(reconstruct)(f) for f in latents]).detach()
    active = sae.config.selection.active(latents).float()  # [n, d_sae]
    total = torch.einsum("nj,noj->jo", active, each)
    return total / active.sum(dim=0)[:, None]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_directions_of_an_mlp_are_its_jacobian_over_active_examples(architecture):
    k = {"k": 3} if ARCHITECTURES[architecture].uses_k else {"k": None}
    x = inputs()
    sae = make(x, architecture=architecture, decoder="mlp", d_hidden=9, **k)
    expected = active_jacobians(sae, x)
    fired = ~expected.isnan().any(dim=1)
    assert fired.sum() > 5
    assert torch.allclose(sae.directions[fired], expected[fired], atol=1e-5)
    # Which hidden units are on depends on the example: one Jacobian would not do.
    share = sae.hidden_share[fired]
    assert ((share > 0) & (share < 1)).any()


def test_a_latent_that_never_fired_is_described_where_all_are_silent():
    x = inputs()
    sae = make(x, decoder="mlp", d_hidden=9)
    with torch.no_grad():
        sae.b_enc[4] = -1e3
    settle(sae, x)
    assert not sae.encode(x)[:, 4].any()
    on = (sae.b_hidden > 0).float()
    assert torch.allclose(sae.directions[4], (sae.W_dec[4] * on) @ sae.W_out, atol=1e-6)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_directions_of_a_linear_decoder_are_its_rows(architecture):
    k = {"k": 3} if ARCHITECTURES[architecture].uses_k else {"k": None}
    sae = make(inputs(), architecture=architecture, **k)
    assert sae.directions is sae.W_dec
    jacobians = active_jacobians(sae, inputs())
    fired = ~jacobians.isnan().any(dim=1)
    assert fired.sum() > 5
    assert torch.allclose(sae.directions[fired], jacobians[fired], atol=1e-5)


@pytest.mark.parametrize("decoder", ["linear", "mlp"])
@pytest.mark.parametrize("mode", [m for m, rule in SCALINGS.items() if not rule.per_example])
def test_directions_are_what_a_latent_adds_in_the_units_of_the_data(mode, decoder):
    x = inputs()
    sae = make(x, input_scaling=mode, decoder=decoder)
    directions = decoder_directions(sae)
    assert directions.shape == (20, 6)
    latents = sae.encode(x[:1]).detach()
    if decoder == "mlp":
        # Where all examples have the same hidden units on, one Jacobian is the average.
        with torch.no_grad():
            sae.b_hidden.fill_(1e3)
        settle(sae, x)
        directions = decoder_directions(sae)
    for j in (0, 7, 19):
        added = latents.clone()
        added[:, j] += 1.0
        difference = (sae.decode(added) - sae.decode(latents)).detach()[0]
        assert torch.allclose(directions[j], difference, atol=2e-3 * float(directions.abs().max()))


@pytest.mark.parametrize("mode", [m for m, rule in SCALINGS.items() if rule.per_example])
def test_where_examples_have_scales_of_their_own_directions_stay_scaled(mode):
    sae = make(inputs(), input_scaling=mode)
    assert torch.equal(decoder_directions(sae), sae.W_dec)


@pytest.mark.parametrize("mode", [m for m, rule in SCALINGS.items() if rule.folds])
def test_folding_leaves_directions_where_they_are(mode):
    sae = make(inputs(), input_scaling=mode, decoder="mlp", d_hidden=9)
    folded = fold_scaling(sae)
    assert torch.allclose(decoder_directions(folded), decoder_directions(sae), atol=1e-4)


def test_directions_of_a_transcoder_are_in_the_units_of_its_targets():
    x, target = inputs(), 100 * inputs(seed=4)[:, :4]
    sae = make(x, target, d_out=4)
    latents = sae.encode(x[:1]).detach()
    added = latents.clone()
    added[:, 5] += 1.0
    difference = (sae.decode(added) - sae.decode(latents)).detach()[0]
    assert torch.allclose(decoder_directions(sae)[5], difference, rtol=1e-3, atol=1e-2)


def test_directions_of_windows_hold_every_bin():
    windows = inputs(192).reshape(64, 3, 6)
    sae = make(windows, seq_len=3, target="all", input_scaling="standardize")
    latents = sae.encode(windows[:1]).detach()
    added = latents.clone()
    added[:, 5] += 1.0
    difference = (sae.decode(added) - sae.decode(latents)).detach()[0]
    assert difference.shape == (3, 6)
    assert torch.allclose(decoder_directions(sae)[5], difference.flatten(), atol=1e-4)
