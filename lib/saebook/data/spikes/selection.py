"""Choose the units that are good enough, and say why for each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from saebook.data.spikes.quality import (
    compare_with_file,
    contamination_llobet,
    isi_violations_fraction,
    isi_violations_ratio,
    measure_units,
    observed_pieces,
    poisson_interval,
    sorter_labels,
)
from saebook.data.spikes.recording import Recording
from saebook.errors import ConfigError, SelectionError

RATE_GUIDANCE = "hippocampus 0.05 Hz, cortex 0.5 Hz"
_METRICS = {
    "ratio": "isi_violations_ratio",
    "fraction": "isi_violations_fraction",
    "contamination": "contamination",
}


@dataclass(frozen=True)
class UnitCriteria:
    """Rules that a unit has to pass. None switches a rule off.

    Attributes
    ----------
    min_rate_hz
        Lowest mean rate, Hz. It depends on the area: many principal cells of hippocampus fire
        below 0.5 Hz on average and only in their place field, so take about 0.05 Hz there;
        0.5 Hz is usual in cortex.
    max_isi_violations
        Highest value of `isi_metric`.
    isi_threshold_s
        Refractory period, s.
    isi_metric
        "ratio" (Hill/UMS), "fraction" of intervals, or "contamination" (Llobet).
    min_presence_ratio
        Lowest share of the recording's parts in which the unit fires.
    labels
        Sorter labels to keep, in any case; the rule holds only where the file has labels.
    undecided
        In short or quiet recordings, one violation by chance exceeds any limit. So the violation
        count's 95 % Poisson interval decides: wholly below the limit passes, wholly above fails,
        and in between is undecided, which this keeps ("keep") or drops ("drop").

    Raises
    ------
    ConfigError
        A value that can't be.

    Examples
    --------
    >>> UnitCriteria(min_rate_hz=0.05, labels=None).isi_metric
    'ratio'
    """

    min_rate_hz: float | None = 0.5
    max_isi_violations: float | None = 0.1
    isi_threshold_s: float = 0.002
    isi_metric: Literal["ratio", "fraction", "contamination"] = "ratio"
    min_presence_ratio: float | None = None
    labels: tuple[str, ...] | None = ("good",)
    undecided: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        for name in ("min_rate_hz", "max_isi_violations", "isi_threshold_s", "min_presence_ratio"):
            value = getattr(self, name)
            if value is None and name != "isi_threshold_s":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise ConfigError(f"{name}={value!r}: give a number, or None for no rule")
            if not np.isfinite(value) or value < 0:
                raise ConfigError(f"{name}={value!r}: give a number of at least 0")
        if self.isi_threshold_s == 0:
            raise ConfigError("isi_threshold_s=0: give the refractory period in s, such as 0.002")
        if self.min_presence_ratio is not None and self.min_presence_ratio > 1:
            raise ConfigError(f"min_presence_ratio={self.min_presence_ratio}: a share is at most 1")
        if self.isi_metric not in _METRICS:
            raise ConfigError(f"isi_metric={self.isi_metric!r}: one of {', '.join(_METRICS)}")
        if self.undecided not in ("keep", "drop"):
            raise ConfigError(f'undecided={self.undecided!r}: give "keep" or "drop"')
        if self.labels is not None:
            if isinstance(self.labels, str):
                raise ConfigError(
                    f"labels={self.labels!r}: give a tuple, such as ({self.labels!r},)"
                )
            if not all(isinstance(label, str) for label in self.labels):
                raise ConfigError(f"labels={self.labels!r}: labels are texts")
            object.__setattr__(self, "labels", tuple(self.labels))

    def to_dict(self) -> dict[str, object]:
        """Return the criteria as plain values, for provenance."""
        return dataclasses.asdict(self)


def select_units(
    recording: Recording, criteria: UnitCriteria | None = None
) -> tuple[Recording, pd.DataFrame]:
    """Keep the units that pass every rule, and say for each unit why.

    Everything is computed from the spike trains; where the file has its own column of a measure
    and it disagrees, that is a warning, and the computed value counts.

    Parameters
    ----------
    recording
        From `read_recording`, say.
    criteria
        The rules; `UnitCriteria()` unless given.

    Returns
    -------
    recording
        With the kept units only; trains are shared, not copied.
    quality
        One row per unit of the file, in file order, faulty ones included. Index `unit`; columns
        as from `measure_units`, then `label` ("" without), `verdict` on ISI violations (pass,
        fail, undecided; "faulty" for a train that can't be used), `kept` and `reason`.

    Raises
    ------
    SelectionError
        No unit is left; the message says which rule removed how many, and what would bring
        units back.

    Examples
    --------
    >>> regular = np.arange(0.0, 100.0, 0.05)
    >>> doublets = np.sort(np.concatenate([regular, regular + 0.001]))
    >>> recording = Recording.from_spike_times([regular, doublets, [3.0, 4.0]], interval=(0, 100))
    >>> kept, quality = select_units(recording)
    >>> quality["reason"].tolist()
    ['passes every rule', 'ISI violations ratio 3.12 over 0.1', 'rate 0.02 Hz under 0.5 Hz']
    """
    criteria = criteria or UnitCriteria()
    quality = measure_units(recording, criteria.isi_threshold_s)
    duration_s = float(np.diff(observed_pieces(recording)).sum())
    compare_with_file(quality, recording.units, recording.source)
    labels = sorter_labels(recording.units, criteria.labels or ())
    quality["label"] = "" if labels is None else labels.to_numpy(object)
    quality["verdict"] = _verdicts(quality, criteria, duration_s)
    removed = _rules(quality, criteria, has_labels=labels is not None)
    kept = np.ones(len(quality), bool)
    for mask, _ in removed.values():
        kept &= ~mask
    quality["kept"] = kept
    quality["reason"] = _reasons(quality, removed)
    if not kept.any():
        raise SelectionError(_nothing_left(recording, quality, criteria, removed))
    return recording.keep(kept), _with_faults(quality, recording.faults)


def _verdicts(quality: pd.DataFrame, criteria: UnitCriteria, duration_s: float) -> np.ndarray:
    limit = np.inf if criteria.max_isi_violations is None else criteria.max_isi_violations
    n = quality["n_spikes"].to_numpy()
    ends = []
    for mean in poisson_interval(quality["n_violations"].to_numpy()):
        if criteria.isi_metric == "fraction":
            # Without an interval there is no fraction, so nothing is decided.
            share = isi_violations_fraction(mean, n)
            ends.append(np.where(np.isnan(share), [-np.inf, np.inf][len(ends)], share))
        elif criteria.isi_metric == "ratio":
            ends.append(isi_violations_ratio(mean, n, duration_s, criteria.isi_threshold_s))
        else:
            ends.append(contamination_llobet(mean, n, duration_s, criteria.isi_threshold_s))
    low, high = ends
    return np.where(high <= limit, "pass", np.where(low > limit, "fail", "undecided")).astype(
        object
    )


def _rules(
    quality: pd.DataFrame, criteria: UnitCriteria, has_labels: bool
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Return, for each rule in force, which units it removes and the reason of each unit."""
    rules: dict[str, tuple[np.ndarray, list[str]]] = {}
    if criteria.min_rate_hz is not None:
        rate = quality["rate_hz"].to_numpy()
        rules["min_rate_hz"] = (
            rate < criteria.min_rate_hz,
            [f"rate {value:.3g} Hz under {criteria.min_rate_hz:g} Hz" for value in rate],
        )
    if criteria.max_isi_violations is not None:
        verdict = quality["verdict"].to_numpy()
        fails = verdict == "fail"
        if criteria.undecided == "drop":
            fails = fails | (verdict == "undecided")
        name = criteria.isi_metric
        rules["max_isi_violations"] = (
            fails,
            [
                f"ISI violations {name} {value:.3g} "
                + (
                    f"over {criteria.max_isi_violations:g}"
                    if word == "fail"
                    else f"undecided at {criteria.max_isi_violations:g} ({n} seen)"
                )
                for value, word, n in zip(
                    quality[_METRICS[name]], verdict, quality["n_violations"], strict=True
                )
            ],
        )
    if criteria.min_presence_ratio is not None:
        presence = quality["presence_ratio"].to_numpy()
        rules["min_presence_ratio"] = (
            presence < criteria.min_presence_ratio,
            [f"presence ratio {v:.3g} under {criteria.min_presence_ratio:g}" for v in presence],
        )
    if criteria.labels is not None and has_labels:
        wanted = [label.strip().lower() for label in criteria.labels]
        rules["labels"] = (
            ~quality["label"].isin(wanted).to_numpy(),
            [
                (f"label {label!r}" if label else "no label") + f", not {' or '.join(wanted)}"
                for label in quality["label"]
            ],
        )
    return rules


def _reasons(quality: pd.DataFrame, removed: dict[str, tuple[np.ndarray, list[str]]]) -> list[str]:
    reasons = []
    for i, verdict in enumerate(quality["verdict"]):
        failed = [texts[i] for mask, texts in removed.values() if mask[i]]
        if failed:
            reasons.append("; ".join(failed))
        elif verdict == "undecided" and "max_isi_violations" in removed:
            n = int(quality["n_violations"].iloc[i])
            reasons.append(f"passes, with too few spikes to decide on ISI violations ({n} seen)")
        else:
            reasons.append("passes every rule")
    return reasons


def _with_faults(quality: pd.DataFrame, faults: pd.DataFrame) -> pd.DataFrame:
    if len(faults):
        rows = pd.DataFrame(index=faults.index, columns=quality.columns)
        rows["file_row"] = faults["file_row"]
        rows["label"], rows["verdict"], rows["kept"] = "", "faulty", False
        rows["reason"] = faults["reason"]
        for name in ("n_spikes", "n_violations"):
            quality[name] = quality[name].astype("Int64")
        quality = pd.concat([quality, rows.astype(quality.dtypes.to_dict())])
    quality = quality.sort_values("file_row", kind="stable")
    quality.index.name = "unit"
    return quality


def _nothing_left(
    recording: Recording,
    quality: pd.DataFrame,
    criteria: UnitCriteria,
    removed: dict[str, tuple[np.ndarray, list[str]]],
) -> str:
    masks = {name: mask for name, (mask, _) in removed.items()}
    parts = []
    for name, mask in masks.items():
        others = [other for key, other in masks.items() if key != name]
        alone = int((~np.any(others, axis=0)).sum()) if others else len(quality)
        if not mask.any():
            continue
        part = f"{name}={getattr(criteria, name)} removed {int(mask.sum())}"
        part += f" (without it {alone} would stay)"
        if name == "min_rate_hz":
            part += (
                f"; the highest rate is {quality['rate_hz'].max():.3g} Hz, and the floor depends "
                f"on the area ({RATE_GUIDANCE})"
            )
        if name == "labels":
            counts = quality["label"].replace("", "(empty)").value_counts()
            part += "; the file has " + ", ".join(f"{n} {label}" for label, n in counts.items())
        parts.append(part)
    faults = f" (beside {len(recording.faults)} faulty)" if len(recording.faults) else ""
    return (
        f"{recording.source}: none of its {len(quality)} usable units{faults} passes every rule. "
        + ". ".join(parts)
        + ". Loosen a rule in UnitCriteria; None switches it off."
    )
