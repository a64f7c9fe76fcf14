"""Equivalent coefficients: two losses under different conventions have proportional gradients."""

from __future__ import annotations

import math

import pytest
import torch

from saebook import losses
from saebook.errors import ConfigError


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# An SAE of d_in 5, d_sae 7 on 11 examples, as plain tensors.
D, F, B = 5, 7, 11


def total(
    x: torch.Tensor,
    leaves: list[torch.Tensor],
    coefficient: float,
    *,
    penalty: str = "l1",
    error: str = "sum",
    l1_over_latents: str = "sum",
    l1_over_batch: str = "mean",
    scale: float = 1.0,
    embed: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of one SAE under a convention, ``x`` scaled by ``scale`` and put in a wider space."""
    w_enc, b_enc, w_dec, b_dec, theta = leaves
    # The same SAE sees the same data: directions rotate, biases and thresholds scale.
    embed = torch.eye(D, dtype=x.dtype) if embed is None else embed
    x, w_enc, w_dec = scale * x @ embed, embed.T @ w_enc, w_dec @ embed
    h = x @ w_enc + scale * b_enc
    latents = h * (h > scale * theta)
    squared = (x - latents @ w_dec - scale * b_dec @ embed).square().mean(dim=0)
    if penalty == "l0":
        each = losses.step(h, scale * theta, 2.0 * scale)
    elif penalty == "tanh":
        each = scale / 0.4 * (0.4 / scale * latents.abs()).tanh()
    else:
        each = latents.abs()
    each = each.sum(dim=1) if l1_over_latents == "sum" else each.mean(dim=1)
    each = each.sum() if l1_over_batch == "sum" else each.mean()
    return (squared.sum() if error == "sum" else squared.mean()) + coefficient * each


def parameters() -> list[torch.Tensor]:
    shapes = ((D, F), (F,), (F, D), (D,))
    leaves = [rand(*shape, seed=i) for i, shape in enumerate(shapes)]
    return [p.requires_grad_() for p in (*leaves, rand(F, seed=9).abs() / 4)]


def gradient(loss: torch.Tensor, leaves: list[torch.Tensor]) -> torch.Tensor:
    found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize(
    ("other", "multiple"),
    [
        ({}, 1.0),
        ({"error": "mean"}, 1 / D),
        ({"l1_over_latents": "mean"}, 1.0),
        ({"l1_over_batch": "sum"}, 1.0),
        ({"error": "mean", "l1_over_latents": "mean", "l1_over_batch": "sum"}, 1 / D),
        ({"input_rms": 3.0}, 9.0),
        ({"input_rms": 3.0, "error": "mean", "l1_over_batch": "sum"}, 9 / D),
        ({"input_rms": 3.0, "penalty": "l0"}, 9.0),
        ({"error": "mean", "l1_over_batch": "sum", "penalty": "l0"}, 1 / D),
    ],
)
def test_equivalent_coefficients_give_proportional_losses_and_gradients(other, multiple):
    x, leaves, coefficient = rand(B, D, seed=20), parameters(), 5.0
    sizes = {"d_in": D, "d_sae": F, "batch_size": B}
    here = losses.lambda_equivalent(coefficient, **sizes, **other)
    penalty = other.get("penalty", "l1")
    words = {k: v for k, v in other.items() if k not in ("input_rms", "penalty")}
    there_loss = total(
        x, leaves, coefficient, penalty=penalty, scale=other.get("input_rms", 1.0), **words
    )
    here_loss = total(x, leaves, here, penalty=penalty)
    assert there_loss.item() == pytest.approx(multiple * here_loss.item(), rel=1e-10)
    there, expected = gradient(there_loss, leaves), multiple * gradient(here_loss, leaves)
    torch.testing.assert_close(there, expected, rtol=1e-9, atol=1e-11)
    if other:
        naive = multiple * gradient(total(x, leaves, coefficient, penalty=penalty), leaves)
        assert not torch.allclose(there, naive, rtol=1e-2)
    back = losses.lambda_equivalent(here, **sizes, **other, to="other")
    assert back == pytest.approx(coefficient, rel=1e-12)


def test_tanh_converts_its_slope_as_l1_and_its_level_by_the_input_scale():
    x, leaves = rand(B, D, seed=20), parameters()
    here = losses.lambda_equivalent(2.0, input_rms=3.0)
    there_loss = total(x, leaves, 2.0, penalty="tanh", scale=3.0)
    here_loss = total(x, leaves, here, penalty="tanh")
    torch.testing.assert_close(gradient(there_loss, leaves), 9 * gradient(here_loss, leaves))


@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_a_wider_space_needs_a_stronger_coefficient(penalty):
    x, leaves, wide = rand(B, D, seed=20), parameters(), 20
    embed = torch.linalg.qr(rand(wide, D, seed=21)).Q.T  # [D, wide], orthonormal rows
    ratio = wide / D
    there = losses.lambda_at_width(0.7, d_in=D, new_d_in=wide, penalty=penalty)
    there_loss = total(x, leaves, there, penalty=penalty, scale=math.sqrt(ratio), embed=embed)
    here_loss = total(x, leaves, 0.7, penalty=penalty)
    torch.testing.assert_close(there_loss, ratio * here_loss)
    torch.testing.assert_close(gradient(there_loss, leaves), ratio * gradient(here_loss, leaves))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"error": "average"}, "error is 'average'"),
        ({"l1_over_latents": "max"}, "l1_over_latents is 'max'"),
        ({"l1_over_batch": "none"}, "l1_over_batch is 'none'"),
        ({"to": "here"}, "to is 'here'"),
        ({"penalty": "l2"}, "penalty is 'l2'"),
        ({"error": "mean"}, "needs d_in"),
        ({"l1_over_latents": "mean"}, "needs d_sae"),
        ({"l1_over_batch": "sum"}, "needs batch_size"),
        ({"l1_over_batch": "sum", "batch_size": 0}, "batch_size is 0"),
        ({"input_rms": 0.0}, "input_rms is 0.0"),
        ({"input_rms": math.nan}, "input_rms is nan"),
    ],
)
def test_a_convention_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        losses.lambda_equivalent(1.0, **settings)


def test_a_coefficient_below_zero_or_not_finite_is_refused():
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="coefficient is"):
            losses.lambda_equivalent(bad)
        with pytest.raises(ConfigError, match="coefficient is"):
            losses.lambda_at_width(bad, d_in=2, new_d_in=3)
