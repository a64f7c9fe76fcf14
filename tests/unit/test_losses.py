"""Loss terms against numbers worked by hand, and their gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import poisson
from torch.autograd import gradcheck

from saebook import losses

THETA = torch.tensor([0.2, -0.3, 0.5, 0.0, 1.0, 0.4], dtype=torch.float64)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def counts(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.poisson(
        torch.full(shape, 1.5, dtype=torch.float64),
        generator=torch.Generator().manual_seed(seed),
    )


def poisson_quantiles(mean: float, n: int = 20_000) -> torch.Tensor:
    """A column of counts whose histogram is the Poisson distribution's."""
    return torch.from_numpy(poisson.ppf((torch.arange(n) + 0.5).numpy() / n, mean))[:, None]


def best_constant(term, target: torch.Tensor, bounds: tuple[float, float]) -> float:
    def cost(y: float) -> float:
        return float(term(target, torch.full_like(target, y)))

    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return float(found.x)  # pyright: ignore[reportAttributeAccessIssue]


def test_mse_is_summed_over_inputs_and_averaged_over_examples():
    x = rand(5, 3)
    assert losses.mse(x, torch.zeros_like(x)).item() == pytest.approx(
        float((x**2).sum() / 5), rel=1e-12
    )


NORMS, WEIGHTS = rand(6, seed=3).abs(), rand(6, seed=4).abs()
DEAD = torch.tensor([True, False, True, False, True, True])
# Every term that is a mean over examples, as a function of one batch [n, 6].
ADDITIVE = {
    "mse": lambda z: losses.mse(z.sin(), z),
    "lmse": lambda z: losses.lmse(z.square(), z.exp()),
    "pkl": lambda z: losses.pkl(z.square().round(), z.exp()),
    "l1": losses.l1,
    "l1, weights": lambda z: losses.l1(z, weights=WEIGHTS),
    "l1_decoder_norm": lambda z: losses.l1_decoder_norm(z, NORMS),
    "l1_decoder_norm, weights": lambda z: losses.l1_decoder_norm(z, NORMS, weights=WEIGHTS),
    "tanh": lambda z: losses.tanh(z, NORMS, 2.0, 3.0),
    "tanh, weights": lambda z: losses.tanh(z, NORMS, 2.0, 3.0, weights=WEIGHTS),
    "l0_step": lambda z: losses.l0_step(z, THETA, 0.1),
    "l0_step, weights": lambda z: losses.l0_step(z, THETA, 0.1, weights=WEIGHTS),
    "ghost": lambda z: losses.ghost(z.sin(), z.exp()),
    "preactivation": lambda z: losses.preactivation(z, THETA, NORMS, DEAD),
}
RATIOS = {
    "auxk": lambda z: losses.auxk(z.sin(), z),
    "l0_quadratic": lambda z: losses.l0_quadratic(z, THETA, 0.1, 2.0),
}


@pytest.mark.parametrize("name", [*ADDITIVE, *RATIOS])
def test_terms_do_not_depend_on_batch_size(name):
    term, z = (ADDITIVE | RATIOS)[name], rand(4, 6)
    for times in (2, 7):
        assert term(z.repeat(times, 1)).item() == pytest.approx(term(z).item(), rel=1e-12)


@pytest.mark.parametrize("name", ADDITIVE)
def test_equal_parts_of_a_batch_average_to_the_whole(name):
    term, z = ADDITIVE[name], rand(12, 6)
    parts = torch.stack([term(part) for part in z.chunk(4)])
    assert parts.std() > 0
    assert parts.mean().item() == pytest.approx(term(z).item(), rel=1e-12)
    assert term(z.reshape(3, 4, 6)).item() == pytest.approx(term(z).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "contribution"),
    [
        ("l1", lambda z: z.abs()),
        ("l1_decoder_norm", lambda z: z.abs() * NORMS),
        ("tanh", lambda z: 2 / 3 * (3 * z.abs() * NORMS).tanh()),
        ("l0_step", lambda z: (z > THETA).double()),
    ],
)
def test_weights_multiply_each_latents_contribution(name, contribution):
    z = rand(5, 6)
    for term, weights in ((name, torch.ones_like(WEIGHTS)), (f"{name}, weights", WEIGHTS)):
        expected = float((contribution(z) @ weights).mean())
        assert ADDITIVE[term](z).item() == pytest.approx(expected, rel=1e-12)


