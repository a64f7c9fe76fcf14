"""Train one SAE from start to finish, with progress, checkpoints and exact resume."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from saebook.data.store import Batches, ExampleStore
from saebook.errors import CheckpointError, ConfigError, TrainingError
from saebook.metrics import are_counts
from saebook.models import SAE, SAEConfig, save_sae
from saebook.training.config import TrainConfig
from saebook.training.doctor import (
    Watch,
    check_schedule,
    describe_bad_batch,
    examine,
    first_bad_step,
    gather,
)
from saebook.training.examples import FIT_ROWS, Examples, as_batch, read_examples
from saebook.training.memory import peak_memory_gb
from saebook.training.run import Run, load_run, read_record, save_run, score, settle
from saebook.training.trainer import ROUNDING, Trainer

if TYPE_CHECKING:
    import numpy as np

CHECKPOINT, KEPT = "checkpoint.pt", "checkpoints"
DEFAULT_EXAMPLES = 1_000_000

Probe = Callable[[Trainer], dict[str, float]]
Keep = Callable[[Trainer], None]


def fit(
    config: SAEConfig,
    data: Tensor | np.ndarray | ExampleStore | tuple[Tensor, Tensor],
    train: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    validation: Tensor | np.ndarray | tuple[Tensor, Tensor] | None = None,
    probe: Probe | None = None,
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
        transcoder a pair of tensors, inputs [n, d_in] and targets [n, d_out].
    train
        Settings of the run; their defaults work on short runs.
    out
        Folder for checkpoints and the finished run. An interrupted run goes on from its last
        checkpoint, with the same numbers as if it had never stopped; a finished one is read
        back instead of trained again. Copies asked for by ``train.keep_checkpoints`` are
        written to ``checkpoints/<step>``, for :func:`saebook.models.load_sae`.
    seed
        Of the initial weights and of the order of the batches.
    validation
        Held-out examples, as ``data``, for the card. A store's validation split is used by
        itself; without either, the card is of the training examples, and says so. Of a split
        that is too large for memory, it is of evenly spaced examples.
    probe
        Called with the trainer at every log; what it returns becomes columns of the history.
    progress
        Show a progress bar with FVU, L0 and the share of dead latents.

    Returns
    -------
    Run
        The SAE in eval mode, its card, history and findings.

    Raises
    ------
    DataError
        The examples have the wrong width, hold NaN, can't be scaled, or are negative where the
        settings take counts.
    ConfigError
        ``keep_checkpoints`` without ``out``.
    CheckpointError
        ``out`` belongs to a run with other settings or data.
    TrainingError
        A loss or gradient became NaN or infinite: the step, its batch and the row that stands
        out are named, and the last finite checkpoint is kept.
    StoreError
        A file of the store is missing, truncated or altered, maybe in the middle of a streamed
        run; once it is there again, the same call goes on from the last checkpoint.

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
    streamed = _was_streamed(path) if path is not None and train.resident_gb is None else None
    examples = read_examples(data, validation, config, train.resident_gb, streamed)
    rows = examples.rows
    batch = as_batch(rows, config)
    compared = batch.x if batch.target is None else batch.target
    config = config.for_data(counts=are_counts(compared))
    stream = examples.batches(min(train.batch_size, len(examples)), seed, config)
    n_steps = _n_steps(train, len(examples), stream.batch_size)
    if path is None and train.keep_checkpoints:
        raise ConfigError(
            f"keep_checkpoints = {list(train.keep_checkpoints)} without a folder: give `out`, "
            "or leave it out"
        )
    settings = {
        "sae": config.to_dict(),
        "train": train.to_dict() | {"n_steps": n_steps},
        "seed": seed,
        "data": _fingerprint(examples),
    }
    if path is not None and _already_finished(path, settings):
        return load_run(path)

    sae = SAE(config, seed=seed)
    # Evenly spaced rows: a recording drifts, so its first rows alone would not do.
    sample = as_batch(rows[:: -(-len(rows) // FIT_ROWS)].to(torch.float32), config)
    sae.fit_inputs(sample.x, sample.target)
    trainer = Trainer(sae, train, n_steps)
    dead_after_steps = int(trainer.dead_after_examples(stream.batch_size)) / stream.batch_size
    check_schedule(train, n_steps, dead_after_steps)
    history = _resume(path, settings, trainer, stream) if path is not None else []
    keep = _keep(path, train, batch.x)
    try:
        _train(trainer, stream, examples, history, path, settings, probe, progress, keep)
    finally:
        stream.close()

    settle(sae, batch.x)
    split, judged = examples.split, examples.judged
    card = score(sae, judged, split, _centre(rows, config))
    logged, held_out_rows = pd.DataFrame(history), judged if split != "train" else None
    evidence = gather(sae, logged, card.to_dict(), train, n_steps, rows, held_out_rows)
    run = Run(sae, card.to_dict(), logged, examine(evidence).sentences, path, settings)
    if path is not None:
        save_run(run, path, settings)
        (path / CHECKPOINT).unlink(missing_ok=True)
    return run


def _keep(path: Path | None, train: TrainConfig, x: Tensor) -> Keep:
    """What writes a copy of the SAE whenever a fraction in ``keep_checkpoints`` is reached."""

    def keep(trainer: Trainer) -> None:
        due = {math.ceil(part * trainer.n_steps - ROUNDING) for part in train.keep_checkpoints}
        if path is not None and trainer.step_number in due:
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


def _n_steps(train: TrainConfig, n_examples: int, batch_size: int) -> int:
    if train.n_steps is not None:
        return train.n_steps
    wanted = DEFAULT_EXAMPLES if train.n_epochs is None else train.n_epochs * n_examples
    return max(1, round(wanted / batch_size))


def _fingerprint(examples: Examples) -> dict[str, Any]:
    n = len(examples)
    sample = examples.spaced(max(1, n // 1000))
    digest = hashlib.sha256(sample.to(torch.float32).contiguous().cpu().numpy().tobytes())
    return {"shape": [n, *examples.rows.shape[1:]], "sha256_of_sample": digest.hexdigest()}


def _already_finished(path: Path, settings: dict[str, Any]) -> bool:
    record = read_record(path)
    if record is None:
        return False
    _refuse_other_settings(path, record["settings"], settings)
    return True


def _refuse_other_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = [
        f"{part}: {found.get(part)!r} there, {wanted[part]!r} here"
        if not isinstance(wanted[part], dict)
        else ", ".join(
            f"{part}.{name} = {found.get(part, {}).get(name)!r} there, {value!r} here"
            for name, value in wanted[part].items()
            if found.get(part, {}).get(name) != value
        )
        for part in wanted
        if found.get(part) != wanted[part]
    ]
    if different:
        raise CheckpointError(
            f"{path} holds a run with other settings ({'; '.join(different)}): "
            "choose another folder, or remove that one"
        )


def _resume(
    path: Path, settings: dict[str, Any], trainer: Trainer, stream: Batches
) -> list[dict[str, float]]:
    state = _read_checkpoint(path, map_location=trainer.device)
    if state is None:
        return []
    _refuse_other_settings(path, state["settings"], settings)
    trainer.load_state_dict(state["trainer"])
    stream.load_state_dict(state["stream"])
    return state["history"]


def _read_checkpoint(path: Path, **how: Any) -> dict[str, Any] | None:
    file = path / CHECKPOINT
    if not file.is_file():
        return None
    try:
        return torch.load(file, weights_only=True, **how)
    except Exception as error:  # torch raises whatever its zip or unpickler ran into
        raise CheckpointError(f"{file}: damaged ({error}); remove it to start again") from error


def _was_streamed(path: Path) -> bool | None:
    """How an interrupted run took its batches: memory that has become free changes nothing."""
    state = _read_checkpoint(path, map_location="cpu", mmap=True)
    return None if state is None else "buffer_examples" in state["stream"]


def _save_checkpoint(
    path: Path,
    settings: dict[str, Any],
    trainer: Trainer,
    stream: Batches,
    history: list[dict[str, float]],
) -> None:
    path.mkdir(parents=True, exist_ok=True)
    partial = path / f"{CHECKPOINT}.partial-{os.getpid()}"
    state = {
        "settings": settings,
        "trainer": trainer.state_dict(),
        "stream": stream.state_dict(),
        "history": history,
    }
    torch.save(state, partial)
    partial.replace(path / CHECKPOINT)


def _train(
    trainer: Trainer,
    stream: Batches,
    examples: Examples,
    history: list[dict[str, float]],
    path: Path | None,
    settings: dict[str, Any],
    probe: Probe | None,
    progress: bool,
    keep: Keep,
) -> None:
    train, n_steps = trainer.config, trainer.n_steps
    log_every = max(1, n_steps // train.n_logs)
    checkpoint_every = (
        max(1, n_steps // train.n_checkpoints) if train.n_checkpoints else n_steps + 1
    )
    watch = Watch(trainer.sae, train, n_steps)
    unread: list[dict[str, Tensor]] = []  # of the steps since they were last read from the device
    with tqdm(total=n_steps, initial=trainer.step_number, disable=not progress, unit="step") as bar:
        while trainer.step_number < n_steps:
            learning_rate = trainer.learning_rate()
            losses = trainer.step(as_batch(next(stream), trainer.sae.config))
            step = trainer.step_number
            unread.append(losses)
            logs = step % log_every == 0 or step == n_steps
            saves = path is not None and step % checkpoint_every == 0 and step < n_steps
            if logs or saves:
                _stop_if_not_finite(unread, step, examples, stream, path)
                unread.clear()
            if logs:
                row = _read_back(losses)
                trainer.schedule.observe(row["total"], trainer.fraction)
                row["decoder_norm"] = float(trainer.sae.W_dec.detach().norm(dim=1).mean())
                with torch.no_grad():
                    extra = probe(trainer) if probe is not None else {}
                if train.log_memory:
                    row["memory_gb"] = peak_memory_gb(trainer.device)
                counted = {"step": step, "examples": step * stream.batch_size}
                history.append(counted | {"learning_rate": learning_rate} | row | extra)
                shown = f"FVU {row['fvu']:.3f}, L0 {row['l0']:.1f}, dead {row['dead']:.0%}"
                bar.set_postfix_str(shown, refresh=False)
                for finding in watch.look(history):
                    if progress:
                        bar.write(f"step {step}, {finding.name}: {finding}")
            bar.update()
            keep(trainer)
            if path is not None and saves and _weights_are_finite(trainer.sae):
                _save_checkpoint(path, settings, trainer, stream, history)


def _read_back(losses: dict[str, Tensor]) -> dict[str, float]:
    values = torch.stack([value.to(torch.float64) for value in losses.values()]).tolist()
    return dict(zip(losses, values, strict=True))


def _weights_are_finite(sae: SAE) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in sae.parameters())


def _stop_if_not_finite(
    unread: list[dict[str, Tensor]],
    step: int,
    examples: Examples,
    stream: Batches,
    path: Path | None,
) -> None:
    bad = first_bad_step(unread, step)
    if bad is None:
        return
    first, wrong = bad
    kept = path is not None and (path / CHECKPOINT).is_file()
    raise TrainingError(
        f"step {first}: {', '.join(f'{name} = {value}' for name, value in wrong.items())}. "
        f"{describe_bad_batch(examples.rows, stream, first, examples.every)}. The run was stopped"
        + (f"; its last checkpoint, from before, is in {path}" if kept else "")
    )
