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
from saebook.evaluation.language_card import (
    LanguageCard,
    SplicedLosses,
    TaskCard,
    language_table,
)
from saebook.evaluation.language_examples import top_examples
from saebook.evaluation.language_scores import score_language_model, score_spliced
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
    "FieldRecovery",
    "LanguageCard",
    "PCAControl",
    "RandomDictionary",
    "RandomDictionaryControl",
    "Recovery",
    "ScoreCard",
    "ShuffleControl",
    "SplicedLosses",
    "TaskCard",
    "TuningScore",
    "Variable",
    "candidate_variables",
    "control_table",
    "decoder_directions",
    "evaluate",
    "language_table",
    "pca_control",
    "random_dictionary_control",
    "raw_unit_control",
    "recover_activity",
    "recover_features",
    "recover_fields",
    "score_language_model",
    "score_spliced",
    "score_tuning",
    "shuffle_control",
    "shuffle_units",
    "top_examples",
    "tuning_curves",
    "tuning_r2",
    "tuning_table",
]