def test_l1_decoder_norm_gains_nothing_from_shrinking_latents():
    z, norms = rand(4, 6).abs(), rand(6, seed=1).abs()
    for term in (losses.l1_decoder_norm, lambda z, norms: losses.tanh(z, norms, 2.0, 3.0)):
        cheated = term(z / 10, norms * 10)
        assert cheated.item() == pytest.approx(term(z, norms).item(), rel=1e-12)
    assert losses.l1(z / 10).item() == pytest.approx(losses.l1(z).item() / 10, rel=1e-12)


def test_tanh_is_l1_for_weak_latents_and_l0_for_strong_ones():
    z = rand(8, 6).abs() + 0.1
    weak = losses.tanh(z * 1e-6, NORMS, 2.0, 3.0)
    assert weak.item() == pytest.approx(2e-6 * losses.l1_decoder_norm(z, NORMS).item(), rel=1e-6)
    assert losses.tanh(z * 1e6, NORMS, 2.0, 3.0).item() == pytest.approx(2 / 3 * 6, rel=1e-9)


def test_tanh_saturates_each_latent_apart():
    z = torch.tensor([[100.0, 0.1]], dtype=torch.float64, requires_grad=True)
    losses.tanh(z, torch.ones(2, dtype=torch.float64), 2.0, 1.0).backward()
    assert z.grad is not None
    assert z.grad[0, 0] == 0.0
    assert z.grad[0, 1].item() == pytest.approx(2 / math.cosh(0.1) ** 2, rel=1e-12)


def test_pkl_of_a_count_with_itself_is_exactly_zero():
    x = torch.arange(300.0)
    assert losses.pkl(x, x).item() == 0.0
    assert losses.pkl(x.double(), x.double()).item() == 0.0


def test_pkl_of_a_silent_bin_is_exactly_the_rate():
    rate = torch.tensor([[1e-12, 0.25, 7.0]])
    assert losses.pkl(torch.zeros(1, 3), rate).item() == rate.sum().item()


def test_pkl_is_half_the_poisson_deviance():
    x, y = counts(50, 4), rand(50, 4).exp()
    gap = poisson.logpmf(x, x) - poisson.logpmf(x, y)
    assert losses.pkl(x, y).item() == pytest.approx(gap.sum(axis=1).mean(), rel=1e-9)


def test_pkl_of_a_zero_rate_is_finite_and_pushes_it_up():
    rate = torch.zeros(1, 2, requires_grad=True)
    loss = losses.pkl(torch.tensor([[3.0, 0.0]]), rate)
    loss.backward()
    assert loss.item() == pytest.approx(3 * math.log(3e8) - 3, rel=1e-6)
    assert rate.grad is not None
    assert rate.grad[0].tolist() == pytest.approx([1 - 3e8, 1.0], rel=1e-6)


def test_pkl_through_a_saturated_softplus_still_has_a_gradient():
    h = torch.full((1, 1), -18.0, requires_grad=True)
    losses.pkl(torch.ones(1, 1), torch.nn.functional.softplus(h)).backward()
    assert h.grad is not None
    assert h.grad.item() == pytest.approx(-1.0, rel=1e-4)  # d/dh of -log(e^h)


