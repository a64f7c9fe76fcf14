"""One measurement on a device, whatever its kind."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from saebook.models import SAE
from saebook.training.config import TrainConfig
from saebook.training.speed.gpu import ceilings
from saebook.training.speed.gpu.cases import Case
from saebook.training.speed.gpu.profiling import kernels_of
from saebook.training.speed.gpu.sae_lens import sae_lens_step
from saebook.training.speed.gpu.timing import back_to_back
from saebook.training.speed.steps import examples, made_on, make_trainer, steps_of
from saebook.training.speed.workloads import Workload

# Weights from which a model is made on the device.
MANY_WEIGHTS = 2**26
# No latent dies while a step is timed, but those that were dead before.
NEVER = 1e9
GB = 1e9
Found = dict[str, Any]


def measure_case(case: Case, device: torch.device) -> Found:
    """Measure one case, here and now.

    Parameters
    ----------
    case
        What to measure.
    device
        On which.

    Returns
    -------
    dict
        Numbers by name, ready for JSON; ``warnings`` where there were some.

    Examples
    --------
    >>> case = Case("product fp32", "product", precision="fp32", size=64)
    >>> sorted(measure_case(case, torch.device("cpu")))
    ['ms', 'tflop_s']
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = KINDS[case.kind](case, device)
    told = list(dict.fromkeys(str(each.message) for each in caught))
    return found | ({"warnings": told} if told else {})


def memory_needed(workload: Workload) -> int:
    """Bytes of a model's weights, gradients and Adam's moments, and of two bf16 [B, F].

    Examples
    --------
    >>> memory_needed(Workload(4, 8, 16, "topk", 2))
    1728
    """
    weights = 2 * workload.d_in * workload.d_sae + workload.d_in + workload.d_sae
    latents = workload.batch_size * workload.d_sae
    return (workload.n_models or 1) * (4 * 4 * weights + 2 * 2 * latents)


def _step(case: Case, device: torch.device) -> Found:
    workload = _workload(case)
    x = examples(workload, device=device)
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    train = TrainConfig(
        device=str(device),
        engine=case.engine,
        precision=case.precision,
        capture=case.capture,
        dead_after_firings=NEVER,
    )
    large = workload.d_in * workload.d_sae >= MANY_WEIGHTS
    trainer = make_trainer(workload, train, x, partial(made_on, device) if large else SAE)
    step = steps_of(trainer, x, workload.batch_size)
    for _ in range(2):
        logged = step()
    if on_gpu:
        # What making the model took is no part of a step.
        torch.cuda.reset_peak_memory_stats(device)
    timing = back_to_back(step, device, n=20 if large else 200, warmup=4 if large else 20)
    found = dataclasses.asdict(timing) | dataclasses.asdict(workload)
    found |= {"engine": case.engine, "precision": case.precision, "capture": case.capture}
    found |= {
        "engines": list(dict.fromkeys(trainer.engine.names)),
        "recordings": trainer.n_recordings,
        "memory_needed_gb": memory_needed(workload) / GB,
    }
    if on_gpu:
        found["peak_memory_gb"] = (torch.cuda.max_memory_allocated(device) - before) / GB
    logged = step()
    found |= {name: float(logged[name].mean()) for name in ("l0", "dead", "fvu")}
    if case.profiled:
        found["profile"] = _profiled(step, device)
    return found


def _profiled(step: Callable[[], object], device: torch.device) -> Found:
    try:
        return kernels_of(step, device)
    except RuntimeError as error:  # profilers are refused on some machines; times stand
        return {"failed": str(error).splitlines()[0]}


def _sae_lens(case: Case, device: torch.device) -> Found:
    workload = _workload(case)
    step = sae_lens_step(workload, device, examples(workload, device=device))
    timing = back_to_back(step, device, warmup=20)
    return dataclasses.asdict(timing) | dataclasses.asdict(workload)


def _product(case: Case, device: torch.device) -> Found:
    return ceilings.product(case.precision, device, case.size or ceilings.PEAK_SIZE)


def _copy(case: Case, device: torch.device) -> Found:
    return ceilings.copy(device, case.size or ceilings.COPIED_BYTES)


def _encoder(case: Case, device: torch.device) -> Found:
    return ceilings.encoder(_workload(case), device, case.size or ceilings.PEAK_SIZE)


def _workload(case: Case) -> Workload:
    assert case.workload is not None, case.name
    return case.workload


KINDS: dict[str, Callable[[Case, torch.device], Found]] = {
    "copy": _copy,
    "encoder": _encoder,
    "product": _product,
    "sae_lens": _sae_lens,
    "step": _step,
}
