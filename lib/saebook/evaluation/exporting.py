"""Latents as the objects of pynapple and xarray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from saebook.data.spikes import Recording
from saebook.errors import DataError, EnvironmentProblem
from saebook.evaluation.stored_latents import StoredLatents


def to_pynapple(
    latents: StoredLatents | Any,
    timestamps: Any = None,
    *,
    metadata: pd.DataFrame | None = None,
    bin_size_s: float | None = None,
) -> Any:
    """Latents, or any values over time, as a pynapple object.

    Parameters
    ----------
    latents : StoredLatents, Tensor or ndarray
        Latents with all that belongs to them; or values [n, columns], or [n, …] with more axes.
    timestamps
        Start of each row's bin [n], s; latents that were read know them.
    metadata
        One row per column of the frame, in its order, with the columns' names as index: unit ids,
        latents. For `StoredLatents` also: added to what is known of each latent.
    bin_size_s
        Width of a bin, s. Rows further apart than one and a half bins begin another epoch of the
        time support. Default: what the latents know, else the median step.

    Returns
    -------
    TsdFrame or TsdTensor
        A frame of [n, columns]. For `StoredLatents` its columns are numbered as the latents, with
        metadata `top_unit` (id of the unit with the largest absolute decoder weight),
        `top_weight`, and `top_location` where the file says so. More axes: a tensor.

    Raises
    ------
    EnvironmentProblem
        Package pynapple is missing.
    DataError
        Shapes that don't fit.

    Examples
    --------
    >>> stored = StoredLatents(np.eye(3, 2, dtype=np.float32), np.array([0.0, 0.1, 0.9]), 0.1)
    >>> frame = to_pynapple(stored)
    >>> frame.shape, len(frame.time_support)
    ((3, 2), 2)
    """
    try:
        import pynapple
    except ImportError as error:
        raise _missing("pynapple") from error

    columns = None
    if isinstance(latents, StoredLatents):
        values, times = latents.activations, latents.timestamps
        bin_size_s = latents.bin_size_s if bin_size_s is None else bin_size_s
        known = latent_table(latents)
        columns = known.index
        if metadata is not None:
            known = known.join(
                metadata.set_axis(columns) if len(metadata) == len(columns) else metadata
            )
        metadata = known
    else:
        values = np.asarray(latents.detach().cpu() if hasattr(latents, "detach") else latents)
        times = None if timestamps is None else np.asarray(timestamps, dtype=np.float64)
        columns = None if metadata is None else metadata.index
    if values.ndim < 2 or times is None or times.shape != values.shape[:1]:
        raise DataError(
            f"values of shape {values.shape} at {0 if times is None else times.size} times: "
            "give [n, columns] and one time per row"
        )
    if metadata is not None and (values.ndim != 2 or len(metadata) != values.shape[1]):
        raise DataError(
            f"{len(metadata)} rows of metadata for values of shape {values.shape}: give one row "
            "per column of a frame"
        )
    support = _support(times, bin_size_s, pynapple)
    if values.ndim > 2:
        return pynapple.TsdTensor(t=times, d=values, time_support=support)
    table = None if metadata is None or not len(metadata.columns) else metadata
    return pynapple.TsdFrame(
        t=times, d=values, columns=columns, time_support=support, metadata=table
    )


def to_xarray(latents: StoredLatents, recording: Recording | None = None) -> Any:
    """Latents as an xarray dataset, labelled by time, latent, unit and behaviour.

    Parameters
    ----------
    latents
        From `read_latents`, or made from arrays.
    recording
        Their recording: each column of its behaviour becomes a coordinate along time, averaged in
        bins (NaN outside the signal's span), and `trial` the number of the trial that holds a
        bin's centre, or -1.

    Returns
    -------
    xarray.Dataset
        Variables `activations` (time, latent) and, where there is one, `decoder` (latent, unit) or
        (latent, bin, unit); coordinates time, latent, unit, `location` and `electrode_group` along
        unit, and behaviour. Attributes: name, bin_size_s, configuration and provenance as JSON,
        so that the set can be saved as netCDF.

    Raises
    ------
    EnvironmentProblem
        Package xarray is missing.
    DataError
        Behaviour is asked for, and the width of bins isn't known.

    Examples
    --------
    >>> stored = StoredLatents(np.eye(3, 2, dtype=np.float32), np.arange(3) * 0.1, 0.1)
    >>> to_xarray(stored).activations.sel(latent=1).values.tolist()
    [0.0, 1.0, 0.0]
    """
    import json

    try:
        import xarray
    except ImportError as error:
        raise _missing("xarray") from error

    variables: dict[str, Any] = {"activations": (("time", "latent"), latents.activations)}
    coordinates: dict[str, Any] = {"time": latents.timestamps, "latent": latents.latents}
    if latents.decoder is not None and latents.units is not None:
        axes = ("latent", "bin", "unit") if latents.decoder.ndim == 3 else ("latent", "unit")
        variables["decoder"] = (axes, latents.decoder)
        coordinates["unit"] = latents.units.index.to_numpy()
        for name in latents.units:
            coordinates[str(name)] = ("unit", latents.units[name].to_numpy(dtype=str))
    if recording is not None:
        if latents.bin_size_s is None:
            raise DataError("behaviour is averaged in bins: the latents' bin_size_s isn't known")
        for name, values in _behavior(recording, latents.timestamps, latents.bin_size_s):
            while name in coordinates or name in variables or name == "bin":
                name += "_"
            coordinates[name] = ("time", values)
    attributes: dict[str, Any] = {
        "name": latents.name,
        "configuration": json.dumps(latents.configuration),
        "provenance": json.dumps(latents.provenance),
    }
    if latents.bin_size_s is not None:
        attributes["bin_size_s"] = latents.bin_size_s
    return xarray.Dataset(variables, coordinates, attributes)


def latent_table(latents: StoredLatents) -> pd.DataFrame:
    """What is known of each latent from its decoder: its top unit, that unit's weight and place.

    Examples
    --------
    >>> units = pd.DataFrame(index=pd.Index([7, 9], name="unit"))
    >>> stored = StoredLatents(
    ...     np.zeros((1, 2), np.float32), np.zeros(1), decoder=np.array([[0.1, -2], [1, 0]]), units=units
    ... )
    >>> latent_table(stored)["top_unit"].tolist()
    [9, 7]
    """
    table = pd.DataFrame(index=pd.Index(latents.latents, name="latent"))
    if latents.decoder is None or latents.units is None:
        return table
    weights = latents.decoder
    if weights.ndim == 3:
        # Of each unit, its largest weight in any bin of the window.
        place = np.abs(weights).argmax(axis=1)[:, None]
        weights = np.take_along_axis(weights, place, axis=1)[:, 0]
    top = np.abs(weights).argmax(axis=1)
    table["top_unit"] = latents.units.index.to_numpy()[top]
    table["top_weight"] = weights[np.arange(len(top)), top]
    if "location" in latents.units:
        table["top_location"] = latents.units["location"].to_numpy(dtype=object)[top]
    return table


def _behavior(recording: Recording, times: np.ndarray, width: float) -> Any:
    from saebook.data.spikes.recording import Series
    from saebook.data.spikes.session import average_in_bins

    for key, series in recording.behavior.items():
        data = np.asarray(series.data, dtype=float)
        known = np.isfinite(data).all(axis=1) & np.isfinite(series.timestamps)
        if not known.any():
            continue
        stamps = series.timestamps[known]
        clean = Series(key, data[known], stamps, series.unit, series.columns)
        values = average_in_bins(clean, times, width).to_numpy().copy()
        values[(times + width <= stamps.min()) | (times > stamps.max())] = np.nan
        for column, name in enumerate(series.columns):
            label = str(name) if str(name).startswith(key) else f"{key}_{name}"
            yield label, values[:, column]
    trials = recording.trials
    if trials is not None and len(trials):
        centers = times + width / 2
        order = np.argsort(trials["start_time"].to_numpy(), kind="stable")
        starts = trials["start_time"].to_numpy(np.float64)[order]
        stops = trials["stop_time"].to_numpy(np.float64)[order]
        last = np.searchsorted(starts, centers, "right") - 1
        inside = (last >= 0) & (centers < stops[np.maximum(last, 0)])
        yield "trial", np.where(inside, order[np.maximum(last, 0)], -1)


def _support(times: np.ndarray, bin_size_s: float | None, pynapple: Any) -> Any:
    """Epochs without a gap: a new one begins where rows are further apart than 1.5 bins."""
    if not len(times):
        return None
    step = bin_size_s or (float(np.median(np.diff(times))) if len(times) > 1 else 1.0)
    breaks = np.flatnonzero(np.diff(times) > 1.5 * step)
    starts, stops = np.r_[0, breaks + 1], np.r_[breaks, len(times) - 1]
    return pynapple.IntervalSet(times[starts], times[stops] + step / 2)


def _missing(package: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"this needs the package {package}. Install the extra: pip install 'saebook[neuro]'."
    )