@pytest.mark.parametrize(("mean", "biased"), [(5.0, 4.55), (0.5, 0.37)])
def test_lmse_of_poisson_counts_is_smallest_below_their_mean(mean, biased):
    x = poisson_quantiles(mean)
    found = best_constant(losses.lmse, x, (0.0, 20.0))
    assert found == pytest.approx(float(x.log1p().mean().expm1()), abs=1e-5)
    assert found == pytest.approx(biased, abs=0.005)
    for unbiased in (losses.mse, losses.pkl):
        assert best_constant(unbiased, x, (1e-6, 20.0)) == pytest.approx(mean, abs=2e-3)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_lmse_tau_moves_the_target(tau):
    found = best_constant(
        lambda x, y: losses.lmse(x, y, tau=tau), torch.full((1, 1), 8.0).double(), (0.0, 100.0)
    )
    assert found == pytest.approx(9 ** (1 / tau) - 1, rel=1e-5)


def test_auxk_of_a_residual_without_variance_is_zero():
    flat = torch.ones(4, 3, dtype=torch.float64)
    assert losses.auxk(flat, torch.zeros_like(flat)).item() == 0.0


@pytest.mark.parametrize("term", [losses.auxk, losses.ghost])
def test_dead_terms_send_no_gradient_to_the_living_latents(term):
    residual = rand(4, 3).requires_grad_()
    dead = rand(4, 3, seed=1).requires_grad_()
    term(residual, dead).backward()
    assert residual.grad is None
    assert dead.grad is not None and dead.grad.abs().sum() > 0


def test_ghost_is_as_large_as_the_reconstruction_loss():
    residual, guess = rand(9, 4), rand(9, 4, seed=1)
    expected = losses.mse(residual, torch.zeros_like(residual)).item()
    for size in (1e-6, 1.0, 1e6):
        assert losses.ghost(residual, guess * size).item() == pytest.approx(expected, rel=1e-12)


def test_ghost_gradient_is_that_of_the_rescaled_error():
    residual, guess = rand(9, 4), rand(9, 4, seed=1)
    scale = residual.norm(dim=1, keepdim=True) / (2 * guess.norm(dim=1, keepdim=True))
    missed = (residual - scale * guess).square().sum(dim=1)
    factor = residual.square().sum(dim=1) / missed

    def frozen(g: torch.Tensor) -> torch.Tensor:
        return (factor * (residual - scale * g).square().sum(dim=1)).mean()

    guess.requires_grad_()
    assert gradcheck(frozen, (guess,))
    (expected,) = torch.autograd.grad(frozen(guess), guess)
    (found,) = torch.autograd.grad(losses.ghost(residual, guess), guess)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_ghost_without_a_residual_or_without_dead_latents_is_zero():
    for residual, guess in ((torch.zeros(3, 2), rand(3, 2)), (rand(3, 2), torch.zeros(3, 2))):
        guess = guess.double().requires_grad_()
        term = losses.ghost(residual.double(), guess)
        term.backward()
        assert term.item() == 0.0
        assert guess.grad is not None and not guess.grad.any()


def test_preactivation_moves_only_dead_latents():
    h, theta = rand(7, 6).requires_grad_(), THETA.clone().requires_grad_()
    losses.preactivation(h, theta, NORMS, DEAD).backward()
    below = ((h < theta) & DEAD).double()
    assert h.grad is not None and theta.grad is not None
    torch.testing.assert_close(h.grad, -below * NORMS / 7)
    torch.testing.assert_close(theta.grad, below.sum(dim=0) * NORMS / 7)
    assert losses.preactivation(h, theta, NORMS, torch.zeros(6, dtype=torch.bool)).item() == 0.0


