"""The run doctor: detectors that name what is wrong with a run, from measured evidence."""

from saebook.training.doctor.budget import check_budget, check_schedule
from saebook.training.doctor.diagnosing import Watch, diagnose, examine, gather
from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Diagnosis, Finding
from saebook.training.doctor.numbers import describe_bad_batch, first_bad_step
from saebook.training.doctor.registry import DETECTORS, Detector
from saebook.training.doctor.rows import RowScores, score_rows

__all__ = [
    "DETECTORS",
    "Detector",
    "Diagnosis",
    "Evidence",
    "Finding",
    "RowScores",
    "Watch",
    "check_budget",
    "check_schedule",
    "describe_bad_batch",
    "diagnose",
    "examine",
    "first_bad_step",
    "gather",
    "score_rows",
]
