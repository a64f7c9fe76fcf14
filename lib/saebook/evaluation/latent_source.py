"""What is to be written as latents, checked and in one form, whoever made it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saebook.data.store import windows
from saebook.errors import DataError
from saebook.evaluation.examples import Examples, same_width
from saebook.evaluation.recovery import decoder_directions
from saebook.evaluation.scorecard import reconstruct, scoring


class LatentSource:
    """Latents of a recording: shape, times, decoder, and blocks of latents in order.

    Parameters
    ----------
    latents, data, timestamps, unit_ids, decoder, bin_size_s
        As for `write_latents`.
    source
        The recording; its name tells which session of a store is meant.

    Raises
    ------
    DataError
        Shapes, times or values that don't fit.

    Examples
    --------
    >>> given = LatentSource(np.eye(3), None, [0.0, 0.1, 0.2], None, None, 0.1, Path("a.nwb"))
    >>> given.n, given.d_sae, [len(block) for block in given.blocks(2)]
    (3, 3, [2, 1])
    """

    def __init__(
        self,
        latents: Any,
        data: Any,
        timestamps: Any,
        unit_ids: Sequence[Any] | None,
        decoder: Any,
        bin_size_s: float | None,
        source: Path,
    ) -> None:
        self.provenance: dict[str, Any] = {}
        self.configuration: dict[str, Any] = {}
        self.bin_size_s = bin_size_s
        self._sae: Any = latents if hasattr(latents, "encode") else None
        if self._sae is None:
            if data is not None:
                raise DataError("data goes with an SAE that encodes it; latents are given already")
            self._rows = _matrix(latents)
            self.n, self.d_sae = self._rows.shape
        else:
            timestamps, unit_ids = self._of_model(data, timestamps, unit_ids, source)
            decoder = self._own_decoder() if decoder is None else decoder
        self.timestamps = _times(timestamps, self.n)
        self.unit_ids, self.decoder = _decoder(decoder, unit_ids, self.d_sae)

    def _of_model(self, data: Any, timestamps: Any, unit_ids: Any, source: Path) -> Any:
        if data is None:
            raise DataError("an SAE needs data to encode: give data=, a store or examples")
        config: Any = getattr(self._sae, "config", None)
        seq_len = getattr(config, "seq_len", 1)
        if hasattr(data, "index"):
            rows = _rows_of(data, source, seq_len)
            last = rows if seq_len == 1 else rows[:, -1]
            timestamps = data.index["time"].to_numpy()[last] if timestamps is None else timestamps
            unit_ids = data.features["unit"].tolist() if unit_ids is None else unit_ids
            self.bin_size_s = data.bin_size_s if self.bin_size_s is None else self.bin_size_s
            self.provenance = {"store": dict(data.provenance)}
            x = data.tensor(rows=rows.ravel()).reshape(*rows.shape, -1)
        else:
            x = data
        self._examples = Examples(x, None, seq_len)
        same_width(self._sae, self._examples)
        self.n = len(self._examples)
        self.d_sae = int(config.d_sae if config is not None else self._sae.W_dec.shape[0])
        to_dict = getattr(config, "to_dict", None)
        if to_dict is not None:
            self.configuration = {"sae": to_dict()}
        return timestamps, unit_ids

    def _own_decoder(self) -> Any:
        config = getattr(self._sae, "config", None)
        weights = decoder_directions(self._sae).detach().cpu()
        shape = getattr(config, "target_shape", weights.shape[1:])
        return weights.reshape(len(weights), *shape)

    def blocks(self, n_rows: int) -> Iterator[np.ndarray]:
        """Latents in order, float32 [≤ n_rows, d_sae]."""
        if self._sae is None:
            for start in range(0, self.n, n_rows):
                yield _finite(_dense(self._rows[start : start + n_rows]), start)
            return
        with scoring(self._sae):
            done = 0
            for x in self._examples.batches(n_rows):
                block = reconstruct(self._sae, x)[0].float().cpu().numpy()
                yield _finite(block, done)
                done += len(block)


def _rows_of(store: Any, source: Path, seq_len: int) -> np.ndarray:
    """Rows [n] or windows [n, seq_len] of the store's session that is this recording's."""
    sessions = store.index["session"].unique().tolist()
    wanted = source.name.removesuffix(".nwb")
    if wanted not in sessions:
        raise DataError(
            f"the store holds sessions {', '.join(map(str, sessions))}, not {wanted}: give the "
            "recording that the store was made from"
        )
    own = (store.index["session"] == wanted).to_numpy()
    if seq_len == 1:
        return np.flatnonzero(own)
    rows = windows(store.index, seq_len)
    return rows[own[rows[:, 0]]]


def _matrix(latents: Any) -> Any:
    if isinstance(latents, torch.Tensor):
        latents = latents.detach().cpu()
        latents = latents.to_dense() if latents.layout != torch.strided else latents
        latents = latents.float().numpy()
    if hasattr(latents, "tocsr"):
        latents = latents.tocsr()
    elif not isinstance(latents, np.ndarray):
        latents = np.asarray(latents)
    if len(latents.shape) != 2 or 0 in latents.shape or latents.dtype.kind not in "biuf":
        raise DataError(
            f"latents are {latents.dtype} of shape {tuple(latents.shape)}: give numbers [n, d_sae]"
        )
    return latents


def _dense(block: Any) -> np.ndarray:
    block = block.toarray() if hasattr(block, "toarray") else block
    return np.asarray(block, dtype=np.float32)


def _finite(block: np.ndarray, start: int) -> np.ndarray:
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        raise DataError(f"latents of row {start + int(np.argmax(bad))} are not all finite numbers")
    return block


def _times(timestamps: Any, n: int) -> np.ndarray:
    if timestamps is None:
        raise DataError("give timestamps=, the start of each row's bin in seconds")
    times = np.asarray(timestamps, dtype=np.float64)
    if times.shape != (n,):
        raise DataError(f"timestamps of shape {times.shape} for {n} rows of latents")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        row = int(np.argmax(~np.isfinite(times) | np.r_[False, np.diff(times) <= 0]))
        raise DataError(
            f"timestamps must be finite and rise: row {row} is {times[row]} s, after "
            f"{times[max(row - 1, 0)]} s"
        )
    return times


def _decoder(
    decoder: Any, unit_ids: Sequence[Any] | None, d_sae: int
) -> tuple[list[Any], np.ndarray | None]:
    if decoder is None:
        return [], None
    if isinstance(decoder, torch.Tensor):
        decoder = decoder.detach().cpu().numpy()
    weights = np.asarray(decoder, dtype=np.float32)
    if unit_ids is None:
        raise DataError("a decoder needs unit_ids=, the ids of its units in the recording")
    ids = list(unit_ids)
    if weights.ndim not in (2, 3) or (weights.shape[0], weights.shape[-1]) != (d_sae, len(ids)):
        raise DataError(
            f"a decoder of shape {weights.shape} for {d_sae} latents and {len(ids)} units: give "
            "[d_sae, n_units] or [d_sae, seq_len, n_units]"
        )
    if not np.isfinite(weights).all():
        raise DataError("the decoder's weights are not all finite numbers")
    return ids, weights
