"""Loss terms against numbers worked by hand, and their gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from saebook import losses


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mse_is_summed_over_inputs_and_averaged_over_examples():
    x = rand(5, 3)
    assert losses.mse(x, torch.zeros_like(x)).item() == pytest.approx(
        float((x**2).sum() / 5), rel=1e-12
    )


@pytest.mark.parametrize("times", [2, 7])
def test_terms_do_not_depend_on_batch_size(times):
    x, y, z = rand(4, 3), rand(4, 3, seed=1), rand(4, 6, seed=2)
    norms = rand(6, seed=3).abs()
    for term in (
        lambda n: losses.mse(x.repeat(n, 1), y.repeat(n, 1)),
        lambda n: losses.l1(z.repeat(n, 1)),
        lambda n: losses.l1_decoder_norm(z.repeat(n, 1), norms),
        lambda n: losses.auxk((x - y).repeat(n, 1), x.repeat(n, 1)),
    ):
        assert term(times).item() == pytest.approx(term(1).item(), rel=1e-12)


def test_l1_decoder_norm_gains_nothing_from_shrinking_latents():
    z, norms = rand(4, 6).abs(), rand(6, seed=1).abs()
    cheated = losses.l1_decoder_norm(z / 10, norms * 10)
    assert cheated.item() == pytest.approx(losses.l1_decoder_norm(z, norms).item(), rel=1e-12)
    assert losses.l1(z / 10).item() == pytest.approx(losses.l1(z).item() / 10, rel=1e-12)


def test_auxk_of_a_residual_without_variance_is_zero():
    flat = torch.ones(4, 3, dtype=torch.float64)
    assert losses.auxk(flat, torch.zeros_like(flat)).item() == 0.0


def test_auxk_sends_no_gradient_to_the_living_latents():
    residual = rand(4, 3).requires_grad_()
    dead = rand(4, 3, seed=1).requires_grad_()
    losses.auxk(residual, dead).backward()
    assert residual.grad is None
    assert dead.grad is not None and dead.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "term",
    [
        lambda a: losses.mse(rand(4, 6), a),
        lambda a: losses.l1(a),
        lambda a: losses.l1_decoder_norm(a, rand(6, seed=2).abs()),
        lambda a: losses.l1_decoder_norm(rand(3, 24), a.reshape(-1)),
        lambda a: losses.auxk(rand(4, 6), a),
    ],
)
def test_gradients_match_finite_differences(term):
    assert gradcheck(term, (rand(4, 6, seed=5).requires_grad_(),), eps=1e-7, atol=1e-6)
