"""Train one SAE from start to finish, with progress, checkpoints and exact resume."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from saebook.data.store import Batches, ExampleStore
from saebook.errors import ConfigError, TrainingError
from saebook.metrics import are_counts
from saebook.models import SAE, SAEConfig, save_sae
from saebook.training.checkpoints import (
    CHECKPOINT,
    already_finished,
    fingerprint,
    resume,
    save_checkpoint,
    was_streamed,
)
from saebook.training.config import TrainConfig
from saebook.training.devices import resolve_device
from saebook.training.distributed import find_processes
from saebook.training.doctor import check_schedule, describe_bad_batch, examine, gather
from saebook.training.examples import FIT_ROWS, Examples, as_batch, read_examples
from saebook.training.loop import Loop, Probe
from saebook.training.resampling import ROUNDING
from saebook.training.run import Run, load_run, save_run, score, settle
from saebook.training.trainer import Trainer

if TYPE_CHECKING:
    import numpy as np

KEPT = "checkpoints"
DEFAULT_EXAMPLES = 1_000_000
CHANGES_NO_NUMBER = ("shard_optimizer", "capture")


def fit(
    config: SAEConfig,
    data: Tensor | np.ndarray | ExampleStore | tuple[Tensor, Tensor],
    train: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    order_seed: int | None = None,
    validation: Tensor | np.ndarray | tuple[Tensor, Tensor] | None = None,
    probe: Probe | None = None,
    groups: Tensor | np.ndarray | None = None,
    progress: bool = True,
) -> Run:
    """Train an SAE.

    Parameters
    ----------
    config
        The model; ``reconstruction="auto"`` becomes lmse where the examples are counts, and mse
        otherwise.
    data
        Training examples [n, d_in] (a tensor or array), or windows of them [n, seq_len, d_in];
        an ``ExampleStore``, whose training split is used, in windows of ``seq_len``, and
        streamed from disk where it is too large for memory (``train.resident_gb``); for a
        transcoder a pair of tensors, inputs [n, d_in] and targets [n, d_out]. Where a GPU trains,
        a copy of what is in memory lives there if it leaves room for the run; of anything else a
        thread takes batches, from memory or disk, and sends them ahead of their steps. Counts
        travel as they are stored. None of it changes which examples a step takes.
    train
        Settings of the run; their defaults work on short runs.
    out
        Folder for checkpoints and the finished run. An interrupted run goes on from its last
        checkpoint, with the same numbers as if it had never stopped; a finished one is read
        back instead of trained again. Copies asked for by ``train.keep_checkpoints`` are
        written to ``checkpoints/<step>``, for :func:`saebook.models.load_sae`.
    seed
        Of the initial weights and of the order of the batches.
    order_seed
        Of the order of the batches, where it is to be another.
    validation
        Held-out examples, as ``data``, for the card. A store's validation split is used by
        itself; without either, the card is of the training examples, and says so. Of a split
        that is too large for memory, it is of evenly spaced examples.
    probe
        Called with the trainer at every log; what it returns becomes columns of the history.
    groups
        For ``train.temporal``, with a tensor: integers [n], the trial or document of each row, in
        order of time. A store knows its own.
    progress
        Show a progress bar with FVU, L0 and the share of dead latents; before it, where examples
        stay on disk, one of the bytes whose checksums are compared.

    Returns
    -------
    Run
        The SAE in eval mode, its card, history and findings.

    Raises
    ------
    DataError
        The examples have the wrong width, hold NaN, can't be scaled, or are negative where the
        settings take counts. ``train.temporal`` finds no pairs.
    ConfigError
        ``keep_checkpoints`` without ``out``. With several processes: they differ in settings or
        data, or can't share a batch equally.
    CheckpointError
        ``out`` belongs to a run with other settings or data.
    TrainingError
        A loss or gradient became NaN or infinite: the step, its batch and the row that stands
        out are named, and the last finite checkpoint is kept. Or another process failed or died.
    StoreError
        A file of the store is missing, truncated or altered, maybe in the middle of a streamed
        run; once it is there again, the same call goes on from the last checkpoint.

    Notes
    -----
    Started with ``python -m torch.distributed.run --nproc-per-node=2 script.py``, the processes
    train one SAE together. All of them call this, with the same settings and data; each reads
    whole batches (``train.batch_size`` is that of all together) and takes its share, and they add
    their gradients over gloo, or over nccl on GPUs. The numbers are those of one process but for
    rounding, and a run may go on with another number of processes. The first shows progress and
    writes ``out``; ``probe`` is called in each, and all return the same run. With
    ``train.shard_optimizer`` optimiser state is spread over them.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(512, 8, generator=torch.Generator().manual_seed(0))
    >>> run = fit(SAEConfig(d_in=8, d_sae=16, k=2), x, TrainConfig(n_steps=50), progress=False)
    >>> run.card["split"], len(run.history)
    ('train', 50)
    """
    train = train or TrainConfig()
    path = Path(out) if out is not None else None
    if path is None and train.keep_checkpoints:
        raise ConfigError(
            f"keep_checkpoints = {list(train.keep_checkpoints)} without a folder: give `out`, "
            "or leave it out"
        )
    processes = find_processes()

    def as_before() -> bool | None:
        return was_streamed(path) if path is not None and train.resident_gb is None else None

    streamed = processes.first(as_before)
    examples = read_examples(
        data,
        validation,
        config,
        train.resident_gb,
        streamed,
        train.temporal,
        groups,
        progress and processes.is_first,
    )
    config = for_examples(config, examples)
    order_seed = seed if order_seed is None else order_seed
    batch_size = min(train.batch_size, len(examples))
    processes.check_batch(batch_size)
    n_steps = steps_of(train, len(examples), batch_size)
    settings = settings_of(config, train, n_steps, seed, order_seed, examples)
    processes.check_alike(settings)

    def finished() -> Run | None:
        if path is None or not already_finished(path, settings):
            return None
        return load_run(path)

    before = processes.first(finished)
    if before is not None:
        return before

    device = resolve_device(processes.device_name(train.device))
    stream = examples.batches(batch_size, order_seed, config, device)
    trainer = Trainer(make_sae(config, seed, examples), train, n_steps, processes=processes)
    dead_after_steps = int(trainer.silence.longest(stream.batch_size)) / stream.batch_size
    check_schedule(train, n_steps, dead_after_steps)
    kept = resume(path, settings, trainer, stream) if path is not None else None
    history = kept["history"] if kept is not None else []

    def on_bad(_: int, step: int, wrong: dict[str, float]) -> None:
        left = path is not None and (path / CHECKPOINT).is_file()
        raise TrainingError(
            f"{explain_bad_step(examples, stream, step, wrong)}. The run was stopped"
            + (f"; its last checkpoint, from before, is in {path}" if left else "")
        )

    def save() -> None:
        assert path is not None
        save_checkpoint(path, settings, trainer, stream, history=history)

    keep = _keep(path, train, as_batch(examples.rows, config).x)
    try:
        Loop(
            trainer,
            stream,
            [history],
            on_bad,
            save if path is not None else None,
            keep,
            probe,
            progress and processes.is_first,
        ).run()
    finally:
        stream.close()

    def conclude() -> Run:
        run = finish(trainer.sae, history, train, n_steps, examples, path, settings)
        if path is not None:
            save_run(run, path, settings)
            (path / CHECKPOINT).unlink(missing_ok=True)
        return run

    run = processes.first(conclude)
    run.sae.to(trainer.device)
    return run


def for_examples(config: SAEConfig, examples: Examples) -> SAEConfig:
    """The settings, with those that depend on whether the examples are counts filled in."""
    batch = as_batch(examples.rows, config)
    compared = batch.x if batch.target is None else batch.target
    return config.for_data(counts=are_counts(compared))


def make_sae(config: SAEConfig, seed: int, examples: Examples) -> SAE:
    """An SAE whose inputs are fitted on training examples."""
    sae = SAE(config, seed=seed)
    # Evenly spaced rows: a recording drifts, so its first rows alone would not do.
    rows = examples.rows[:: -(-len(examples.rows) // FIT_ROWS)]
    sample = as_batch(rows.to(torch.float32), config)
    sae.fit_inputs(sample.x, sample.target)
    return sae


def settings_of(
    config: SAEConfig,
    train: TrainConfig,
    n_steps: int,
    seed: int,
    order_seed: int,
    examples: Examples,
) -> dict[str, Any]:
    """All that a run depends on, for JSON."""
    return {
        "sae": config.to_dict(),
        # What changes no number may change when a run goes on.
        "train": {n: v for n, v in train.to_dict().items() if n not in CHANGES_NO_NUMBER}
        | {"n_steps": n_steps},
        "seed": seed,
        "order_seed": order_seed,
        "data": fingerprint(examples)
        | ({} if examples.pairs is None else {"pairs": examples.pairs.digest}),
    }


def finish(
    sae: SAE,
    history: list[dict[str, float]],
    train: TrainConfig,
    n_steps: int,
    examples: Examples,
    path: Path | None,
    settings: dict[str, Any],
) -> Run:
    """Settle a trained SAE, score it and have it examined."""
    settle(sae, as_batch(examples.rows, sae.config).x)
    split, judged = examples.split, examples.judged
    card = score(sae, judged, split, _centre(examples.rows, sae.config)).to_dict()
    logged, held_out = pd.DataFrame(history), judged if split != "train" else None
    evidence = gather(sae, logged, card, train, n_steps, examples.rows, held_out)
    return Run(sae, card, logged, examine(evidence).sentences, path, settings)


def _keep(path: Path | None, train: TrainConfig, x: Tensor) -> Callable[[Trainer], None]:
    """What writes a copy of the SAE whenever a fraction in ``keep_checkpoints`` is reached."""

    def keep(trainer: Trainer) -> None:
        due = {math.ceil(part * trainer.n_steps - ROUNDING) for part in train.keep_checkpoints}
        if path is not None and trainer.step_number in due:
            trainer.processes.first(partial(write, trainer, path))

    def write(trainer: Trainer, path: Path) -> None:
        sae = copy.deepcopy(trainer.sae)
        settle(sae, x)
        (path / KEPT).mkdir(parents=True, exist_ok=True)
        save_sae(sae, path / KEPT / str(trainer.step_number))

    return keep


def _centre(rows: Tensor, config: SAEConfig) -> Tensor | None:
    """Mean of the training targets, where they are counts and the input itself."""
    if config.is_transcoder or config.seq_len > 1 or not are_counts(rows):
        return None
    # By parts: all of them in float64 would take eight times what bytes do.
    sums = [part.to(torch.float64).sum(dim=0) for part in rows.split(FIT_ROWS)]
    return torch.stack(sums).sum(dim=0) / len(rows)


def steps_of(train: TrainConfig, n_examples: int, batch_size: int) -> int:
    """Length of a run."""
    if train.n_steps is not None:
        return train.n_steps
    wanted = DEFAULT_EXAMPLES if train.n_epochs is None else train.n_epochs * n_examples
    return max(1, round(wanted / batch_size))


def explain_bad_step(
    examples: Examples, stream: Batches, step: int, wrong: dict[str, float]
) -> str:
    """What was not finite, and which rows were in its batch."""
    values = ", ".join(f"{name} = {value}" for name, value in wrong.items())
    described = describe_bad_batch(examples.rows, stream, step, examples.every)
    return f"step {step}: {values}. {described}"
