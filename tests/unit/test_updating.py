"""The update in one pass over each row takes the same step as the plain one."""

from __future__ import annotations

import copy

import pytest
import torch

from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig
from saebook.training.updating import FusedUpdate, Update
from saebook.training.updating.fused import takes

pytest.importorskip("triton", reason="no kernels to prove: triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # there by Triton's interpreter
D_IN, D_SAE = 5, 12


def model(**settings) -> SAE:
    config = SAEConfig.from_dict({"d_in": D_IN, "d_sae": D_SAE, "k": 3} | settings)
    sae = SAE(config, seed=1)
    sae.fit_inputs(torch.rand(40, D_IN, generator=torch.Generator().manual_seed(0)))
    return sae.to(DEVICE)


def give_gradients(sae: SAE, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        gradient = size * torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.to(DEVICE)


@pytest.mark.parametrize("size", [1e-3, 10.0], ids=["small", "cut to the limit"])
@pytest.mark.parametrize(
    ("settings", "train"),
    [
        ({}, {}),
        ({"decoder_norm": "free", "architecture": "relu", "k": None}, {}),
        ({"decoder": "mlp"}, {}),
        ({}, {"weight_decay": 0.1}),
        ({}, {"optimizer": "adamw", "weight_decay": 0.1}),
        ({}, {"beta1": 0.0}),
        ({}, {"clip_norm": None}),
    ],
    ids=str,
)
def test_the_steps_are_those_of_the_plain_update(settings, train, size):
    plain = model(**settings)
    fused = copy.deepcopy(plain)
    config = TrainConfig(device=DEVICE, **train)
    updates = Update(plain, config, [1.0]), FusedUpdate(fused, config, [1.0])
    for step in range(6):
        norms = []
        for sae, update in zip((plain, fused), updates):
            give_gradients(sae, step, size)
            norms.append(update([0.01 / (step + 1)]))
        torch.testing.assert_close(norms[1], norms[0], rtol=1e-5, atol=0)
    for (name, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, msg=name)
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        kept, also = updates[0].optimizer.state[one], updates[1].optimizer.state[other]
        assert kept.keys() == also.keys()
        for name in kept:
            torch.testing.assert_close(also[name], kept[name], rtol=1e-4, atol=1e-9, msg=name)


def test_either_goes_on_from_the_state_of_the_other():
    one = model()
    config = TrainConfig(device=DEVICE)
    first = Update(one, config, [1.0])
    give_gradients(one, 0, 1.0)
    first([0.01])
    two = copy.deepcopy(one)
    second = FusedUpdate(two, config, [1.0])
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    for sae, update in ((one, first), (two, second)):
        give_gradients(sae, 1, 1.0)
        update([0.01])
    torch.testing.assert_close(two.W_dec, one.W_dec, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_is_noticed():
    sae = model()
    update = FusedUpdate(sae, TrainConfig(device=DEVICE), [1.0])
    give_gradients(sae, 0, 1.0)
    assert sae.encoder_rows.grad is not None
    sae.encoder_rows.grad[2, 3] = float("nan")
    assert update([0.01]).isnan() and not update.alive


def test_what_it_takes():
    config = TrainConfig()
    assert takes(model(), config, shards=False)
    assert not takes(model(), config, shards=True)
    assert not takes(model().double(), config, shards=False)
    assert not takes(model(), TrainConfig(optimizer="lamb"), shards=False)
