"""Would it be found again? Across seeds, sessions and sizes, beside chance; splitting, absorption."""

from saebook.evaluation.stability.absorption import Absorption, absorption, nested_pairs
from saebook.evaluation.stability.chance import NULLS, null_dictionary
from saebook.evaluation.stability.classes import stability_by
from saebook.evaluation.stability.consensus import Consensus, consensus
from saebook.evaluation.stability.dictionaries import (
    Dictionary,
    ablation_costs,
    dictionary_from,
    dictionary_of,
)
from saebook.evaluation.stability.profiles import condition_profiles, match_profiles
from saebook.evaluation.stability.seeds import SeedStability, compare_seeds
from saebook.evaluation.stability.sessions import SessionMatch, match_over_units
from saebook.evaluation.stability.sizes import SizeComparison, compare_sizes, stitch
from saebook.evaluation.stability.splitting import splitting
from saebook.evaluation.stability.truth import followed_features
from saebook.evaluation.stability.unstable import UnstableSubspaces, unstable_subspaces

__all__ = [
    "NULLS",
    "Absorption",
    "Consensus",
    "Dictionary",
    "SeedStability",
    "SessionMatch",
    "SizeComparison",
    "UnstableSubspaces",
    "ablation_costs",
    "absorption",
    "compare_seeds",
    "compare_sizes",
    "condition_profiles",
    "consensus",
    "dictionary_from",
    "dictionary_of",
    "followed_features",
    "match_over_units",
    "match_profiles",
    "nested_pairs",
    "null_dictionary",
    "splitting",
    "stability_by",
    "stitch",
    "unstable_subspaces",
]
