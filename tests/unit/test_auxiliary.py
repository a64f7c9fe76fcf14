"""Auxiliary terms against their definitions written out."""

from __future__ import annotations

import pytest
import torch

from saebook import losses
from saebook.models import SAE, SAEConfig
from saebook.training.auxiliary import auxk
from saebook.training.dead import Dead, DeadCount


def model(architecture: str = "batchtopk") -> SAE:
    sparsity = {"target_l0": 2.0} if architecture == "gated" else {"k": 2}
    settings = {"architecture": architecture, "auxiliary": "auxk", "k_aux": 4, **sparsity}
    sae = SAE(SAEConfig.from_dict({"d_in": 6, "d_sae": 16, **settings}), seed=0).double()
    sae.fit_inputs(examples())
    return sae


def examples() -> torch.Tensor:
    return torch.rand(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def strongest_dead(sae: SAE, forward, dead: Dead) -> torch.Tensor:
    """The k_aux largest pre-activations among the dead, row by row."""
    rows = []
    for h in forward.pre_activations:
        chosen = h.masked_fill(~dead.mask, -torch.inf).topk(4).indices
        rows.append(sum(h[i].clamp_min(0) * sae.W_dec[i] for i in chosen if dead.mask[i]))
    residual = forward.target_scaled - forward.reconstruction_scaled
    return losses.auxk(residual, torch.stack(rows))


@pytest.mark.parametrize("room", [0, 3, 16])
@pytest.mark.parametrize("n_dead", [1, 3, 4, 5, 16])
@pytest.mark.parametrize("architecture", ["batchtopk", "topk", "gated"])
def test_auxk_lets_the_strongest_dead_latents_reconstruct_the_residual(n_dead, architecture, room):
    sae = model(architecture)
    mask = torch.zeros(16, dtype=torch.bool)
    dead = Dead(mask, (min(n_dead + room, 16),))
    mask[torch.randperm(16, generator=torch.Generator().manual_seed(2))[:n_dead]] = True
    gradients = []
    for term in (auxk, strongest_dead):
        sae.zero_grad()
        value = term(sae, sae.pass_through(examples()), dead)
        value.backward()
        gradients.append([p.grad for p in (sae.W_dec, sae.b_enc)])
        gradients[-1].append(value.detach())
    for ours, defined in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, defined, rtol=1e-10, atol=1e-12)


def test_auxk_without_dead_latents_is_exactly_zero():
    sae = model()
    for at_most in (0, 4):  # known, and not known yet
        dead = Dead(torch.zeros(16, dtype=torch.bool), (at_most,))
        assert auxk(sae, sae.pass_through(examples()), dead).item() == 0.0


def test_where_more_are_dead_than_was_known_the_first_of_them_are_found():
    rows, are_dead = Dead(torch.tensor([False, True, True, True]), (2,)).rows()
    assert rows.tolist() == [1, 2] and are_dead.all()


def test_dead_latents_are_counted_for_each_model_of_a_stack():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    count = DeadCount(2, 3, torch.device("cpu"))
    assert count.at_most(lambda: mask) == (2, 0)
    first, second = Dead(mask, (2, 0)).of(0), Dead(mask, (2, 0)).of(1)
    assert first.mask.tolist() == mask[0].tolist() and list(second.at_most) == [0]


def test_a_device_without_values_may_hold_only_dead_latents():
    count = DeadCount(1, 3, torch.device("meta"))
    assert count.at_most(lambda: torch.zeros(3, device="meta")) == (3,)
