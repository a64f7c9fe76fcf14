"""Training examples in the form that a model takes: rows, windows, or inputs beside targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saebook.data.store import (
    Batch,
    Batches,
    BatchesAhead,
    BatchStream,
    ExampleStore,
    Pairs,
    StoredExamples,
    StreamedBatches,
    windows,
)
from saebook.data.store.buffering import buffered_bytes
from saebook.data.store.resident import not_finite
from saebook.errors import ConfigError, DataError, SelectionError
from saebook.models import SAEConfig
from saebook.models.fitting import refuse_negative
from saebook.training.memory import GIGABYTE, available_memory, fits_beside, free_memory
from saebook.training.temporal import TemporalConfig
from saebook.training.temporal.pairing import pairs_of

FIT_ROWS = 100_000
STREAM_GB = 2**30 / GIGABYTE
# A streamed run holds as much in each: two buffers, training rows, validation rows.
SHARES = 4
CPU = torch.device("cpu")
# Of each example there, its number in the order of an epoch.
ORDER_BYTES = 8


@dataclass(frozen=True)
class Examples:
    """What a run learns from and what judges it, in memory or on disk.

    They stay there while a CPU trains. A GPU is given batches by :meth:`batches`: of examples that
    were copied to it, where it has room for them, or that a thread sends ahead of their steps.

    Attributes
    ----------
    rows
        Training examples [n_rows, ...]: all of them, or, of those on disk, every ``every``-th.
    split, judged
        Name and examples of what the run is scored on; evenly spaced ones of a split on disk
        that is too large.
    every
        Step from one of ``rows`` to the next.
    stored
        Where all of them are, when they are not in memory.
    share
        Bytes for each buffer of examples on disk.
    pairs
        Of the training examples, where a temporal term asks for them.
    """

    rows: Tensor
    split: str
    judged: Tensor
    every: int = 1
    stored: StoredExamples | None = None
    share: float = 0.0
    pairs: Pairs | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.stored is None else len(self.stored)

    def spaced(self, step: int) -> Tensor:
        """Every ``step``-th training example, in the type they are stored in."""
        if self.stored is None:
            return self.rows[::step]
        return self.stored.take(torch.arange(0, len(self), step))

    def batches(
        self,
        batch_size: int,
        seed: int,
        config: SAEConfig,
        device: torch.device = CPU,
        n_models: int = 1,
    ) -> Batches:
        """Endless batches of all training examples, on the device that trains.

        Parameters
        ----------
        batch_size, seed
            Of the batches and their order, which is the same on every device.
        config
            The model, which decides what rows it can take, and how much room it needs.
        device
            On a GPU the examples are there too, in the type they are stored in, where they leave
            room enough; else batches are read ahead by another thread and sent there. Either way
            counts become floats there. Other devices are given what the CPU would be.
        n_models
            Models that train side by side.

        Raises
        ------
        ConfigError
            A shuffle buffer would be smaller than a batch.
        """
        if device.type != "cuda":
            return self._stream(batch_size, seed, config)
        if self.stored is None:
            resident = self.rows.is_cuda
            if not resident:
                n_bytes = self.rows.nbytes + ORDER_BYTES * len(self.rows)
                free = free_memory(device)
                resident = fits_beside(config, batch_size, n_bytes, free, n_models)
            if resident:
                stream = self._stream(batch_size, seed, config, device=device)
                # The host draws positives, which takes longer than a small step.
                return stream if self.pairs is None else BatchesAhead(stream)
        kept = self.rows.dtype if self.stored is None else self.stored.dtype
        # What is as wide as float32 or wider gains nothing by becoming it there.
        travels = kept if kept.itemsize < torch.float32.itemsize else torch.float32
        stream = self._stream(batch_size, seed, config, dtype=travels)
        return BatchesAhead(stream, device, torch.float32)

    def _stream(
        self,
        batch_size: int,
        seed: int,
        config: SAEConfig,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Batches:
        """Batches as they are taken, on the CPU but for those of examples that move to a device."""
        if self.stored is None:
            return BatchStream(
                self.rows, batch_size, seed=seed, pairs=self.pairs, device=device, dtype=dtype
            )
        each = buffered_bytes(self.stored, self.pairs is not None)
        n = int(self.share / each)
        if n < batch_size:
            needed = SHARES * each * batch_size / GIGABYTE
            raise ConfigError(
                f"resident_gb = {SHARES * self.share / GIGABYTE:.3g} leaves room for {n} examples in "
                f"each shuffle buffer, and batch_size = {batch_size}: set resident_gb to more than "
                f"{needed:.3g}, or take smaller batches"
            )
        return StreamedBatches(
            self.stored,
            batch_size,
            seed=seed,
            buffer_examples=n,
            dtype=dtype,
            check=self._check(config),
            pairs=self.pairs,
        )

    def _check(self, config: SAEConfig) -> Callable[[Tensor], None] | None:
        """What refuses rows that the settings can't take; only a sample was looked at before."""
        if self.stored is None or self.stored.store.kind == "counts":
            return None
        return partial(_refuse_negative_rows, config)


