"""Entry for a bench of training speed: our full step at our defaults, beside other libraries'.

Such a bench calls ``make_step(workload, data)`` with ``workload`` holding d_in, d_sae, batch, arch
and k, and times the callable that comes back, which takes one full training step. The model
begins as in the middle of a run: batchtopk and jumprelu select by their own rules.
"""

from __future__ import annotations

import os
from typing import Any


def make_step(workload: dict[str, Any], data: Any) -> Any:
    """A full step of one workload: forward, losses, backward, clipping, optimiser, counters."""
    # Here, since other libraries' environments load this file too.
    from saebook.training import TrainConfig
    from saebook.training.speed import Workload, full_step

    arch = workload["arch"]
    model = Workload(
        d_in=workload["d_in"],
        d_sae=workload["d_sae"],
        batch_size=workload["batch"],
        architecture="relu" if arch == "l1" else arch,
        k=workload["k"],
    )
    train = TrainConfig(
        device="cpu",
        precision=os.environ.get("BENCH_PRECISION", "fp32"),
        engine=os.environ.get("BENCH_ENGINE", "auto"),
    )
    return full_step(model, train, data)


ADAPTERS = {"ours": make_step}
