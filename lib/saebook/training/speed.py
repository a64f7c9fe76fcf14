"""How fast a training step is, beside the matrix products that no dense step can do without."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from saebook.models import SAE, SAEConfig
from saebook.training.config import TrainConfig
from saebook.training.devices import resolve_device
from saebook.training.memory import keep_freed_memory
from saebook.training.stacking import SAEStack
from saebook.training.trainer import Trainer

# So that no schedule ends within a measurement.
N_STEPS = 10**6
BATCHES = 4
TRUE_LATENTS_SEED = 1


@dataclass(frozen=True)
class Workload:
    """A model, its batch, and how many latents are active when the measurement begins.

    Attributes
    ----------
    d_in, d_sae, batch_size
        Sizes.
    architecture
        A name that `SAEConfig` takes.
    k
        Active latents: k of topk and batchtopk, target L0 of jumprelu.
    density
        Share of active latents that ReLU and JumpReLU begin with; None: as initialised.
    n_models
        Size of a stack of such models, each with a seed of its own; None: a single one.
    """

    d_in: int
    d_sae: int
    batch_size: int
    architecture: str
    k: int
    density: float | None = None
    n_models: int | None = None

    @property
    def config(self) -> SAEConfig:
        """Of its model."""
        sizes = {"d_in": self.d_in, "d_sae": self.d_sae, "architecture": self.architecture}
        if self.architecture in ("topk", "batchtopk"):
            return SAEConfig(**sizes, k=self.k)
        if self.architecture == "jumprelu":
            return SAEConfig(**sizes, target_l0=float(self.k))
        return SAEConfig(**sizes)


_WIDE = partial(Workload, d_in=256, d_sae=4096, batch_size=4096, k=32)
WORKLOADS: dict[str, Workload] = {
    "topk": _WIDE(architecture="topk"),
    "batchtopk": _WIDE(architecture="batchtopk"),
    "jumprelu": _WIDE(architecture="jumprelu"),
    "jumprelu, half active": _WIDE(architecture="jumprelu", density=0.5),
    "jumprelu, 5 % active": _WIDE(architecture="jumprelu", density=0.05),
    "jumprelu, 1 % active": _WIDE(architecture="jumprelu", density=0.01),
    "relu": _WIDE(architecture="relu"),
    "relu, 5 % active": _WIDE(architecture="relu", density=0.05),
    "relu, 1 % active": _WIDE(architecture="relu", density=0.01),
    "small batchtopk": Workload(128, 1024, 1024, "batchtopk", 16),
    "16 small batchtopk": Workload(128, 1024, 1024, "batchtopk", 16, n_models=16),
    "wide topk": Workload(512, 16384, 2048, "topk", 32),
}


@dataclass(frozen=True)
class Speed:
    """What was measured of one workload.

    Attributes
    ----------
    step_ms, floor_ms
        Medians: of a full step, and of the five dense products of its size; of a stack, of all
        its members together.
    ratio
        Median over rounds of step to floor: below 1, a step takes less than dense products alone.
    cpu_ratio
        The same of processor time, which other work on the machine hardly changes (one thread).
    examples_per_s
        Of the step; those of a stack count once for each member.
    l0
        Active latents per example in the last step, the mean of a stack.
    """

    step_ms: float
    floor_ms: float
    ratio: float
    cpu_ratio: float
    examples_per_s: float
    l0: float


def examples(workload: Workload, seed: int = 0) -> Tensor:
    """Sparse mixtures of random directions, four batches [4 · batch_size, d_in]."""
    n, n_true = BATCHES * workload.batch_size, max(2, workload.d_sae // 2)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(
        n_true, workload.d_in, generator=torch.Generator().manual_seed(TRUE_LATENTS_SEED)
    )
    rows = []
    for _ in range(BATCHES):
        active = torch.rand(n // BATCHES, n_true, generator=generator) < workload.k / n_true
        rows.append(active * torch.rand(active.shape, generator=generator) @ directions)
    noise = torch.randn(n, workload.d_in, generator=generator)
    return torch.cat(rows) + 0.1 * noise


def full_step(
    workload: Workload, train: TrainConfig, x: Tensor | None = None
) -> Callable[[], dict[str, Tensor]]:
    """Make a full training step: passes, losses, clipping, optimiser, schedules and counters.

    Parameters
    ----------
    workload
        The model and its batch.
    train
        Settings; batchtopk and jumprelu select by their own rules from the first step.
    x
        Examples; by default those of :func:`examples`.
    """
    x = examples(workload) if x is None else x
    made = [SAE(workload.config, seed=seed) for seed in range(workload.n_models or 1)]
    for sae in made:
        sae.fit_inputs(x)
        if workload.density is not None:
            begin_at_density(sae, x, workload.density)
    train = dataclasses.replace(train, selection_warmup_fraction=0.0)
    trainer: Trainer[SAE] | Trainer[SAEStack]
    if workload.n_models is None:
        trainer = Trainer(made[0], train, n_steps=N_STEPS)
    else:
        trainer = Trainer(SAEStack(made), train, n_steps=N_STEPS)
    batches = _cycle(x.to(trainer.device).split(workload.batch_size))
    return lambda: trainer.step(next(batches))


@torch.no_grad()
def begin_at_density(sae: SAE, x: Tensor, density: float) -> None:
    """Set every latent of a relu or jumprelu SAE active in this share of the examples x."""
    h = sae.pre_activations(x[: 2**24 // sae.config.d_sae])
    level = h.kthvalue(max(1, round((1 - density) * len(h))), dim=0).values
    if sae.config.architecture == "jumprelu":
        # A latent below zero is none: the bias makes room for the threshold.
        sae.b_enc.add_((sae.bandwidth - level).clamp_min(0.0))
        sae.threshold.copy_(level.maximum(sae.bandwidth))
    else:
        sae.b_enc.sub_(level)


def dense_products(workload: Workload, device: str = "cpu") -> Callable[[], None]:
    """Make the two forward and three backward products of a dense step, without anything else."""
    n, d_in, d_sae = workload.batch_size, workload.d_in, workload.d_sae
    x, g = torch.randn(2, n, d_in, device=device)
    encoder, decoder = torch.randn(2, d_sae, d_in, device=device)
    latents = torch.randn(n, d_sae, device=device)
    wide, narrow = torch.empty_like(latents), torch.empty_like(x)
    of_rows = torch.empty_like(encoder)

    def step() -> None:
        torch.mm(x, encoder.T, out=wide)
        torch.mm(latents, decoder, out=narrow)
        torch.mm(latents.T, g, out=of_rows)
        torch.mm(g, decoder.T, out=wide)
        torch.mm(latents.T, x, out=of_rows)

    return step


def measure(
    workload: Workload,
    train: TrainConfig | None = None,
    *,
    rounds: int = 7,
    warmup: int = 3,
) -> Speed:
    """Time full steps of one workload in turn with the five dense products of its size.

    Parameters
    ----------
    workload
        What to train.
    train
        Settings of the step; the thread count is torch's.
    rounds
        Pairs of both.
    warmup
        Steps before, which pay for compilation and buffers.

    Returns
    -------
    Speed
        Medians over the rounds.
    """
    train = train or TrainConfig()
    device = resolve_device(train.device)
    if device.type == "cpu":
        keep_freed_memory()
    n, products = workload.n_models or 1, dense_products(workload, device.type)
    step = full_step(workload, train)

    def floor() -> None:
        for _ in range(n):
            products()

    for _ in range(warmup):
        losses = step()
    floor()
    steps, floors = [], []
    for _ in range(rounds):
        losses, taken = _timed(step, device)
        steps.append(taken)
        floors.append(_timed(floor, device)[1])
    ratios = [[a / b for a, b in zip(s, f)] for s, f in zip(steps, floors)]
    wall = statistics.median(s[0] for s in steps)
    return Speed(
        step_ms=1000 * wall,
        floor_ms=1000 * statistics.median(f[0] for f in floors),
        ratio=statistics.median(r[0] for r in ratios),
        cpu_ratio=statistics.median(r[1] for r in ratios),
        examples_per_s=n * workload.batch_size / wall,
        l0=float(losses["l0"].mean()),
    )


def _timed(work: Callable, device: torch.device) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """Result, and seconds of wall and processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, (time.perf_counter() - wall, max(time.process_time() - cpu, 1e-9))


def _cycle(batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
    while True:
        yield from batches
