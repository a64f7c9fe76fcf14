"""All detectors: one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from saebook.training.doctor import (
    budget,
    coefficient,
    collapse,
    decoder,
    inference,
    inputs,
    numbers,
    quality,
    sparsity,
)
from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Finding


@dataclass(frozen=True)
class Detector:
    """A check, what it needs, and whether it can be asked while training goes on.

    Attributes
    ----------
    check
        From evidence to a finding, or None; pure, and quick.
    needs
        Names of fields of the evidence without which it can't tell.
    live
        Whether the history so far is enough to ask it.
    """

    check: Callable[[Evidence], Finding | None]
    needs: tuple[str, ...] = ()
    live: bool = False


DETECTORS: dict[str, Detector] = {
    "not_finite": Detector(numbers.not_finite, live=True),
    "silent": Detector(collapse.silent, live=True),
    "other_weights": Detector(inference.other_weights),
    "batch_dependent": Detector(inference.batch_dependent, ("training",)),
    "inference_differs": Detector(inference.inference_differs, ("training",)),
    "worse_than_mean": Detector(quality.worse_than_mean, live=True),
    "barely_trained": Detector(budget.barely_trained, ("train",)),
    "inputs_off_scale": Detector(inputs.inputs_off_scale, ("training",)),
    "extreme_rows": Detector(inputs.extreme_rows, ("training",)),
    "coefficient_off_scale": Detector(coefficient.coefficient_off_scale, ("sae",), live=True),
    "l0_away_from_target": Detector(sparsity.l0_away_from_target),
    "dead": Detector(collapse.dead, live=True),
    "dense": Detector(sparsity.dense, ("training",)),
    "leaks": Detector(sparsity.leaks, ("training",)),
    "decoder_norms": Detector(decoder.decoder_norms, live=True),
    "duplicates": Detector(decoder.duplicates, ("training",)),
    "validation_drift": Detector(quality.validation_drift, ("training", "held_out")),
    "identity": Detector(quality.identity),
    "raw_units": Detector(quality.raw_units),
    "constant": Detector(quality.constant),
}
