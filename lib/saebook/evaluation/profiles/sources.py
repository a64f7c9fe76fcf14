"""Profiles of latents from an SAE and a store, from latents stored in NWB, or from arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from saebook.data.spikes import Recording
from saebook.data.store import windows
from saebook.errors import DataError, SelectionError
from saebook.evaluation.profiles.columns import CHUNK_ROWS, LatentColumns
from saebook.evaluation.profiles.profiles import LatentProfiles
from saebook.evaluation.profiles.spiking import Spiking
from saebook.evaluation.recovery import decoder_directions
from saebook.evaluation.scorecard import scoring
from saebook.evaluation.stored_latents import StoredLatents
from saebook.evaluation.variables import Variable

REGION_COLUMNS = ("location", "region", "brain_region", "electrode_group")


def profiles_of(
    latents: Any,
    store: Any = None,
    variables: Sequence[Variable] = (),
    *,
    table: Any = None,
    recording: Recording | None = None,
    split: str | None = "test",
    time: Any = None,
    bin_size_s: float | None = None,
    decoder: Any = None,
    units: Sequence[Any] | None = None,
) -> LatentProfiles:
    """Bring latents and what they can be set against onto the same bins.

    Parameters
    ----------
    latents : SAE, StoredLatents, array, Tensor or sparse matrix
        A model, which encodes the store; what ``read_latents`` gives; or activity [n, n_latents],
        of every row of the store where there is one.
    store : ExampleStore, optional
        Binned counts of one session.
    variables : sequence of Variable
        Over every row of the store (from ``candidate_variables``); without one, over the rows of
        the latents.
    table : DataFrame, optional
        What is known of each latent: one row each, or several (findings), of which the first
        counts; index or column ``latent`` their numbers. Anything with such a ``table``, such as
        a `Discovery`, will do.
    recording : Recording, optional
        Gives spike times instead of counts, and regions.
    split : str or None
        Rows of the store that are shown; None for all.
    time, bin_size_s, decoder, units
        For arrays: start of each row's bin and its width, s; [n_latents, n_units] decoder; ids of
        its units. Rows are numbered where there is neither time nor store.

    Returns
    -------
    LatentProfiles

    Raises
    ------
    DataError
        Parts that don't fit each other.
    SelectionError
        No row in this split.

    Examples
    --------
    >>> profiles = profiles_of(np.eye(4), time=np.arange(4) * 0.5, bin_size_s=0.5)
    >>> profiles.columns.density.tolist(), profiles.shown
    ([0.25, 0.25, 0.25, 0.25], 'bins')
    """
    encoder, trial, shown = None, None, "bins"
    counts, counts_time = None, np.empty(0)
    if isinstance(latents, StoredLatents):
        time = latents.timestamps if time is None else time
        bin_size_s = latents.bin_size_s if bin_size_s is None else bin_size_s
        decoder = latents.decoder if decoder is None else decoder
        if units is None and latents.units is not None:
            units = latents.units.index.tolist()
        table = latents.discovery if table is None else table
    regions = _regions(getattr(latents, "units", None), units)
    if store is not None:
        index = _one_session(store)
        bin_size_s = float(store.bin_size_s) if bin_size_s is None else bin_size_s
        if units is None:
            features = store.features
            features = features.set_index("unit") if "unit" in features else features
            units = features.index.tolist()
            regions = _regions(features, units)
        counts, counts_time = store.array(), index["time"].to_numpy()
    if hasattr(latents, "encode"):
        if store is None:
            raise DataError("an SAE needs a store to encode: give the ExampleStore as well")
        rows, columns = _encoded(latents, store, split)
        decoder = _decoder_of(latents) if decoder is None else decoder
        encoder = _encoder_of(latents)
    else:
        values = latents.activations if isinstance(latents, StoredLatents) else latents
        rows = None if store is None else _rows_of(values, latents, index, split)
        kept = slice(None) if rows is None else rows[0]
        columns = LatentColumns.of_matrix(values[kept])
        if rows is None and time is not None:
            time = np.asarray(time, dtype=float)
        rows = None if rows is None else rows[1]
    if rows is not None:
        time = index["time"].to_numpy()[rows]
        variables = [_on_rows(variable, rows) for variable in variables]
        trial = index["trial"].to_numpy()[rows] if "trial" in index else None
        shown = "bins" if split is None else f"{split} bins"
    if bin_size_s is None:
        bin_size_s = float(np.median(np.diff(time))) if time is not None and len(time) > 1 else 1.0
    if time is None:
        time = np.arange(columns.n_rows) * bin_size_s
    spike_times = None
    if recording is not None and units is not None:
        spike_times, regions = _of_recording(recording, units, regions)
    decoder = None if decoder is None else np.asarray(decoder, dtype=np.float32)
    if decoder is not None and units is None:
        units = list(range(decoder.shape[-1]))
    spiking = Spiking(units or (), regions, spike_times, counts, counts_time, float(bin_size_s))
    return LatentProfiles(
        columns=columns,
        time=np.asarray(time, dtype=float),
        bin_size_s=float(bin_size_s),
        variables=variables,
        spiking=spiking,
        decoder=decoder,
        encoder=encoder,
        trial=trial,
        shown=shown,
        table=_table_of(table, columns.n_latents),
    )


def _on_rows(variable: Variable, rows: np.ndarray) -> Variable:
    per_row = {name: getattr(variable, name, None) for name in ("values", "group", "trial")}
    return replace(variable, **{k: v[rows] for k, v in per_row.items() if v is not None})


def _one_session(store: Any) -> pd.DataFrame:
    index = store.index
    sessions = index["session"].unique() if "session" in index else []
    if len(sessions) > 1:
        raise DataError(
            f"the store holds sessions {', '.join(map(str, sessions))}: prepare one by itself"
        )
    return index


def _encoded(sae: Any, store: Any, split: str | None) -> tuple[np.ndarray, LatentColumns]:
    """Rows of the store that latents belong to (of windows the last), and the latents."""
    config = getattr(sae, "config", None)
    seq_len = getattr(config, "seq_len", 1)
    d_in = getattr(config, "d_in", store.d_in)
    if d_in != store.d_in:
        raise DataError(f"the SAE takes d_in = {d_in}, the store has {store.d_in} columns")
    if seq_len == 1:
        rows = store.rows(split)
    else:
        rows = windows(store.index, seq_len, split=split)
    if not len(rows):
        raise SelectionError(f"no example in the {split} split: choose another split")

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), CHUNK_ROWS):
            part = rows[start : start + CHUNK_ROWS]
            x = store.tensor(rows=part.ravel()).reshape(*part.shape, -1)
            yield sae.encode(x.to(sae.W_dec)).float().cpu().numpy()

    with scoring(sae):
        columns = LatentColumns(blocks())
    return rows if seq_len == 1 else rows[:, -1], columns


def _decoder_of(sae: Any) -> np.ndarray:
    weights = decoder_directions(sae).detach().cpu().float()
    shape = getattr(getattr(sae, "config", None), "target_shape", weights.shape[1:])
    return weights.reshape(len(weights), *shape).numpy()


def _encoder_of(sae: Any) -> np.ndarray | None:
    """Encoder weights [d_sae, seq_len, d_in] of windows of which one bin is reconstructed."""
    config: Any = getattr(sae, "config", None)
    seq_len = getattr(config, "seq_len", 1)
    if seq_len == 1 or len(config.target_shape) > 1 or not hasattr(sae, "W_enc"):
        return None
    weights = sae.W_enc.detach().cpu().float().numpy()  # [seq_len · d_in, d_sae]
    return weights.T.reshape(-1, seq_len, config.d_in)


def _rows_of(
    values: Any, latents: Any, index: pd.DataFrame, split: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of the latents are shown, and which rows of the store these are."""
    n = values.shape[0]
    if isinstance(latents, StoredLatents):
        time, width = index["time"].to_numpy(), latents.bin_size_s or 0.0
        at = np.searchsorted(time, latents.timestamps - width / 2).clip(max=len(time) - 1)
        apart = np.abs(time[at] - latents.timestamps).max(initial=0.0)
        if apart > 1e-6:
            raise DataError(
                f"the stored latents lie up to {apart:.3g} s from the bins of the store: make the "
                "store from the same recording with the same bins"
            )
    elif n == len(index):
        at = np.arange(n)
    else:
        raise DataError(f"{n} rows of latents for {len(index)} rows of the store: give all of them")
    shown = np.ones(n, bool) if split is None else (index["split"] == split).to_numpy()[at]
    if not shown.any():
        raise SelectionError(f"no row of the latents is in the {split} split: choose another one")
    return np.flatnonzero(shown), at[shown]