@pytest.mark.parametrize("bandwidth", [0.3, torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("theta", [THETA, torch.tensor(0.2, dtype=torch.float64)])
def test_step_gradient_is_the_kernels(bandwidth, theta):
    h, upstream = rand(50, 6).requires_grad_(), rand(50, 6, seed=1)
    theta = theta.clone().requires_grad_()
    active = losses.step(h, theta, bandwidth)
    assert torch.equal(active, (h > theta).double())
    (active * upstream).sum().backward()
    kernel = ((h - theta).abs() < 0.15) / 0.3
    expected = -(upstream * kernel).sum(dim=0)
    assert theta.grad is not None
    torch.testing.assert_close(theta.grad, expected if theta.ndim else expected.sum())
    assert h.grad is None


def test_a_latent_at_its_threshold_is_not_active():
    assert not losses.step(THETA[None], THETA, 0.3).any()


def test_step_gradient_estimates_the_derivative_of_l0():
    h = torch.linspace(-3, 3, 200_001, dtype=torch.float64)[:, None]
    theta = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    losses.l0_step(h, theta, 0.2).backward()
    assert theta.grad is not None
    assert theta.grad.item() == pytest.approx(-1 / 6, rel=1e-3)  # uniform density on 6


def test_step_keeps_the_thresholds_precision_in_half_precision():
    h = torch.full((10_000, 1), 0.5, dtype=torch.bfloat16)
    theta = torch.tensor([0.51], requires_grad=True)
    losses.step(h, theta, 0.1).sum().backward()
    assert theta.grad is not None and theta.grad.dtype == torch.float32
    assert theta.grad.item() == pytest.approx(-100_000, rel=1e-5)


@pytest.mark.parametrize(("target", "sign"), [(0.5, -1), (5.9, 1)])
def test_l0_quadratic_moves_thresholds_towards_the_target(target, sign):
    h, theta = rand(400, 6), THETA.clone().requires_grad_()
    l0 = float((h > theta).sum(dim=1).double().mean())
    loss = losses.l0_quadratic(h, theta, 0.3, target)
    assert loss.item() == pytest.approx((l0 / target - 1) ** 2, rel=1e-12)
    (found,) = torch.autograd.grad(loss, theta)
    (slope,) = torch.autograd.grad(losses.l0_step(h, theta, 0.3), theta)
    torch.testing.assert_close(found, 2 * (l0 / target - 1) / target * slope)
    assert (found.sign() == sign).all()


@pytest.mark.parametrize(
    "term",
    [
        lambda a: losses.mean_of_sums(a, WEIGHTS),
        lambda a: losses.mse(rand(4, 6), a),
        lambda a: losses.lmse(counts(4, 6), a.abs()),
        lambda a: losses.lmse(counts(4, 6), a.abs(), tau=1.7),
        lambda a: losses.pkl(counts(4, 6), a.abs()),
        lambda a: losses.l1(a),
        lambda a: losses.l1(a, weights=WEIGHTS),
        lambda a: losses.l1_decoder_norm(a, rand(6, seed=2).abs()),
        lambda a: losses.l1_decoder_norm(rand(3, 24), a.reshape(-1)),
        lambda a: losses.l1_decoder_norm(a, NORMS, weights=WEIGHTS),
        lambda a: losses.tanh(a, NORMS, 2.0, 3.0, weights=WEIGHTS),
        lambda a: losses.tanh(rand(3, 24), a.reshape(-1), 2.0, 3.0),
        lambda a: losses.auxk(rand(4, 6), a),
        lambda a: losses.preactivation(a, THETA, NORMS, DEAD),
        lambda a: losses.preactivation(rand(4, 6), a[0], a[1], DEAD),
    ],
)
def test_gradients_match_finite_differences(term):
    assert gradcheck(term, (rand(4, 6, seed=5).requires_grad_(),), eps=1e-7, atol=1e-6)


def test_every_reconstruction_is_found_by_its_name():
    assert list(losses.RECONSTRUCTIONS) == ["mse", "lmse", "pkl"]
    for name, term in losses.RECONSTRUCTIONS.items():
        assert term is getattr(losses, name)
    assert sorted(losses.COUNT_RECONSTRUCTIONS) == ["lmse", "pkl"]
