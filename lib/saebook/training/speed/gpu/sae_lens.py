"""SAELens' own training step of the same size, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import torch
from torch import Tensor

from saebook.errors import EnvironmentProblem
from saebook.training.speed.steps import N_STEPS
from saebook.training.speed.workloads import Workload


def sae_lens_step(workload: Workload, device: torch.device, x: Tensor) -> Callable[[], object]:
    """One step of SAELens' trainer at its defaults, through the methods that its loop calls.

    Parameters
    ----------
    workload
        Of topk or batchtopk.
    device
        That trains.
    x
        Examples [n, d_in], on it.

    Raises
    ------
    EnvironmentProblem
        SAELens can't be imported.
    """
    try:
        import sae_lens  # pyright: ignore[reportMissingImports]
        from sae_lens.config import (  # pyright: ignore[reportMissingImports]
            LoggingConfig,
            SAETrainerConfig,
        )
    except ImportError as error:
        raise EnvironmentProblem(
            f"SAELens can't be imported ({error}): pip install sae-lens to time its step beside ours"
        ) from error
    kinds = {
        "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig),
        "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
    }
    make, settings = kinds[workload.architecture]
    config = settings(d_in=workload.d_in, d_sae=workload.d_sae, k=workload.k, device=str(device))
    batches: Iterator[Tensor] = cycle(x.split(workload.batch_size))
    n = workload.batch_size
    trainer = sae_lens.SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=N_STEPS * n,
            train_batch_size_samples=n,
            device=str(device),
            lr_end=3e-5,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=make(config),
        data_provider=batches,
    )

    def step() -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(next(batches))
        trainer.n_training_steps += 1

    return step
