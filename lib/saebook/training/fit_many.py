"""Train many SAEs of one shape side by side, over one stream of batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from saebook.data.store import ExampleStore
from saebook.errors import ConfigError
from saebook.models import SAEConfig
from saebook.training.checkpoints import (
    CHECKPOINT,
    already_finished,
    resume,
    save_checkpoint,
    was_streamed,
)
from saebook.training.config import TrainConfig
from saebook.training.devices import resolve_device
from saebook.training.distributed import refuse_many
from saebook.training.doctor import check_schedule
from saebook.training.examples import read_examples
from saebook.training.fit import (
    explain_bad_step,
    finish,
    for_examples,
    make_sae,
    settings_of,
    steps_of,
)
from saebook.training.loop import Loop
from saebook.training.run import Run, load_run, save_run
from saebook.training.schedules import FEEDBACK
from saebook.training.stacking import SAEStack, check_alike
from saebook.training.trainer import Trainer

if TYPE_CHECKING:
    import numpy as np

Member = tuple[SAEConfig, TrainConfig] | tuple[SAEConfig, TrainConfig, int]


def fit_many(
    members: Sequence[Member],
    data: Tensor | np.ndarray | ExampleStore | tuple[Tensor, Tensor],
    *,
    out: str | Path | None = None,
    order_seed: int = 0,
    validation: Tensor | np.ndarray | tuple[Tensor, Tensor] | None = None,
    groups: Tensor | np.ndarray | None = None,
    progress: bool = True,
) -> list[Run]:
    """Train SAEs that differ in seed, learning rate, k, target L0, coefficients or prefix weights.

    They share batches, and where it pays their matrix products; each comes out as
    ``fit(config, data, train, seed=seed, order_seed=order_seed)`` would train it alone, but for
    rounding.

    Parameters
    ----------
    members
        Of each SAE its settings, those of its training, and its seed, which is 0 where left out.
        See :data:`saebook.training.stacking.MAY_DIFFER` for the settings in which they may differ;
        those of training may in ``learning_rate``.
    data, validation, groups
        As for :func:`saebook.training.fit`.
    out
        Folder for a checkpoint of all, from which an interrupted call goes on, and for the
        finished runs: ``0``, ``1``, … in the order of the members. Finished ones are read back
        instead of trained again.
    order_seed
        Of the order of the batches.
    progress
        Show a progress bar with the smallest and largest FVU, L0 and share of dead latents.

    Returns
    -------
    list of Run
        In the order of the members. One whose loss or gradient became NaN or infinite learnt
        nothing from that step on: its finding ``not_finite`` names the step and its batch, its
        card is empty, and the others are as they would be without it.

    Raises
    ------
    ConfigError
        The members differ in what they must share, or ask for what needs a run of its own: a
        schedule that follows the loss, or kept checkpoints. Or there are several processes.
    CheckpointError
        ``out`` belongs to runs with other settings or data.
    DataError, StoreError
        As for ``fit``.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(512, 8, generator=torch.Generator().manual_seed(0))
    >>> train = TrainConfig(n_steps=50)
    >>> members = [(SAEConfig(d_in=8, d_sae=16, k=k), train) for k in (1, 2, 4)]
    >>> [run.sae.config.k for run in fit_many(members, x, progress=False)]
    [1, 2, 4]
    """
    refuse_many("fit_many", "start it without torch.distributed.run, or train each with fit")
    configs, trains, seeds = _taken_apart(members)
    train = trains[0]
    path = Path(out) if out is not None else None
    streamed = was_streamed(path) if path is not None and train.resident_gb is None else None
    examples = read_examples(
        data,
        validation,
        configs[0],
        train.resident_gb,
        streamed,
        train.temporal,
        groups,
        progress,
    )
    configs = [for_examples(config, examples) for config in configs]
    check_alike(configs)
    batch_size = min(train.batch_size, len(examples))
    n_steps = steps_of(train, len(examples), batch_size)
    settings = [
        settings_of(config, own, n_steps, seed, order_seed, examples)
        for config, own, seed in zip(configs, trains, seeds)
    ]
    folders = [path / str(i) if path is not None else None for i in range(len(members))]
    finished = [f is not None and already_finished(f, s) for f, s in zip(folders, settings)]
    if all(finished):
        return [load_run(folder) for folder in folders if folder is not None]

    device = resolve_device(train.device)
    stream = examples.batches(batch_size, order_seed, configs[0], device, len(members))
    made = [make_sae(c, seed, examples).to(device) for c, seed in zip(configs, seeds)]
    factors = [own.learning_rate / train.learning_rate for own in trains]
    trainer = Trainer(SAEStack(made), train, n_steps, factors)
    longest = int(trainer.silence.longest(stream.batch_size).max())
    check_schedule(train, n_steps, longest / stream.batch_size)
    whole = {f"SAE {i}": own for i, own in enumerate(settings)}
    kept = resume(path, whole, trainer, stream) if path is not None else None
    histories: list[list[dict[str, float]]] = kept["histories"] if kept else [[] for _ in members]
    stopped: dict[int, str] = dict(kept["stopped"]) if kept else {}

    def on_bad(i: int, step: int, wrong: dict[str, float]) -> None:
        explained = explain_bad_step(examples, stream, step, wrong)
        stopped[i] = f"{explained}. It learnt nothing from there on; the other SAEs did"

    def save() -> None:
        assert path is not None
        save_checkpoint(path, whole, trainer, stream, histories=histories, stopped=stopped)

    try:
        Loop(
            trainer,
            stream,
            histories,
            on_bad,
            save if path is not None else None,
            progress=progress,
            stopped=set(stopped),
        ).run()
    finally:
        stream.close()

    runs = []
    for i, sae in enumerate(trainer.sae.separate()):
        if i in stopped:
            found = {"not_finite": stopped[i]}
            run = Run(sae.eval(), {}, pd.DataFrame(histories[i]), found, folders[i], settings[i])
        else:
            run = finish(sae, histories[i], trains[i], n_steps, examples, folders[i], settings[i])
        if run.path is not None:
            save_run(run, run.path, settings[i])
        runs.append(run)
    if path is not None:
        (path / CHECKPOINT).unlink(missing_ok=True)
    return runs


def _taken_apart(
    members: Sequence[Member],
) -> tuple[list[SAEConfig], list[TrainConfig], list[int]]:
    if not members:
        raise ConfigError("fit_many was given no members: give (config, train) of at least one SAE")
    configs, trains = [member[0] for member in members], [member[1] for member in members]
    first = trains[0]
    for other in trains[1:]:
        for field in dataclasses.fields(TrainConfig):
            one, two = getattr(first, field.name), getattr(other, field.name)
            if field.name != "learning_rate" and one != two:
                raise ConfigError(
                    f"members of one stack differ in {field.name} ({one!r} and {two!r}): of "
                    "the settings of training they may differ in learning_rate; train others in a "
                    "call of their own"
                )
    if first.schedule in FEEDBACK:
        raise ConfigError(
            f"schedule={first.schedule!r} follows the loss of one run, and the members of a stack "
            "share their schedule: train them one by one with fit"
        )
    if first.keep_checkpoints:
        raise ConfigError(
            "keep_checkpoints is for single runs: train them one by one with fit, or leave it out"
        )
    return configs, trains, [member[2] if len(member) > 2 else 0 for member in members]
