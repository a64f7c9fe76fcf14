"""Every optimiser against its published update, resumed and reset."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from saebook.errors import ConfigError, TrainingError
from saebook.training import TrainConfig
from saebook.training.optimisers import OPTIMIZERS, Lamb, MuonAndAdam, reset_state

Array = np.ndarray
NAMES = sorted(OPTIMIZERS)
SETTINGS: dict[str, Any] = {
    "beta1": 0.8,
    "beta2": 0.97,
    "momentum": 0.7,
    "momentum_decay": 0.02,
    "weight_decay": 0.1,
}
N_STEPS = 20


def config(name: str, **changes) -> TrainConfig:
    return TrainConfig(**(SETTINGS | {"optimizer": name, "learning_rate": 0.01} | changes))


def learning_rate(step: int) -> float:
    return 0.01 * (1 + step / 10)


def shapes_like_an_sae(seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in ((6, 4), (6,), (6, 4), (4,))]


def gradient(value, noise):
    """Of a quadratic bowl with a moving centre; the same for arrays and tensors."""
    return 0.3 * value - noise


def noises(start: list[Array], seed: int = 1) -> list[list[Array]]:
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=w.shape) for w in start] for _ in range(N_STEPS)]


def parameters_from(start: list[Array], dtype=torch.float64) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(w, dtype=dtype)) for w in start]


def take_steps(
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    noise: list[list[Array]],
    steps: range = range(N_STEPS),
) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad(set_to_none=True)
        for parameter, value in zip(parameters, noise[step], strict=True):
            parameter.grad = gradient(parameter.detach(), torch.tensor(value).to(parameter))
        optimizer.step()


def adam(w: Array, g: Array, lr: float, t: int, s: dict, decoupled: bool = False) -> Array:
    if decoupled:
        w = w * (1 - lr * 0.1)
    else:
        g = g + 0.1 * w
    s["m"] = 0.8 * s.get("m", 0) + 0.2 * g
    s["v"] = 0.97 * s.get("v", 0) + 0.03 * g**2
    return w - lr * (s["m"] / (1 - 0.8**t)) / (np.sqrt(s["v"] / (1 - 0.97**t)) + 1e-8)


def adamw(w: Array, g: Array, lr: float, t: int, s: dict) -> Array:
    return adam(w, g, lr, t, s, decoupled=True)


def nadam(w: Array, g: Array, lr: float, t: int, s: dict) -> Array:
    g = g + 0.1 * w
    mu, after = (0.8 * (1 - 0.5 * 0.96 ** (u * 0.02)) for u in (t, t + 1))
    s["product"] = s.get("product", 1.0) * mu
    s["m"] = 0.8 * s.get("m", 0) + 0.2 * g
    s["v"] = 0.97 * s.get("v", 0) + 0.03 * g**2
    first = after * s["m"] / (1 - s["product"] * after) + (1 - mu) * g / (1 - s["product"])
    return w - lr * first / (np.sqrt(s["v"] / (1 - 0.97**t)) + 1e-8)


def lamb(w: Array, g: Array, lr: float, t: int, s: dict) -> Array:
    s["m"] = 0.8 * s.get("m", 0) + 0.2 * g
    s["v"] = 0.97 * s.get("v", 0) + 0.03 * g**2
    r = (s["m"] / (1 - 0.8**t)) / (np.sqrt(s["v"] / (1 - 0.97**t)) + 1e-6) + 0.1 * w
    sizes = np.sqrt((w**2).sum()), np.sqrt((r**2).sum())
    ratio = sizes[0] / sizes[1] if min(sizes) > 0 else 1.0
    return w - lr * ratio * r


def sgd(w: Array, g: Array, lr: float, t: int, s: dict) -> Array:
    s["m"] = 0.7 * s.get("m", 0) + g + 0.1 * w
    return w - lr * s["m"]


REFERENCES: dict[str, Callable[[Array, Array, float, int, dict], Array]] = {
    "adam": adam,
    "adamw": adamw,
    "nadam": nadam,
    "lamb": lamb,
    "sgd": sgd,
}


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_twenty_steps_follow_the_published_update(name):
    start = shapes_like_an_sae()
    start[1][:] = 0.0  # biases start at zero
    noise = noises(start)
    parameters = parameters_from(start)
    take_steps(OPTIMIZERS[name](parameters, config(name)), parameters, noise)
    for i, w in enumerate(start):
        state = {}
        for step in range(N_STEPS):
            lr = learning_rate(step)
            w = REFERENCES[name](w, gradient(w, noise[step][i]), lr, step + 1, state)
        # torch keeps the product of NAdam's momenta in float32, whatever the parameters are.
        rtol = 1e-6 if name == "nadam" else 1e-10
        np.testing.assert_allclose(parameters[i].detach().numpy(), w, rtol=rtol, atol=1e-13)


def test_muon_is_torch_muon_on_matrices_and_adamw_elsewhere():
    start = shapes_like_an_sae()
    noise = noises(start)
    together, apart = parameters_from(start), parameters_from(start)
    take_steps(OPTIMIZERS["muon"](together, config("muon")), together, noise)
    matrices = torch.optim.Muon(
        apart[0::2], momentum=0.7, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    others = torch.optim.AdamW(apart[1::2], betas=(0.8, 0.97), weight_decay=0.1)
    take_steps(matrices, apart[0::2], [step[0::2] for step in noise])
    take_steps(others, apart[1::2], [step[1::2] for step in noise])
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_muon_moves_every_direction_of_a_matrix_about_alike():
    weight = torch.nn.Parameter(torch.zeros(40, 10, dtype=torch.float64))
    optimizer = MuonAndAdam([weight], lr=0.01)
    generator = torch.Generator().manual_seed(0)
    weight.grad = torch.randn(40, 10, generator=generator, dtype=torch.float64)
    weight.grad[:, :3] *= 100.0
    optimizer.step()
    moved = torch.linalg.svdvals(weight.detach()) / (0.01 * 0.2 * 40**0.5)
    assert moved.min() > 0.6 and moved.max() < 1.4  # Newton-Schulz stops short of exactly 1
    assert torch.linalg.cond(weight.grad) > 50


def test_lamb_with_nothing_to_follow_stays_where_it_is():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = Lamb([parameter])
    parameter.grad = torch.zeros(3)
    optimizer.step()
    assert parameter.tolist() == [1.0, 1.0, 1.0]


def test_muon_with_a_learning_rate_for_each_group_is_refused():
    groups = [{"params": parameters_from([np.ones((3, 4))])}]
    with pytest.raises(ConfigError, match="several learning rates"):
        OPTIMIZERS["muon"](groups, config("muon"))


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_optimiser_goes_on_exactly(name):
    start = shapes_like_an_sae()
    noise = noises(start)
    straight, stopped = (parameters_from(start, torch.float32) for _ in range(2))
    take_steps(OPTIMIZERS[name](straight, config(name)), straight, noise)
    first = OPTIMIZERS[name](stopped, config(name))
    take_steps(first, stopped, noise, range(8))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in stopped]
    second = OPTIMIZERS[name](resumed, config(name))
    second.load_state_dict(torch.load(file, weights_only=True))
    take_steps(second, resumed, noise, range(8, N_STEPS))
    for a, b in zip(straight, resumed, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_of_the_groups_is_heeded_even_after_loading(name):
    start = shapes_like_an_sae()
    parameters = parameters_from(start)
    optimizer = OPTIMIZERS[name](parameters, config(name))
    take_steps(optimizer, parameters, noises(start), range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    before = [p.detach().clone() for p in parameters]
    for lr, moves in ((0.0, False), (0.01, True)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        assert [not torch.equal(a, b) for a, b in zip(parameters, before, strict=True)] == [
            moves
        ] * len(start)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_mask", [True, False])
def test_reset_rows_forget_and_the_others_do_not(name, as_mask):
    start = shapes_like_an_sae()
    parameters = parameters_from(start)
    optimizer = OPTIMIZERS[name](parameters, config(name, weight_decay=0.0))
    take_steps(optimizer, parameters, noises(start), range(5))
    chosen = torch.tensor([False, True, False, True, False, False])
    for parameter in parameters[:3]:
        reset_state(optimizer, parameter, chosen if as_mask else chosen.nonzero()[:, 0])
    before = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # without a gradient, only what is remembered moves a row
    for parameter, old in zip(parameters[:3], before[:3], strict=True):
        moved = (parameter.detach() != old).reshape(6, -1).any(dim=1)
        assert torch.equal(moved, ~chosen)
    assert bool((parameters[3].detach() != before[3]).all())


def test_first_update_after_a_late_reset_is_as_large_as_documented():
    (parameter,) = parameters_from([np.zeros((2, 3))])
    optimizer = OPTIMIZERS["adam"]([parameter], TrainConfig(beta1=0.5, beta2=0.96))
    for _ in range(1000):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    reset_state(optimizer, parameter, torch.tensor([0]))
    before = parameter.detach().clone()
    optimizer.step()
    moved = (before - parameter.detach()) / 3e-3
    assert moved[0].tolist() == pytest.approx([0.5 / 0.04**0.5] * 3, rel=1e-5)
    assert moved[1].tolist() == pytest.approx([1.0] * 3, rel=1e-5)


def test_reset_refuses_what_it_does_not_know():
    parameter, stranger = parameters_from([np.ones((3, 2)), np.ones((3, 2))])
    optimizer = OPTIMIZERS["adam"]([parameter], config("adam"))
    reset_state(optimizer, parameter, torch.tensor([True, False, False]))  # no step taken yet
    with pytest.raises(TrainingError, match="not one of this optimiser's"):
        reset_state(optimizer, stranger, torch.tensor([0]))
    with pytest.raises(TrainingError, match=r"mask of shape \(2,\)"):
        reset_state(optimizer, parameter, torch.tensor([True, False]))