def _refuse_negative_rows(config: SAEConfig, rows: Tensor) -> None:
    refuse_negative(config, rows, rows)


def read_examples(
    data: Any,
    validation: Any,
    config: SAEConfig,
    resident_gb: float | None = None,
    streamed: bool | None = None,
    temporal: TemporalConfig | None = None,
    groups: Any = None,
    progress: bool = False,
) -> Examples:
    """Training examples and those that judge, left on disk where they are too large for memory.

    Parameters
    ----------
    data, validation
        As :func:`saebook.training.fit` takes them.
    config
        The model, which decides on their form.
    resident_gb
        As in :class:`saebook.training.TrainConfig`.
    streamed
        Whether a store's examples stay on disk; decided by its size without it.
    temporal
        A term that asks for pairs.
    groups
        Integers [n_rows]: the sequence of each row of a tensor, for those pairs.
    progress
        Show a progress bar while the files of examples that stay on disk are checked.

    Raises
    ------
    DataError
        The examples have the wrong width, hold NaN, or negative values where the settings take
        counts, or there are none.
    StoreError
        A file of the store is missing, truncated or altered.
    """
    if streamed is None:
        streamed = isinstance(data, ExampleStore) and _too_large(data, config, resident_gb)
    if not streamed or not isinstance(data, ExampleStore):
        rows, (split, judged) = training_examples(data, validation, config)
        pairs = (
            None
            if temporal is None
            else pairs_of(data, config.seq_len, temporal, groups, len(rows))
        )
        return Examples(rows, split, judged, pairs=pairs)
    _refuse_beside_store(validation, config)
    share = (STREAM_GB if resident_gb is None else resident_gb) * GIGABYTE / SHARES
    stored = StoredExamples(data, "train", config.seq_len, within_trials=temporal is not None)
    stored.verify(progress)
    pairs = (
        None
        if temporal is None
        else pairs_of(stored, config.seq_len, temporal, groups, len(stored))
    )
    # Beside the rows as they are stored, what they are fitted on in float32.
    every = _step(stored, share, also=4, most=FIT_ROWS)
    rows = stored.take(torch.arange(0, len(stored), every))
    split, judged = "train", rows
    try:
        held_out = StoredExamples(data, "validation", config.seq_len)
    except SelectionError:
        held_out = None
    _check("training", rows, config)
    if held_out is not None:
        held_out.verify(progress)
        apart = _step(held_out, share)
        split, judged = "validation", held_out.take(torch.arange(0, len(held_out), apart))
        _check(split, judged, config)
    return Examples(rows, split, judged, every, stored, share, pairs)


def _too_large(store: ExampleStore, config: SAEConfig, resident_gb: float | None) -> bool:
    n = store.manifest.get("rows_per_split", {}).get("train", 0)
    itemsize = getattr(torch, store.dtype).itemsize
    n_bytes = n * config.seq_len * store.d_in * itemsize
    return n_bytes > (available_memory() / 2 if resident_gb is None else resident_gb * GIGABYTE)


def _step(stored: StoredExamples, share: float, also: int = 0, most: int | None = None) -> int:
    """Step between evenly spaced examples that fit a share of the memory."""
    each = stored.seq_len * stored.store.d_in * (stored.dtype.itemsize + also)
    fitting = max(int(share / each), 1)
    return -(-len(stored) // min(fitting, most or fitting))


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
        _refuse_beside_store(validation, config)
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


def as_batch(x: Tensor | Batch, config: SAEConfig) -> Batch:
    """A batch of examples, a transcoder's targets apart from its inputs."""
    batch = x if isinstance(x, Batch) else Batch(x)
    if not config.is_transcoder:
        return batch
    target = batch.x[..., config.d_in :]
    if config.seq_len > 1 and config.target == "last":
        target = target[..., -1, :]
    positive = None if batch.positive is None else batch.positive[..., : config.d_in]
    inputs = batch.x[..., : config.d_in]
    return dataclasses.replace(batch, x=inputs, positive=positive, target=target)


def _refuse_beside_store(validation: Any, config: SAEConfig) -> None:
    if validation is not None:
        raise DataError("a store brings its own validation split; leave `validation` out")
    if config.is_transcoder:
        raise DataError(
            f"a store holds inputs alone, and d_out = {config.d_out} asks for targets: give a "
            "pair of tensors (inputs, targets)"
        )


def _of_store(store: ExampleStore, split: str, config: SAEConfig) -> Tensor:
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
    bad = len(not_finite(x)) if x.is_floating_point() else 0
    if bad:
        raise DataError(f"{bad} of {len(x)} {name} examples hold NaN or infinity")
    if len(x):
        batch = as_batch(x, config)
        refuse_negative(config, batch.x, batch.x if batch.target is None else batch.target)
