"""Every score's one definition, as pure functions on tensors."""

from saebook.metrics.agreement import LatentAgreement, correlation_matrix, latent_agreement
from saebook.metrics.calibration import (
    calibration_slope,
    floored,
    information_share,
    spike_ratio,
)
from saebook.metrics.coactivity import Coactivity, coactivity
from saebook.metrics.identity import RawUnitControl, RawUnitSums
from saebook.metrics.intervals import MeanInterval, mean_interval, pairwise_interval
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
from saebook.metrics.subspaces import principal_angles, spanning_basis, subspace_overlap
from saebook.metrics.temporal import (
    activity_information,
    autocorrelation,
    decorrelation_time,
    lagged_rows,
)

__all__ = [
    "CardSums",
    "Coactivity",
    "LatentAgreement",
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
    "autocorrelation",
    "bits_per_spike",
    "calibration_slope",
    "choose_segments",
    "coactivity",
    "correlation_matrix",
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
    "information_share",
    "l0",
    "l2_ratio",
    "lagged_rows",
    "latent_agreement",
    "loss_recovered",
    "match_one_to_one",
    "match_scores",
    "mean_interval",
    "mmcs",
    "next_token_kl",
    "next_token_losses",
    "pairwise_interval",
    "pareto_front",
    "principal_angles",
    "r2_per_example",
    "r2_per_unit",
    "same_group_pairs",
    "scored_positions",
    "shrinkage",
    "spanning_basis",
    "spike_ratio",
    "subspace_overlap",
]
