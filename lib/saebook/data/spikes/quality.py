"""How good each unit is: rate, violations of the refractory period, presence, sorter label.

A neuron can't fire twice within its refractory period, so intervals shorter than that are
spikes of something else. Three numbers say how many: their plain fraction, the ratio of Hill et
al. (2011), which allows for how many would be expected at this rate, and the contamination of
Llobet et al. (2022). All come from the trains; a file's own columns are only compared with them.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import gammaincinv

from saebook.data.spikes.recording import Recording
from saebook.errors import DataError, RecordingWarning

# Presence is asked of 100 parts of the recording, none shorter than this.
MOST_SEGMENTS = 100
SHORTEST_SEGMENT_S = 10.0
# Curated columns come before the sorter's own guess: the first that decides for a unit counts.
LABEL_COLUMNS = ("quality", "group", "label", "KSLabel")
LABEL_WORDS = frozenset(
    [
        "good",
        "mua",
        "multi",
        "noise",
        "su",
        "sua",
        "single",
        "unsorted",
        "uncurated",
        "unlabeled",
        "unlabelled",
        "artifact",
    ]
)
UNDECIDED_WORDS = frozenset(("", "nan", "none", "unsorted", "uncurated", "unlabeled", "unlabelled"))


def isi_violations_fraction(n_violations: ArrayLike, n_spikes: ArrayLike) -> np.ndarray:
    """Return the share of intervals between spikes that are too short.

    Parameters
    ----------
    n_violations
        Number of intervals shorter than the threshold, per unit.
    n_spikes
        Number of spikes, per unit. With fewer than 2 there is no interval, and no answer: NaN.

    Examples
    --------
    >>> isi_violations_fraction([1, 0], [101, 1])
    array([0.01,  nan])
    """
    short, spikes = np.asarray(n_violations, float), np.asarray(n_spikes, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spikes > 1, short / (spikes - 1), np.nan)


def isi_violations_ratio(
    n_violations: ArrayLike,
    n_spikes: ArrayLike,
    duration_s: float,
    isi_threshold_s: float = 0.002,
) -> np.ndarray:
    """Return violations per what a train at this rate could hold: ``n_v T / (2 N² t_r)``.

    A Poisson train, which has no refractory period, scores 0.5 on average, at any rate.

    Parameters
    ----------
    n_violations
        Number n_v of intervals shorter than t_r, per unit.
    n_spikes
        Number N of spikes, per unit; 0 gives NaN.
    duration_s
        Time T in which they were observed, s.
    isi_threshold_s
        Refractory period t_r, s.

    Source
    ------
    Hill, Mehta & Kleinfeld, J. Neurosci. 31 (2011) 8699, as computed by UltraMegaSort.

    Examples
    --------
    >>> isi_violations_ratio(10, 1000, duration_s=100.0)
    array(0.25)
    """
    short, spikes = np.asarray(n_violations, float), np.asarray(n_spikes, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = short * duration_s / (2 * spikes**2 * isi_threshold_s)
    return np.where(spikes > 0, ratio, np.nan)


def contamination_llobet(
    n_violations: ArrayLike,
    n_spikes: ArrayLike,
    duration_s: float,
    isi_threshold_s: float = 0.002,
) -> np.ndarray:
    """Return the share of spikes that come from many other neurons: ``1 - √(1 - n_v T / (N² t_r))``.

    More violations than a train of nothing but foreign spikes would have give 1, where the
    formula has no answer. Violations are intervals here and pairs of spikes in the source;
    these differ only where several spikes fall within one refractory period.

    Parameters
    ----------
    n_violations, n_spikes, duration_s, isi_threshold_s
        As for `isi_violations_ratio`.

    Source
    ------
    Llobet, Wyngaard & Barbour, bioRxiv 2022.02.08.479192 (homogeneous contamination).

    Examples
    --------
    >>> contamination_llobet([0, 15, 100], [1000, 1000, 1000], duration_s=100.0)
    array([0. , 0.5, 1. ])
    """
    share = 2 * isi_violations_ratio(n_violations, n_spikes, duration_s, isi_threshold_s)
    return 1 - np.sqrt(np.clip(1 - share, 0, None))


def poisson_interval(n: ArrayLike, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact (Garwood) interval of the mean of a Poisson count.

    Parameters
    ----------
    n
        Counts.
    confidence
        Probability that the interval holds the mean, at least.

    Source
    ------
    Garwood, Biometrika 28 (1936) 437.

    Examples
    --------
    >>> low, high = poisson_interval([0, 1])
    >>> low.round(3), high.round(3)
    (array([0.   , 0.025]), array([3.689, 5.572]))
    """
    count, tail = np.asarray(n, float), (1 - confidence) / 2
    low = np.where(count > 0, gammaincinv(np.maximum(count, 1), tail), 0.0)
    return low, gammaincinv(count + 1, 1 - tail)


