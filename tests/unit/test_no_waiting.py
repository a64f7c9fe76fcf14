"""A step reads nothing back to the host: it runs on a device whose tensors have no values."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer

N_STEPS = 20
X = torch.rand(256, 16, generator=torch.Generator().manual_seed(0))
CASES = {
    "batchtopk": {"k": 4},
    "topk": {"architecture": "topk", "k": 4},
    "relu": {"architecture": "relu"},
    "relu to a target": {"architecture": "relu", "target_l0": 4.0},
    "leaky_relu": {"architecture": "leaky_relu"},
    "jumprelu": {"architecture": "jumprelu", "target_l0": 4.0},
    "gated": {"architecture": "gated"},
    "nested": {"k": 4, "prefixes": (16, 64)},
}


@pytest.fixture
def without_values(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def fitted(seed: int = 0, **settings) -> SAE:
    sae = SAE(SAEConfig(d_in=16, d_sae=64, **settings), seed=seed)
    sae.fit_inputs(X)
    return sae


def on_meta(model: SAE, **settings) -> Trainer:
    trainer = Trainer(model, TrainConfig(n_steps=N_STEPS, device="meta", **settings))
    # The fused ones know no such device; PyTorch's own care that they don't wait.
    trainer.update.optimizer = torch.optim.Adam(
        trainer.sae.parameters(), foreach=False, fused=False
    )
    return trainer


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", list(CASES))
def test_no_step_waits_for_the_device(name):
    # Where jumprelu's thresholds set in, which is once in a run, it does.
    trainer = on_meta(fitted(**CASES[name]), selection_warmup_fraction=0.0)
    for _ in range(N_STEPS):
        logged = trainer.step(X.to("meta"))
    assert {value.device.type for value in logged.values()} == {"meta"}


@pytest.mark.usefixtures("without_values")
def test_one_that_reads_a_number_would_be_found():
    trainer = on_meta(fitted(k=4))
    with pytest.raises(RuntimeError, match="meta"):
        float(trainer.step(X.to("meta"))["fvu"])
