"""Entry for a bench of training speed: our full step at our defaults, beside other libraries'.

Such a bench calls ``make_step(workload, data)`` with ``workload`` holding d_in, d_sae, batch, arch
and k, and times the callable that comes back, which takes one full training step. The model
begins as in the middle of a run: batchtopk and jumprelu select by their own rules.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer

# So that no schedule ends within a measurement.
N_STEPS = 10**6


def make_step(workload: dict[str, Any], data: Tensor) -> Callable[[], dict[str, Tensor]]:
    """A full step of one workload: forward, losses, backward, clipping, optimiser, counters."""
    arch, k = workload["arch"], workload["k"]
    sparsity = {"topk": {"k": k}, "batchtopk": {"k": k}, "jumprelu": {"target_l0": float(k)}}
    config = SAEConfig(
        d_in=workload["d_in"],
        d_sae=workload["d_sae"],
        architecture="relu" if arch == "l1" else arch,
        **sparsity.get(arch, {}),
    )
    sae = SAE(config)
    sae.fit_inputs(data)
    settings = TrainConfig(
        device="cpu",
        selection_warmup_fraction=0.0,
        precision=os.environ.get("BENCH_PRECISION", "fp32"),
        engine=os.environ.get("BENCH_ENGINE", "auto"),
    )
    trainer = Trainer(sae, settings, n_steps=N_STEPS)
    batches = data.split(workload["batch"])
    taken = iter(range(N_STEPS))
    return lambda: trainer.step(batches[next(taken) % len(batches)])


ADAPTERS = {"ours": make_step}
