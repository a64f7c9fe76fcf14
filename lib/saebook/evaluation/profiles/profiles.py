"""Every piece that is to be seen of a latent, made on demand from sparse columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from saebook.errors import DataError
from saebook.evaluation.profiles.columns import LatentColumns
from saebook.evaluation.profiles.following import Following
from saebook.evaluation.profiles.pieces import (
    Closeup,
    Moments,
    OverTime,
    OverTrials,
    Tuning,
    Weights,
)
from saebook.evaluation.profiles.spiking import Spiking
from saebook.evaluation.variables import Variable

N_PIXELS = 600
N_MOMENTS = 6
N_TOP_UNITS = 10
N_COACTIVE = 6
# Moments lie at least so far apart; windows around them reach so far to either side.
APART_S, AROUND_S, CLOSE_S = 0.5, 0.2, 1.0
FEWEST_BINS_CLOSE = 10


@dataclass(eq=False)
class LatentProfiles:
    """Latents of one session with all that they can be set against; made by `profiles_of`.

    Attributes
    ----------
    columns : LatentColumns
        Activity.
    time : ndarray
        [n] start of each bin, s, rising.
    bin_size_s : float
        Width of a bin, s.
    variables : sequence of Variable
        Over the same bins.
    spiking : Spiking
        Units, with their spikes where known.
    decoder : ndarray or None
        [d_sae, n_units] or, for windows, [d_sae, seq_len, n_units], spikes per unit of activity.
    encoder : ndarray or None
        [d_sae, seq_len, n_units] for windows of which one bin is reconstructed.
    trial : ndarray or None
        [n] trial of each bin, -1 outside any.
    shown : str
        Which bins these are, such as "test bins".
    table : DataFrame or None
        What is known of each latent, one row each in order.

    Raises
    ------
    DataError
        Times, variables, decoder or trials that don't fit the activity.
    """

    columns: LatentColumns
    time: np.ndarray
    bin_size_s: float
    variables: Sequence[Variable] = ()
    spiking: Spiking = field(default_factory=Spiking)
    decoder: np.ndarray | None = None
    encoder: np.ndarray | None = None
    trial: np.ndarray | None = None
    shown: str = "bins"
    table: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        n, n_latents = self.columns.n_rows, self.columns.n_latents
        rises = (
            len(self.time) == n and np.isfinite(self.time).all() and (np.diff(self.time) > 0).all()
        )
        if not rises:
            raise DataError(
                f"{len(self.time)} times for {n} bins: give the start of each bin, rising, of one "
                "session"
            )
        for variable in self.variables:
            if len(variable.group) != n:
                raise DataError(
                    f"{variable.name} is known on {len(variable.group)} bins, the latents on {n}: "
                    "make variables of the same store"
                )
        for name in ("decoder", "encoder"):
            weights = getattr(self, name)
            if weights is None:
                continue
            shape = (len(weights), weights.shape[-1])
            if weights.ndim not in (2, 3) or shape != (n_latents, len(self.spiking.units)):
                raise DataError(
                    f"the {name} has shape {weights.shape} for {n_latents} latents and "
                    f"{len(self.spiking.units)} units"
                )

    @cached_property
    def by_name(self) -> dict[str, Variable]:
        """Variables by name."""
        return self.following.by_name

    @cached_property
    def following(self) -> Following:
        """The variables, and what their tuning would be by chance."""
        return Following(self.variables, self.time, self.bin_size_s, self.trial)

    def moments(self, latent: int, n: int = N_MOMENTS) -> np.ndarray:
        """Rows of the largest activity, half a second apart or more, largest first [≤ n]."""
        rows, values = self.columns.active(latent)
        left, chosen = values.astype(float), []
        while len(chosen) < n and len(left) and left.max() > 0:
            chosen.append(int(rows[left.argmax()]))
            left[np.abs(self.time[rows] - self.time[chosen[-1]]) < APART_S] = 0.0
        return np.array(chosen, dtype=np.int64)

    def over_time(self, latent: int) -> OverTime:
        """Activity over the whole time, in pixels."""
        edges, pixel, n_bins = self._pixels
        rows, values = self.columns.of(latent)
        low, high = np.zeros((2, N_PIXELS))
        # Rows rise, and so do their pixels.
        begins = np.flatnonzero(np.diff(pixel[rows], prepend=-1))
        if len(begins):
            at = pixel[rows[begins]]
            high[at] = np.maximum.reduceat(values, begins)
            low[at] = np.minimum.reduceat(values, begins)
            some_zero = np.diff(begins, append=len(rows)) < n_bins[at]
            high[at] = np.where(some_zero, high[at].clip(min=0), high[at])
            low[at] = np.where(some_zero, low[at].clip(max=0), low[at])
        low[n_bins == 0], high[n_bins == 0] = np.nan, np.nan
        moments = self.moments(latent)
        return OverTime(
            edges, low, high, self.time[moments], self.columns.dense(latent)[moments],
            float(self.columns.density[latent]),
        )  # fmt: skip

    def over_trials(self, latent: int, variable: str | None) -> OverTrials | None:
        """Activity around an event; around another event of the file where `variable` is none."""
        event = self.following.event_for(variable)
        if event is None:
            return None
        grid = self.following.grid(event)
        order = np.argsort(grid.label, kind="stable")
        activity = grid.matrix(*self.columns.of(latent))[order]
        return OverTrials(grid.event, grid.conditions, grid.lags_s, activity, grid.label[order])

    def tuning(self, latent: int, variable: str) -> Tuning:
        """Mean activity over a variable, with its null band; see `Following`."""
        return self.following.tuning(self.columns, latent, variable)

    def weights(self, latent: int) -> Weights | None:
        """Decoder weights over units, by region where known; None without a decoder."""
        if self.decoder is None:
            return None
        own = self.decoder[latent]
        per_lag, of = own if own.ndim == 2 else None, "decoder"
        if per_lag is None and self.encoder is not None:
            per_lag, of = self.encoder[latent], "encoder"
        values = self._strongest(own)
        order = np.argsort(-values, kind="stable")
        regions = self.spiking.regions
        if regions is not None:
            order = order[np.argsort(np.asarray(regions)[order], kind="stable")]
        return Weights(
            units=[self.spiking.units[i] for i in order],
            regions=None if regions is None else [regions[i] for i in order],
            values=values[order],
            per_lag=None if per_lag is None else per_lag[:, order],
            per_lag_of=of,
        )

    def around_moments(self, latent: int) -> Moments:
        """Counts of the top units around the strongest moments."""
        moments = self.moments(latent)
        # Without spikes every count would be 0, which is not what is known.
        top = self.top_units(latent) if self.spiking.has_spikes else np.empty(0, np.int64)
        reach = max(2, round(AROUND_S / self.bin_size_s))
        lags = np.arange(-reach, reach + 1) * self.bin_size_s
        counts = np.zeros((len(moments), len(top), len(lags)))
        for i, row in enumerate(moments):
            edges = self.time[row] + np.append(lags, lags[-1] + self.bin_size_s)
            counts[i] = self.spiking.counts_between(top, edges)
        names = [self.spiking.units[int(i)] for i in top]
        return Moments(names, self.time[moments], self.columns.dense(latent)[moments], counts, lags)

    def closeup(self, latent: int, moment: int = 0) -> Closeup | None:
        """Activity and spikes around one of the strongest moments; None where there are none."""
        moments = self.moments(latent)
        if not len(moments):
            return None
        row, width = moments[min(moment, len(moments) - 1)], self.bin_size_s
        reach = max(FEWEST_BINS_CLOSE, round(CLOSE_S / width))
        edges = self.time[row] + np.arange(-reach, reach + 2) * width
        near = np.arange(*np.searchsorted(self.time, [edges[0] - width / 2, edges[-1] - width / 2]))
        activity = np.full(len(edges) - 1, np.nan)
        bins = np.round((self.time[near] - edges[0]) / width).astype(int)
        activity[bins] = self.columns.dense(latent)[near]
        top = self.top_units(latent)
        trains = self.spiking.trains_between(top, edges[0], edges[-1])
        counts = None if trains is not None else self.spiking.counts_between(top, edges)
        known = self.spiking.has_spikes and len(top) > 0
        return Closeup(
            time_s=float(self.time[row]),
            edges=edges,
            activity=activity,
            units=[self.spiking.units[i] for i in top],
            spikes=trains if known else None,
            counts=counts if known else None,
        )

    def top_units(self, latent: int) -> np.ndarray:
        """Units with the largest weights [≤ 10]; none without a decoder."""
        if self.decoder is None:
            return np.empty(0, dtype=np.int64)
        values = np.abs(self._strongest(self.decoder[latent]))
        return np.argsort(-values, kind="stable")[:N_TOP_UNITS]

    def coactive(self, latent: int, n: int = N_COACTIVE) -> pd.DataFrame:
        """The latents most often active together with this one; see `LatentColumns.coactive`."""
        return self.columns.coactive(latent).head(n)

    @staticmethod
    def _strongest(weights: np.ndarray) -> np.ndarray:
        if weights.ndim == 1:
            return weights
        lag = np.abs(weights).argmax(axis=0)
        return weights[lag, np.arange(weights.shape[1])]

    @cached_property
    def _pixels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Borders of the pixels, pixel of each bin, bins per pixel."""
        end = self.time[-1] + self.bin_size_s
        edges = np.linspace(self.time[0], end, N_PIXELS + 1)
        pixel = np.minimum(np.searchsorted(edges, self.time, side="right") - 1, N_PIXELS - 1)
        return edges, pixel, np.bincount(pixel, minlength=N_PIXELS)
