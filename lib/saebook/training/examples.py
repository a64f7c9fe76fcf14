"""Training examples in the form that a model takes: rows, windows, or inputs beside targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebook.data.store import Batch, ExampleStore, windows
from saebook.errors import DataError
from saebook.models import SAEConfig
from saebook.models.fitting import refuse_negative


def training_examples(
    data: Any, validation: Any, config: SAEConfig
) -> tuple[Tensor, tuple[str, Tensor]]:
    """Training examples [n, ...], and the split and examples that are judged.

    A transcoder's targets follow its inputs along the last axis; :func:`as_batch` takes them
    apart.

    Raises
    ------
    DataError
        The examples have the wrong width, hold NaN, or negative values where the settings take
        counts, or there are none.
    """
    if isinstance(data, ExampleStore):
        if validation is not None:
            raise DataError("a store brings its own validation split; leave `validation` out")
        rows = _of_store(data, "train", config)
        validation = _of_store(data, "validation", config)
    else:
        rows = _as_tensor(data, config)
        validation = _as_tensor(validation, config) if validation is not None else None
    for name, x in (("training", rows), ("validation", validation)):
        if x is not None:
            _check(name, x, config)
    if len(rows) == 0:
        raise DataError("no training examples: the training split is empty")
    if validation is not None and len(validation):
        return rows, ("validation", validation)
    return rows, ("train", rows)


def as_batch(x: Tensor, config: SAEConfig) -> Batch:
    """A batch of examples, a transcoder's targets apart from its inputs."""
    if not config.is_transcoder:
        return Batch(x)
    target = x[..., config.d_in :]
    if config.seq_len > 1 and config.target == "last":
        target = target[..., -1, :]
    return Batch(x[..., : config.d_in], target=target)


def _of_store(store: ExampleStore, split: str, config: SAEConfig) -> Tensor:
    if config.is_transcoder:
        raise DataError(
            f"a store holds inputs alone, and d_out = {config.d_out} asks for targets: give a "
            "pair of tensors (inputs, targets)"
        )
    if config.seq_len == 1:
        return store.tensor(split=split)
    rows = windows(store.index, config.seq_len, split=split)
    return store.tensor(split=None)[torch.from_numpy(rows)]  # [n, seq_len, d_in]


def _as_tensor(data: Any, config: SAEConfig) -> Tensor:
    if isinstance(data, tuple) != config.is_transcoder:
        raise DataError(
            "a transcoder (d_out set) is given a pair of tensors (inputs, targets), other models "
            f"a single tensor; found {type(data).__name__} with d_out = {config.d_out}"
        )
    if not isinstance(data, tuple):
        return torch.as_tensor(data)
    x, target = (torch.as_tensor(part) for part in data)
    if len(x) != len(target):
        raise DataError(f"{len(x)} inputs and {len(target)} targets: give one target per input")
    if tuple(target.shape[1:]) != config.target_shape:
        raise DataError(
            f"targets of shape {tuple(target.shape)}: d_out = {config.d_out}, seq_len = "
            f"{config.seq_len} and target={config.target!r} need [n, "
            f"{', '.join(map(str, config.target_shape))}]"
        )
    if x.ndim == 3 and target.ndim == 2:
        # Beside every bin, so that both travel as one tensor; as_batch takes the last.
        target = target[:, None].expand(-1, x.shape[1], -1)
    dtype = torch.promote_types(x.dtype, target.dtype)
    return torch.cat([x.to(dtype), target.to(dtype)], dim=-1)


def _check(name: str, x: Tensor, config: SAEConfig) -> None:
    width = config.d_in + (config.d_out or 0)
    expected = (width,) if config.seq_len == 1 else (config.seq_len, width)
    if x.ndim != 1 + len(expected) or tuple(x.shape[1:]) != expected:
        shown = ", ".join(map(str, expected))
        raise DataError(
            f"{name} examples of shape {tuple(x.shape)}: an SAE with d_in = {config.d_in}, "
            f"seq_len = {config.seq_len} and d_out = {config.d_out} needs [n, {shown}]"
        )
    if x.is_floating_point() and not x.isfinite().all():
        bad = int((~x.isfinite()).flatten(1).any(dim=1).sum())
        raise DataError(f"{bad} of {len(x)} {name} examples hold NaN or infinity")
    if len(x):
        batch = as_batch(x, config)
        refuse_negative(config, batch.x, batch.x if batch.target is None else batch.target)
