"""Every score's one definition, as pure functions on tensors and arrays."""

from saebook.metrics.agreement import LatentAgreement, correlation_matrix, latent_agreement
from saebook.metrics.association import auroc, mutual_information
from saebook.metrics.calibration import (
    calibration_slope,
    floored,
    information_share,
    spike_ratio,
)
from saebook.metrics.coactivity import Coactivity, coactivity
from saebook.metrics.consistency import consistency_between_runs, consistency_between_sessions
from saebook.metrics.decoding import (
    LinearDecoder,
    NeighbourDecoder,
    knn_decoder,
    r2,
    ridge_decoder,
    ridge_path,
)
from saebook.metrics.false_discoveries import benjamini_hochberg, hits_needed
from saebook.metrics.identifiability import (
    DCI,
    FactorPrediction,
    dci,
    mean_correlation_coefficient,
    predict_factors,
)
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
from saebook.metrics.spikes import (
    are_counts,
    bits_per_spike,
    deviance_explained,
    fano_factor,
    poisson_deviance,
)
from saebook.metrics.subspaces import principal_angles, spanning_basis, subspace_overlap
from saebook.metrics.temporal import (
    activity_information,
    autocorrelation,
    decorrelation_time,
    lagged_rows,
)
from saebook.metrics.trial_averages import psth, psth_r2

__all__ = [
    "DCI",
    "CardSums",
    "Coactivity",
    "FactorPrediction",
    "LatentAgreement",
    "LatentSums",
    "LinearDecoder",
    "MatchScores",
    "MeanInterval",
    "NeighbourDecoder",
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
    "coactivity",
    "consistency_between_runs",
    "consistency_between_sessions",
    "correlation_matrix",
    "cosine",
    "cosine_similarity_matrix",
    "dci",
    "dead_fraction",
    "decorrelation_time",
    "dense_fraction",
    "density",
    "deviance_explained",
    "explained_variance",
    "fano_factor",
    "fit_segments",
    "floored",
    "fvu",
    "hits_needed",
    "information_share",
    "knn_decoder",
    "l0",
    "l2_ratio",
    "lagged_rows",
    "latent_agreement",
    "loss_recovered",
    "match_one_to_one",
    "match_scores",
    "mean_correlation_coefficient",
    "mean_interval",
    "mmcs",
    "mutual_information",
    "next_token_kl",
    "next_token_losses",
    "pairwise_interval",
    "pareto_front",
    "poisson_deviance",
    "predict_factors",
    "principal_angles",
    "psth",
    "psth_r2",
    "r2",
    "r2_per_example",
    "r2_per_unit",
    "ridge_decoder",
    "ridge_path",
    "same_group_pairs",
    "scored_positions",
    "shrinkage",
    "spanning_basis",
    "spike_ratio",
    "subspace_overlap",
]