def presence_ratio(times: np.ndarray, start: float, stop: float) -> float:
    """Return the share of a recording's parts in which a unit fires at all.

    The recording is divided into 100 equal parts, or fewer so that none is under 10 s.

    Parameters
    ----------
    times
        Spike times [n_spikes], s, sorted.
    start, stop
        What was observed, s.

    Raises
    ------
    DataError
        The times are not in order.

    Examples
    --------
    >>> presence_ratio(np.arange(0.0, 50.0, 0.1), 0.0, 100.0)
    0.5
    """
    if not (np.isfinite(start) and np.isfinite(stop) and start < stop):
        raise DataError(f"presence from {start} to {stop} s: give finite times with start < stop")
    n_parts = int(np.clip((stop - start) // SHORTEST_SEGMENT_S, 1, MOST_SEGMENTS))
    before = np.searchsorted(times, np.linspace(start, stop, n_parts + 1))
    # A spike at the very end belongs to the last part.
    before[-1] = np.searchsorted(times, stop, side="right")
    return float(np.mean(np.diff(before) > 0))


def observed_pieces(recording: Recording) -> np.ndarray:
    """Return the spans in which a recording was observed, [n, 2], s: one, unless it has gaps.

    Examples
    --------
    >>> observed_pieces(Recording.from_spike_times([[0.1]], interval=(0, 2)))
    array([[0., 2.]])
    """
    gaps = recording.intervals.get("obs_intervals")
    if gaps is not None and len(gaps):
        return gaps[["start_time", "stop_time"]].to_numpy(float)
    return np.array([[recording.interval.start, recording.interval.stop]])


def _within(times: np.ndarray, start: float, stop: float) -> tuple[int, int]:
    return int(np.searchsorted(times, start)), int(np.searchsorted(times, stop, side="right"))


def measure_units(recording: Recording, isi_threshold_s: float = 0.002) -> pd.DataFrame:
    """Measure every unit of a recording, from its train, within the observed interval.

    Parameters
    ----------
    recording
        From `read_recording`, say.
    isi_threshold_s
        Refractory period, s.

    Returns
    -------
    quality
        One row per usable unit, index as `recording.units`; columns file_row, n_spikes, rate_hz,
        n_violations, isi_violations_ratio with the ends of its 95 % Poisson interval (_low,
        _high), isi_violations_fraction, contamination, presence_ratio.

    Examples
    --------
    >>> recording = Recording.from_spike_times([[0.1, 0.4], [0.2]], interval=(0, 2))
    >>> measure_units(recording)["rate_hz"].tolist()
    [1.0, 0.5]
    """
    pieces = observed_pieces(recording)
    duration_s = float((pieces[:, 1] - pieces[:, 0]).sum())
    n_spikes, n_violations, presence = [], [], []
    for times in recording.spike_times:
        parts = [times[slice(*_within(times, start, stop))] for start, stop in pieces]
        n_spikes.append(sum(map(len, parts)))
        n_violations.append(
            sum(int(np.count_nonzero(np.diff(part) < isi_threshold_s)) for part in parts)
        )
        if len(parts) == 1:
            presence.append(presence_ratio(parts[0], *pieces[0]))
        else:
            # Presence runs on a clock that stands still where nothing was observed.
            elapsed = np.cumsum(pieces[:, 1] - pieces[:, 0])
            shifts = pieces[:, 1] - elapsed
            moved = np.concatenate([part - shift for part, shift in zip(parts, shifts)])
            presence.append(presence_ratio(moved, 0.0, duration_s))
    n, violations = np.array(n_spikes, np.int64), np.array(n_violations, np.int64)
    low, high = (
        isi_violations_ratio(mean, n, duration_s, isi_threshold_s)
        for mean in poisson_interval(violations)
    )
    return pd.DataFrame(
        {
            "file_row": recording.units["file_row"].to_numpy(),
            "n_spikes": n,
            "rate_hz": n / duration_s,
            "n_violations": violations,
            "isi_violations_ratio": isi_violations_ratio(
                violations, n, duration_s, isi_threshold_s
            ),
            "isi_violations_ratio_low": low,
            "isi_violations_ratio_high": high,
            "isi_violations_fraction": isi_violations_fraction(violations, n),
            "contamination": contamination_llobet(violations, n, duration_s, isi_threshold_s),
            "presence_ratio": np.array(presence, float),
        },
        index=recording.units.index,
    )


def sorter_labels(units: pd.DataFrame, words: Collection[str] = ()) -> pd.Series | None:
    """Return what the sorter or curator called each unit, or None where the file doesn't say.

    Columns named KSLabel, quality, group or label count where they hold at least one word that
    sorters use (good, mua, noise, …) or one of `words`; a `group` of numbers or of electrode
    groups does not. Where there are several, curated columns decide before KSLabel; an empty or
    "unsorted" value leaves the decision to the next.

    Parameters
    ----------
    units
        Table of units, one row each.
    words
        Further words to take for labels.

    Examples
    --------
    >>> sorter_labels(pd.DataFrame({"KSLabel": ["good", "mua"], "group": ["noise", ""]})).tolist()
    ['noise', 'mua']
    >>> sorter_labels(pd.DataFrame({"group": ["probe0", "probe1"]})) is None
    True
    """
    known = LABEL_WORDS | {word.lower() for word in words}
    lower = {str(name).lower(): name for name in units.columns}
    found: pd.Series | None = None
    for wanted in LABEL_COLUMNS:
        name = lower.get(wanted.lower())
        if name is None:
            continue
        values = units[name]
        if pd.api.types.is_numeric_dtype(values):
            continue
        texts = values.fillna("").astype(str).str.strip().str.lower()
        if not texts.isin(known).any():
            continue
        if found is None:
            found = texts
        else:
            found = found.where(~found.isin(UNDECIDED_WORDS) | texts.isin(UNDECIDED_WORDS), texts)
    return None if found is None else found.replace({"nan": "", "none": ""})


# Names that files use for what is measured here, and how far both may differ: in general
# (relative), and anyway (absolute).
_OWN_COLUMNS = {
    "rate_hz": (("firing_rate", "rate", "fr", "mean_firing_rate"), 0.05, 0.01),
    "presence_ratio": (("presence_ratio",), 0.05, 0.05),
    "n_spikes": (("n_spikes", "num_spikes", "spike_count"), 0.01, 1.0),
    "isi_violations": (
        ("isi_violations", "isi_violations_ratio", "isi_violations_fraction", "isi_viol"),
        0.05,
        0.01,
    ),
    "contamination": (("contamination", "rp_contamination"), 0.05, 0.01),
}
_ISI_MEASURES = ("isi_violations_fraction", "isi_violations_ratio", "contamination")


def compare_with_file(quality: pd.DataFrame, units: pd.DataFrame, source: str) -> list[str]:
    """Warn where the file's own quality columns disagree with what its trains give.

    A column of ISI violations may hold a fraction or a ratio: it is compared with whichever fits
    more units. NaN in the file is no disagreement.

    Parameters
    ----------
    quality
        From `measure_units`.
    units
        The file's table of units, same rows.
    source
        Path, for the message.

    Returns
    -------
    disagreements
        One message per column that disagrees; each was also a RecordingWarning.

    Examples
    --------
    >>> recording = Recording.from_spike_times(
    ...     [[0.1, 0.4]], interval=(0, 2), units=pd.DataFrame({"firing_rate": [1.0]})
    ... )
    >>> compare_with_file(measure_units(recording), recording.units, "arrays")
    []
    """
    messages = []
    for measure, (names, relative, absolute) in _OWN_COLUMNS.items():
        for name in names:
            if name not in units.columns or not pd.api.types.is_numeric_dtype(units[name]):
                continue
            stated = units[name].to_numpy(float)
            measures = _ISI_MEASURES if measure == "isi_violations" else (measure,)
            gaps = {m: np.abs(quality[m].to_numpy(float) - stated) for m in measures}
            far = {
                m: gap > np.maximum(absolute, relative * np.abs(stated)) for m, gap in gaps.items()
            }
            best = min(measures, key=lambda m: int(far[m].sum()))
            if not far[best].any():
                continue
            worst = int(np.argmax(np.where(far[best], gaps[best], -1)))
            messages.append(
                f"{source}: column {name} disagrees with the spike trains in "
                f"{int(far[best].sum())} of {len(units)} units (largest: unit "
                f"{units.index[worst]}, {stated[worst]:.4g} in the file, {best} "
                f"{quality[best].iloc[worst]:.4g} computed); the computed values are used"
            )
            warnings.warn(messages[-1], RecordingWarning, stacklevel=3)
    return messages
