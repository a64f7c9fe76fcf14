"""Methods compared: the same counts, splits, held-out units and readouts for all of them."""

from saebook.evaluation.comparison.building import recorded_comparison, simulated_comparison
from saebook.evaluation.comparison.co_smoothing import READOUTS, CoSmoothing, fit_co_smoothing
from saebook.evaluation.comparison.comparing import compare_methods, kept_latents
from saebook.evaluation.comparison.data import ComparisonData, cut_stretches, hold_out_units
from saebook.evaluation.comparison.scoring import SCORES, Scored, score_method
from saebook.evaluation.comparison.summary import (
    GROUPS,
    consistency_table,
    groups,
    paired_difference,
    summarise,
)

__all__ = [
    "GROUPS",
    "READOUTS",
    "SCORES",
    "CoSmoothing",
    "ComparisonData",
    "Scored",
    "compare_methods",
    "consistency_table",
    "cut_stretches",
    "fit_co_smoothing",
    "groups",
    "hold_out_units",
    "kept_latents",
    "paired_difference",
    "recorded_comparison",
    "score_method",
    "simulated_comparison",
    "summarise",
]
