"""Judging SAEs: score cards, the controls they stand against, recovery of planted truth."""

from saebook.evaluation.coherence import context_coherence
from saebook.evaluation.comparison import (
    ComparisonData,
    compare_methods,
    fit_co_smoothing,
    recorded_comparison,
    score_method,
    simulated_comparison,
)
from saebook.evaluation.controls import (
    PCAControl,
    ShuffleControl,
    control_table,
    pca_control,
    raw_unit_control,
    shuffle_control,
    shuffle_units,
)
from saebook.evaluation.discovery import (
    Discovery,
    ablation_effects,
    attribute_latent,
    compare_codes,
    decode_variables,
    describe_latents,
    discover,
    discovery_variables,
    peri_event,
)
from saebook.evaluation.exporting import latent_table, to_pynapple, to_xarray
from saebook.evaluation.fields import FieldRecovery, recover_fields
from saebook.evaluation.interpretability import (
    interpretability_table,
    latent_interpretability,
    latents_of,
    nearest_directions,
)
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
from saebook.evaluation.readers import Reader
from saebook.evaluation.recovery import (
    ActivityRecovery,
    Recovery,
    decoder_directions,
    recover_activity,
    recover_features,
)
from saebook.evaluation.sae_method import SAEMethod
from saebook.evaluation.scorecard import evaluate
from saebook.evaluation.stored_latents import StoredLatents, read_latents
from saebook.evaluation.temporal import Consistency, consistency, temporal_consistency
from saebook.evaluation.temporal_clock import ClockScore, decode_clock
from saebook.evaluation.temporal_matching import compare_at_fvu, paired_intervals, score_at_fvu
from saebook.evaluation.temporal_recovery import score_slow_fast
from saebook.evaluation.token_prediction import TokenRows, auc_at_chance, token_predictions
from saebook.evaluation.tuning import (
    TuningScore,
    score_tuning,
    tuning_curves,
    tuning_r2,
    tuning_table,
)
from saebook.evaluation.unlearning import (
    Clamp,
    LatentEvidence,
    edited,
    evidence_from_rows,
    rank_to_forget,
    sizes,
)
from saebook.evaluation.unlearning_decoding import (
    decoding_damage,
    decoding_scores,
    evidence_from_tuning,
)
from saebook.evaluation.unlearning_language import evidence_from_texts, loss_damage
from saebook.evaluation.unlearning_sweep import (
    damage_front,
    matched_random,
    unlearning_score,
    unlearning_sweep,
)
from saebook.evaluation.variables import Variable, candidate_variables
from saebook.evaluation.writing_latents import write_latents
from saebook.metrics import ScoreCard

__all__ = [
    "ActivityRecovery",
    "Clamp",
    "ClockScore",
    "ComparisonData",
    "Consistency",
    "Discovery",
    "FieldRecovery",
    "LanguageCard",
    "LatentEvidence",
    "PCAControl",
    "RandomDictionary",
    "RandomDictionaryControl",
    "Reader",
    "Recovery",
    "SAEMethod",
    "ScoreCard",
    "ShuffleControl",
    "SplicedLosses",
    "StoredLatents",
    "TaskCard",
    "TokenRows",
    "TuningScore",
    "Variable",
    "ablation_effects",
    "attribute_latent",
    "auc_at_chance",
    "candidate_variables",
    "compare_at_fvu",
    "compare_codes",
    "compare_methods",
    "consistency",
    "context_coherence",
    "control_table",
    "damage_front",
    "decode_clock",
    "decode_variables",
    "decoder_directions",
    "decoding_damage",
    "decoding_scores",
    "describe_latents",
    "discover",
    "discovery_variables",
    "edited",
    "evaluate",
    "evidence_from_rows",
    "evidence_from_texts",
    "evidence_from_tuning",
    "fit_co_smoothing",
    "interpretability_table",
    "language_table",
    "latent_interpretability",
    "latent_table",
    "latents_of",
    "loss_damage",
    "matched_random",
    "nearest_directions",
    "paired_intervals",
    "pca_control",
    "peri_event",
    "random_dictionary_control",
    "rank_to_forget",
    "raw_unit_control",
    "read_latents",
    "recorded_comparison",
    "recover_activity",
    "recover_features",
    "recover_fields",
    "score_at_fvu",
    "score_language_model",
    "score_method",
    "score_slow_fast",
    "score_spliced",
    "score_tuning",
    "shuffle_control",
    "shuffle_units",
    "simulated_comparison",
    "sizes",
    "temporal_consistency",
    "to_pynapple",
    "to_xarray",
    "token_predictions",
    "top_examples",
    "tuning_curves",
    "tuning_r2",
    "tuning_table",
    "unlearning_score",
    "unlearning_sweep",
    "write_latents",
]
