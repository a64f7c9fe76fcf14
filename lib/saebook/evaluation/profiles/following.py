"""What a latent follows, and what the same curve would be by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from saebook.data.spikes.session import decorrelation_lag
from saebook.evaluation.profiles.bands import (
    FEWEST_DRAWS,
    NullBand,
    permuted_band,
    shifted_band,
    shifted_curves,
)
from saebook.evaluation.profiles.columns import LatentColumns
from saebook.evaluation.profiles.pieces import Tuning
from saebook.evaluation.profiles.trials import EventGrid, labelled_runs
from saebook.evaluation.variables import Variable


class Following:
    """Variables on the bins of some latents; trials and autocorrelation times are kept.

    Parameters
    ----------
    variables : sequence of Variable
        Over the bins.
    time : ndarray
        [n] start of each bin, s.
    bin_size_s : float
        Width of a bin, s.
    trial : ndarray, optional
        [n] trial of each bin, -1 outside any.

    Examples
    --------
    >>> step = np.arange(400) // 2 % 4
    >>> phase = Variable("phase", "continuous", step * 1.0, step, np.arange(4.0))
    >>> following = Following([phase], np.arange(400.0), 1.0)
    >>> columns = LatentColumns.of_matrix((step == 2)[:, None] * 1.0)
    >>> following.tuning(columns, 0, "phase").curves.tolist()
    [[0.0, 0.0, 1.0, 0.0]]
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        time: np.ndarray,
        bin_size_s: float,
        trial: np.ndarray | None = None,
    ) -> None:
        self.by_name = {variable.name: variable for variable in variables}
        self._time, self._bin_size_s, self._trial = time, bin_size_s, trial
        self._grids: dict[str, EventGrid] = {}
        self._paces: dict[str, int] = {}

    def event_for(self, variable: str | None) -> str | None:
        """The event that trials are aligned to: the variable itself, or one split by conditions."""
        chosen = self.by_name.get(variable or "")
        if chosen is not None and chosen.kind == "event":
            return chosen.name
        events = [v for v in self.by_name.values() if v.kind == "event" and (v.group >= 0).any()]

        def telling(event: Variable) -> tuple[bool, bool]:
            # Most trials start before anything happens in them.
            return len(event.conditions) > 0, not event.name.startswith("start")

        return max(events, key=telling).name if events else None

    def grid(self, event: str) -> EventGrid:
        """Trials around an event."""
        if event not in self._grids:
            self._grids[event] = EventGrid.of(self.by_name[event], self._time, self._bin_size_s)
        return self._grids[event]

    def tuning(self, columns: LatentColumns, latent: int, variable: str) -> Tuning:
        """Mean activity over a variable, with its null band.

        Time from an event is set against circular shifts, or, where conditions split it, against
        labels permuted among neighbouring trials; so are categories. Everything else is set against circular
        shifts among the bins where it is known, of at least twice the autocorrelation time.
        """
        about = self.by_name[variable]
        named = about.kind == "categorical"
        n_groups = len(about.centres) if named else about.n_groups
        rows, values = columns.of(latent)
        curves = shifted_curves(rows, values, about.group, n_groups, [0])
        curves = curves.reshape(-1, len(about.centres))
        if not columns.n_active[latent]:
            return Tuning(about, curves, None, "never active")
        if named or len(about.conditions) > 1:
            band = self._permuted(about, rows, values)
            return Tuning(about, curves, band, "" if band else "too few trials to permute")
        # Windows around events follow one another once what lies between is cut out, so shifts
        # among them alone would bring every trial back into place.
        known = about.group >= 0 if about.kind != "event" else np.ones(len(about.group), bool)
        place = np.cumsum(known) - 1
        rows, values = rows[known[rows]], values[known[rows]]
        shortest = 2 * max(
            self._pace_of(about, known), decorrelation_lag(columns.dense(latent)[known])
        )
        band = shifted_band(
            place[rows], values, about.group[known], about.n_groups, shortest=shortest
        )
        why = "" if band else f"fewer than {FEWEST_DRAWS} shifts beyond the autocorrelation time"
        return Tuning(about, curves, band, why)

    def _pace_of(self, variable: Variable, known: np.ndarray) -> int:
        """Autocorrelation time of a variable, bins; of an event that of the step of its window."""
        if variable.name not in self._paces:
            values = variable.group[known] if variable.kind == "event" else variable.values[known]
            finite = np.isfinite(values)
            self._paces[variable.name] = decorrelation_lag(values[finite])
        return self._paces[variable.name]

    def _permuted(self, about: Variable, rows: np.ndarray, values: np.ndarray) -> NullBand | None:
        """Band of labels permuted over trials, or over the stretches of one category."""
        if about.kind == "categorical":
            own = getattr(about, "trial", None)
            of = labelled_runs(about.group, self._trial if own is None else own)
            label = np.zeros(of.max(initial=-1) + 1, dtype=np.int64)
            label[of[of >= 0]] = about.group[of >= 0]
            n_steps, step = 1, np.zeros(len(of), dtype=np.int64)
        else:
            grid = self.grid(about.name)
            of, label, n_steps = grid.trial, grid.label, len(about.centres)
            step = about.group % n_steps
        inside, size = of[rows] >= 0, len(label) * n_steps
        rows, values, every = rows[inside], values[inside], of >= 0
        sums = np.bincount(of[rows] * n_steps + step[rows], values, minlength=size)
        counts = np.bincount(of[every] * n_steps + step[every], minlength=size)
        shape, n_labels = (len(label), n_steps), int(label.max(initial=0)) + 1
        band = permuted_band(sums.reshape(shape), counts.reshape(shape), label, n_labels)
        if band is None or about.kind != "categorical":
            return band
        # One level for every category.
        ends = {"low": band.low.repeat(len(about.centres))}
        return replace(band, high=band.high.repeat(len(about.centres)), **ends)
