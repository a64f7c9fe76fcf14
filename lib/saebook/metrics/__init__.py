"""Every score's one definition, as pure functions on tensors."""

from saebook.metrics.association import auroc, mutual_information
from saebook.metrics.calibration import (
    calibration_slope,
    floored,
    information_share,
    spike_ratio,
)
from saebook.metrics.false_discoveries import benjamini_hochberg, hits_needed
from saebook.metrics.identity import RawUnitControl, RawUnitSums
from saebook.metrics.intervals import MeanInterval, mean_interval
from saebook.metrics.language import (
    loss_recovered,
    next_token_kl,
    next_token_losses,
    pareto_front,
    scored_positions,
)
from saebook.metrics.matching import (
    MatchScores,
    cosine_similarity_matrix,
    match_one_to_one,
    match_scores,
    mmcs,
)
from saebook.metrics.mixing import same_group_pairs
from saebook.metrics.reconstruction import (
    ReconstructionSums,
    cosine,
    explained_variance,
    fvu,
    l2_ratio,
    r2_per_example,
    r2_per_unit,
)
from saebook.metrics.scorecard import CardSums, ScoreCard
from saebook.metrics.segments import SegmentChoice, SegmentFit, choose_segments, fit_segments
from saebook.metrics.shrinkage import ShrinkageSums, shrinkage
from saebook.metrics.sparsity import LatentSums, dead_fraction, dense_fraction, density, l0
from saebook.metrics.spikes import are_counts, bits_per_spike, fano_factor
from saebook.metrics.temporal import (
    activity_information,
    autocorrelation,
    decorrelation_time,
    lagged_rows,
)

__all__ = [
    "CardSums",
    "LatentSums",
    "MatchScores",
    "MeanInterval",
    "RawUnitControl",
    "RawUnitSums",
    "ReconstructionSums",
    "ScoreCard",
    "SegmentChoice",
    "SegmentFit",
    "ShrinkageSums",
    "activity_information",
    "are_counts",
    "auroc",
    "autocorrelation",
    "benjamini_hochberg",
    "bits_per_spike",
    "calibration_slope",
    "choose_segments",
    "cosine",
    "cosine_similarity_matrix",
    "dead_fraction",
    "decorrelation_time",
    "dense_fraction",
    "density",
    "explained_variance",
    "fano_factor",
    "fit_segments",
    "floored",
    "fvu",
    "hits_needed",
    "information_share",
    "l0",
    "l2_ratio",
    "lagged_rows",
    "loss_recovered",
    "match_one_to_one",
    "match_scores",
    "mean_interval",
    "mmcs",
    "mutual_information",
    "next_token_kl",
    "next_token_losses",
    "pareto_front",
    "r2_per_example",
    "r2_per_unit",
    "same_group_pairs",
    "scored_positions",
    "shrinkage",
    "spike_ratio",
]
