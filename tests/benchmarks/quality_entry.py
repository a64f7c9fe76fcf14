"""Entry for a bench of SAE quality on a known dictionary: our defaults, one step per batch.

Such a bench calls ``train(architecture, settings, batches, setting)`` with ``settings`` holding
d_in, d_sae, k and steps, and judges the encoder, decoder and directions that come back.
"""

from __future__ import annotations

import os

import torch

from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer
from saebook.training.run import settle


def train(arch: str, c: dict, batches, setting: str):
    """Train one SAE at the library's defaults; only a target L0 stands for k where k does not."""
    del setting
    has_target = arch == "jumprelu"
    config = SAEConfig(
        d_in=c["d_in"],
        d_sae=c["d_sae"],
        architecture=arch,
        k=None if has_target else c["k"],
        target_l0=float(c["k"]) if has_target else None,
    )
    sae = SAE(config, seed=int(os.environ.get("BENCH_SEED", "0")))
    rows = batches.data
    sae.fit_inputs(rows[:: -(-len(rows) // 100_000)])
    trainer = Trainer(sae, TrainConfig(device="cpu"), n_steps=c["steps"])
    for _ in range(c["steps"]):
        trainer.step(batches())
    settle(sae, rows)
    with torch.no_grad():
        directions = sae.directions / sae.scaling.gain
    return sae.encode, sae.decode, directions.detach()


QUALITY = {"ours": train}
ARCHS = {"ours": ["topk", "batchtopk", "jumprelu"]}
