"""What an interrupted run goes on from, and how it knows that it may."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saebook.data.store import Batches
from saebook.errors import CheckpointError
from saebook.training.examples import Examples
from saebook.training.run import read_record
from saebook.training.trainer import Trainer

CHECKPOINT = "checkpoint.pt"


def fingerprint(examples: Examples) -> dict[str, Any]:
    """What tells training examples from others: their shape, and a digest of a thousand of them."""
    n = len(examples)
    sample = examples.spaced(max(1, n // 1000))
    digest = hashlib.sha256(sample.to(torch.float32).contiguous().cpu().numpy().tobytes())
    return {"shape": [n, *examples.rows.shape[1:]], "sha256_of_sample": digest.hexdigest()}


def already_finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds a finished run of these settings.

    Raises
    ------
    CheckpointError
        It holds one of others.
    """
    record = read_record(path)
    if record is None:
        return False
    refuse_other_settings(path, record["settings"], settings)
    return True


def refuse_other_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise a CheckpointError that names what differs, if anything does."""
    different = differences(found, wanted, "there", "here")
    if different:
        raise CheckpointError(
            f"{path} holds a run with other settings ({'; '.join(different)}): "
            "choose another folder, or remove that one"
        )


def differences(found: dict[str, Any], wanted: dict[str, Any], there: str, here: str) -> list[str]:
    """What differs between settings found somewhere and those wanted here, in words.

    Examples
    --------
    >>> differences({"train": {"n_steps": 10}}, {"train": {"n_steps": 20}}, "there", "here")
    ['train.n_steps = 10 there, 20 here']
    """
    ones, others = dict(_flat(found)), dict(_flat(wanted))
    different = [
        f"{name} = {ones.get(name)!r} {there}, {value!r} {here}"
        for name, value in others.items()
        if ones.get(name) != value
    ]
    return different + [f"{name} {there}, not {here}" for name in ones if name not in others]


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def resume(
    path: Path, settings: dict[str, Any], trainer: Trainer, stream: Batches
) -> dict[str, Any] | None:
    """Bring trainer and stream to where the last checkpoint stands, and return what it holds.

    Raises
    ------
    CheckpointError
        It is damaged, or of other settings.
    """
    processes = trainer.processes
    place = trainer.device if processes.size == 1 else "cpu"
    state = processes.first(partial(_read, path, map_location=place))
    if state is None:
        return None
    refuse_other_settings(path, state["settings"], settings)
    trainer.load_state_dict(state["trainer"])
    stream.load_state_dict(state["stream"])
    return state


def was_streamed(path: Path) -> bool | None:
    """How an interrupted run took its batches: memory that has become free changes nothing."""
    state = _read(path, map_location="cpu", mmap=True)
    return None if state is None else "buffer_examples" in state["stream"]


def _read(path: Path, **how: Any) -> dict[str, Any] | None:
    file = path / CHECKPOINT
    if not file.is_file():
        return None
    try:
        return torch.load(file, weights_only=True, **how)
    except Exception as error:  # torch raises whatever its zip or unpickler ran into
        raise CheckpointError(f"{file}: damaged ({error}); remove it to start again") from error


def save_checkpoint(
    path: Path, settings: dict[str, Any], trainer: Trainer, stream: Batches, **more: Any
) -> None:
    """Write what :func:`resume` returns; complete, or not at all. The first process does."""
    state = {"settings": settings, "trainer": trainer.state_dict(), "stream": stream.state_dict()}

    def write() -> None:
        path.mkdir(parents=True, exist_ok=True)
        unfinished = path / f"{CHECKPOINT}.partial-{os.getpid()}"
        torch.save(state | more, unfinished)
        unfinished.replace(path / CHECKPOINT)

    trainer.processes.first(write)
