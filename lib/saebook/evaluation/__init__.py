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
from saebook.evaluation.exporting import latent_table, to_pynapple, to_xarray
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
from saebook.evaluation.stored_latents import StoredLatents, read_latents
from saebook.evaluation.tuning import (
    TuningScore,
    score_tuning,
    tuning_curves,
    tuning_r2,
    tuning_table,
)
from saebook.evaluation.variables import Variable, candidate_variables
from saebook.evaluation.writing_latents import write_latents
from saebook.metrics import ScoreCard

__all__ = [
    "ActivityRecovery",
    "FieldRecovery",
    "PCAControl",
    "RandomDictionary",
    "RandomDictionaryControl",
    "Recovery",
    "ScoreCard",
    "ShuffleControl",
    "StoredLatents",
    "TuningScore",
    "Variable",
    "candidate_variables",
    "control_table",
    "decoder_directions",
    "evaluate",
    "latent_table",
    "pca_control",
    "random_dictionary_control",
    "raw_unit_control",
    "read_latents",
    "recover_activity",
    "recover_features",
    "recover_fields",
    "score_tuning",
    "shuffle_control",
    "shuffle_units",
    "to_pynapple",
    "to_xarray",
    "tuning_curves",
    "tuning_r2",
    "tuning_table",
    "write_latents",
]
