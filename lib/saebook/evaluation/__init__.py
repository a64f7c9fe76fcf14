"""Judging SAEs: score cards, the controls they stand against, recovery of planted truth."""

from saebook.evaluation.controls import (
    PCAControl,
    ShuffleControl,
    control_table,
    pca_control,
    raw_unit_control,
    shuffle_control,
    shuffle_units,
)
from saebook.evaluation.fields import FieldRecovery, recover_fields
from saebook.evaluation.random_dictionary import (
    RandomDictionary,
    RandomDictionaryControl,
    random_dictionary_control,
)
from saebook.evaluation.recovery import (
    ActivityRecovery,
    Recovery,
    decoder_directions,
    recover_activity,
    recover_features,
)
from saebook.evaluation.scorecard import evaluate
from saebook.evaluation.temporal import Consistency, consistency, temporal_consistency
from saebook.evaluation.temporal_clock import ClockScore, decode_clock
from saebook.evaluation.temporal_matching import compare_at_fvu, paired_intervals, score_at_fvu
from saebook.evaluation.temporal_recovery import score_slow_fast
from saebook.evaluation.tuning import (
    TuningScore,
    score_tuning,
    tuning_curves,
    tuning_r2,
    tuning_table,
)
from saebook.evaluation.variables import Variable, candidate_variables
from saebook.metrics import ScoreCard

__all__ = [
    "ActivityRecovery",
    "ClockScore",
    "Consistency",
    "FieldRecovery",
    "PCAControl",
    "RandomDictionary",
    "RandomDictionaryControl",
    "Recovery",
    "ScoreCard",
    "ShuffleControl",
    "TuningScore",
    "Variable",
    "candidate_variables",
    "compare_at_fvu",
    "consistency",
    "control_table",
    "decode_clock",
    "decoder_directions",
    "evaluate",
    "paired_intervals",
    "pca_control",
    "random_dictionary_control",
    "raw_unit_control",
    "recover_activity",
    "recover_features",
    "recover_fields",
    "score_at_fvu",
    "score_slow_fast",
    "score_tuning",
    "shuffle_control",
    "shuffle_units",
    "temporal_consistency",
    "tuning_curves",
    "tuning_r2",
    "tuning_table",
]