def _of_recording(
    recording: Recording, units: Sequence[Any], regions: list[str] | None
) -> tuple[list[np.ndarray], list[str] | None]:
    place = {unit: i for i, unit in enumerate(recording.units.index.tolist())}
    missing = [unit for unit in units if unit not in place]
    if missing:
        raise DataError(
            f"the recording {recording.session} lacks units {missing[:10]}: give the one that the "
            "latents were made from"
        )
    trains = [recording.spike_times[place[unit]] for unit in units]
    return trains, regions or _regions(recording.units, units)


def _regions(about: pd.DataFrame | None, units: Sequence[Any] | None) -> list[str] | None:
    """Region of each unit, where the table has a column of them and they differ."""
    if not isinstance(about, pd.DataFrame) or units is None:
        return None
    for column in REGION_COLUMNS:
        if column in about and set(units) <= set(about.index):
            found = [str(region) for region in about.loc[list(units), column]]
            if len(set(found)) > 1:
                return found
    return None


def _table_of(table: Any, n_latents: int) -> pd.DataFrame | None:
    """One row per latent, in order; those without a finding get missing values."""
    table = getattr(table, "table", table)
    if table is None:
        return None
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"table is a {type(table).__name__}: give a DataFrame, one row per latent")
    if "latent" in table.columns:
        table = table.set_index("latent")
    numbers = table.index
    if not pd.api.types.is_integer_dtype(numbers) or not numbers.isin(range(n_latents)).all():
        raise DataError(
            f"the table has rows {list(numbers[:5])} …: its index, or its column latent, must be "
            f"latents, 0 to {n_latents - 1}"
        )
    table = table[~numbers.duplicated()]
    return table.reindex(pd.RangeIndex(n_latents, name="latent"))
