"""Reconstructions that are worse than they look, and what the score card already says."""

from __future__ import annotations

import math
from collections.abc import Callable

from saebook.training.doctor.evidence import LATE, Evidence
from saebook.training.doctor.finding import Finding, Severity

DRIFT = 0.05
DRIFT_SPREADS = 3.0
MEAN_PREDICTOR = 1.0
# Before there is a card: a log is of one batch, whose FVU alone says little.
FEWEST_LOGS = 5


def worse_than_mean(evidence: Evidence) -> Finding | None:
    """Find reconstructions that the mean of the data would beat."""
    found = evidence.card.get("fvu")
    if found is None and not evidence.card:
        logged = evidence.column("fvu")
        found = float(logged.iloc[-max(FEWEST_LOGS, round(LATE * len(logged))) :].median())
    if found is None or math.isnan(found) or found < MEAN_PREDICTOR:
        return None
    return Finding(
        "worse_than_mean",
        "error",
        f"FVU is {found:.3g}, explained variance {1 - found:.3g}; the mean of the data has 1 "
        f"and 0 (late in training: FVU {evidence.late('fvu'):.3g})",
        "the reconstruction is wrong in size or offset, nothing was learned, or other weights "
        "or rows are being scored",
        "score the training rows first, compare the means of x and its reconstruction, then "
        "look at the learning rate",
    )


def validation_drift(evidence: Evidence) -> Finding | None:
    """Find held-out rows that are reconstructed worse than blocks of training rows differ."""
    rows, held_out = evidence.training, evidence.held_out
    if rows is None or held_out is None:
        return None
    n = max(1, len(held_out.block_fvu))
    noise = math.hypot(
        rows.block_spread / math.sqrt(max(1, len(rows.block_fvu))),
        max(rows.block_spread, held_out.block_spread) / math.sqrt(n),
    )
    gap = held_out.fvu - rows.fvu
    if not gap > max(DRIFT, DRIFT_SPREADS * noise):
        return None
    return Finding(
        "validation_drift",
        "warning",
        f"FVU is {rows.fvu:.3f} on training rows and {held_out.fvu:.3f} on held-out ones; between "
        f"blocks of training rows it varies by {rows.block_spread:.3f} (SD)",
        "the held-out rows are unlike the training rows (drift, another session, a unit lost or "
        f"rescaled), or {rows.n_examples:,} rows or fewer were learnt by heart",
        "plot FVU over time; train on blocks from the whole recording, with more rows or fewer "
        "latents",
    )


def flag_of_card(
    name: str, cause: str, remedy: str, severity: Severity = "warning"
) -> Callable[[Evidence], Finding | None]:
    """A detector that passes on one flag of the score card."""

    def detector(evidence: Evidence) -> Finding | None:
        sentence = evidence.card.get("flags", {}).get(name)
        if sentence is None:
            return None
        return Finding(name, severity, sentence.split(": ")[0], cause, remedy)

    detector.__doc__ = f"Pass on the score card's flag {name!r}."
    return detector


identity = flag_of_card(
    "identity",
    "the dictionary is wide enough, and L0 high enough, to copy its input",
    "score held-out units, recovery of known features or decoding, or lower k",
)
raw_units = flag_of_card(
    "raw_units",
    "with so few active units per bin, copying is as good as any code",
    "judge by held-out units, recovery or decoding rather than by FVU",
    "note",
)
constant = flag_of_card(
    "constant", "the rows that were scored do not vary", "check which rows were given", "error"
)
