"""What latents stand for: one test per latent, against nulls that keep autocorrelation and drift."""

from saebook.evaluation.discovery.attribution import attribute_latent
from saebook.evaluation.discovery.descriptions import describe_latents, peri_event
from saebook.evaluation.discovery.discovering import discover, preferred
from saebook.evaluation.discovery.findings import Discovery
from saebook.evaluation.discovery.labels import LabelScores, distinct_orders, label_scores
from saebook.evaluation.discovery.listing import discovery_variables
from saebook.evaluation.discovery.reading import ablation_effects, decode_variables
from saebook.evaluation.discovery.rivals import best_of_fewer, compare_codes
from saebook.evaluation.discovery.shifts import ShiftedScores, shifted_scores, without_drift
from saebook.evaluation.discovery.tails import TailP, tail_p
from saebook.evaluation.discovery.testing import LatentScore, score_latents

__all__ = [
    "Discovery",
    "LabelScores",
    "LatentScore",
    "ShiftedScores",
    "TailP",
    "ablation_effects",
    "attribute_latent",
    "best_of_fewer",
    "compare_codes",
    "decode_variables",
    "describe_latents",
    "discover",
    "discovery_variables",
    "distinct_orders",
    "label_scores",
    "peri_event",
    "preferred",
    "score_latents",
    "shifted_scores",
    "tail_p",
    "without_drift",
]
