"""Profiles of latents: all that is to be seen of one latent, found fast enough to browse."""

from saebook.evaluation.profiles.bands import (
    NullBand,
    permuted_band,
    shifted_band,
    shifted_curves,
)
from saebook.evaluation.profiles.columns import LatentColumns
from saebook.evaluation.profiles.following import Following
from saebook.evaluation.profiles.pieces import (
    Closeup,
    Moments,
    OverTime,
    OverTrials,
    Tuning,
    Weights,
    coactive_words,
)
from saebook.evaluation.profiles.profiles import LatentProfiles
from saebook.evaluation.profiles.sources import profiles_of
from saebook.evaluation.profiles.spiking import Spiking
from saebook.evaluation.profiles.trials import EventGrid, labelled_runs

__all__ = [
    "Closeup",
    "EventGrid",
    "Following",
    "LatentColumns",
    "LatentProfiles",
    "Moments",
    "NullBand",
    "OverTime",
    "OverTrials",
    "Spiking",
    "Tuning",
    "Weights",
    "coactive_words",
    "labelled_runs",
    "permuted_band",
    "profiles_of",
    "shifted_band",
    "shifted_curves",
]
