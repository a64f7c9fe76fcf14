"""Full training steps of a workload, ready to be timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.models import SAE, SAEConfig
from saebook.training.config import TrainConfig
from saebook.training.devices import resolve_device
from saebook.training.speed.workloads import Workload
from saebook.training.stacking import SAEStack
from saebook.training.trainer import Trainer

# So that no schedule ends within a measurement.
N_STEPS = 10**6
BATCHES = 4
TRUE_LATENTS_SEED = 1
# Encoder rows of dead latents are that much shorter: they compete, and never win.
DEAD_SIZE = 0.05
# Examples since a dead latent fired: more than any run counts.
FOR_EVER = 2**40
CPU = torch.device("cpu")


def examples(workload: Workload, seed: int = 0, device: torch.device = CPU) -> Tensor:
    """Sparse mixtures of random directions, four batches [4 · batch_size, d_in].

    They are drawn on the device, so those of a seed differ from one kind of device to another.
    """
    n, n_true = BATCHES * workload.batch_size, max(2, workload.d_sae // 2)
    generator = torch.Generator(device).manual_seed(seed)
    of_directions = torch.Generator(device).manual_seed(TRUE_LATENTS_SEED)
    directions = torch.randn(n_true, workload.d_in, generator=of_directions, device=device)
    rows = []
    for _ in range(BATCHES):
        shape = (n // BATCHES, n_true)
        active = torch.rand(shape, generator=generator, device=device) < workload.k / n_true
        rows.append(active * torch.rand(shape, generator=generator, device=device) @ directions)
    noise = torch.randn(n, workload.d_in, generator=generator, device=device)
    return torch.cat(rows) + 0.1 * noise


def made_on(device: torch.device, config: SAEConfig, seed: int) -> SAE:
    """A model that is made where it will train, with random rows of unit norm.

    Its weights are not those that ``SAE(config, seed)`` draws on the host, which takes a model of
    half a billion weights several seconds and as many bytes again.

    Parameters
    ----------
    device
        Where it is made.
    config
        Of topk or batchtopk, whose buffers don't depend on the number of latents.
    seed
        Of the rows.

    Examples
    --------
    >>> sae = made_on(CPU, SAEConfig(d_in=4, d_sae=8, k=2), seed=0)
    >>> sae.W_dec.norm(dim=1).allclose(torch.ones(8)), sae.encoder_rows.equal(sae.W_dec)
    (True, True)
    """
    # One latent per active one, where every buffer has its value.
    small = SAE(dataclasses.replace(config, d_sae=config.k or 1), seed=seed)
    with torch.device("meta"):
        sae = SAE(config, seed=seed)
    sae = sae.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for part in sae.W_dec.split(8192):
            part.copy_(F.normalize(part.normal_(generator=generator), dim=1))
        sae.encoder_rows.copy_(sae.W_dec)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
        for (_, buffer), value in zip(sae.named_buffers(), small.buffers(), strict=True):
            buffer.copy_(value)
    return sae


def make_trainer(
    workload: Workload,
    train: TrainConfig,
    x: Tensor,
    make: Callable[[SAEConfig, int], SAE] = SAE,
) -> Trainer[SAE] | Trainer[SAEStack]:
    """A trainer in the middle of a run: batchtopk and jumprelu select by their own rules.

    Parameters
    ----------
    workload
        The model or stack.
    train
        Settings of the step.
    x
        Examples, which inputs are fitted to.
    make
        Makes a model of its settings and seed.
    """
    device = resolve_device(train.device)
    made = []
    for seed in range(workload.n_models or 1):
        sae = make(workload.config, seed).to(device)
        sae.fit_inputs(x)
        if workload.density is not None:
            begin_at_density(sae, x, workload.density)
        made.append(sae)
    train = dataclasses.replace(train, selection_warmup_fraction=0.0)
    model = made[0] if workload.n_models is None else SAEStack(made)
    trainer = Trainer(model, train, n_steps=N_STEPS)
    if workload.dead:
        let_die(trainer, workload.dead)
    return trainer


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
    device = resolve_device(train.device)
    x = examples(workload, device=device) if x is None else x.to(device)
    return steps_of(make_trainer(workload, train, x), x, workload.batch_size)


def steps_of(
    trainer: Trainer[SAE] | Trainer[SAEStack], x: Tensor, batch_size: int
) -> Callable[[], dict[str, Tensor]]:
    """What takes a trainer's next step, on the next batch of x, again and again."""
    batches = _cycle(x.split(batch_size))
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


@torch.no_grad()
def let_die(trainer: Trainer[SAE] | Trainer[SAEStack], share: float) -> None:
    """Make evenly spaced latents such as have been silent for long, and will be under topk.

    Parameters
    ----------
    trainer
        Of a model or a stack; changed.
    share
        Of the latents.
    """
    sae = trainer.sae
    every = max(1, round(1 / share))
    sae.encoder_rows[..., ::every, :].mul_(DEAD_SIZE)
    sae.b_enc[..., ::every].mul_(DEAD_SIZE)
    trainer.silent_examples[..., ::every].fill_(FOR_EVER)


def _cycle(batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
    while True:
        yield from batches
