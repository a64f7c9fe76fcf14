"""What latents stand for: one test per latent, against nulls that keep autocorrelation and drift."""

from saebook.evaluation.discovery.discovering import Discovery, discover, preferred
from saebook.evaluation.discovery.labels import LabelScores, distinct_orders, label_scores
from saebook.evaluation.discovery.listing import discovery_variables
from saebook.evaluation.discovery.shifts import ShiftedScores, shifted_scores, without_drift
from saebook.evaluation.discovery.tails import TailP, tail_p
from saebook.evaluation.discovery.testing import LatentScore, score_latents

__all__ = [
    "Discovery",
    "LabelScores",
    "LatentScore",
    "ShiftedScores",
    "TailP",
    "discover",
    "discovery_variables",
    "distinct_orders",
    "label_scores",
    "preferred",
    "score_latents",
    "shifted_scores",
    "tail_p",
    "without_drift",
]
