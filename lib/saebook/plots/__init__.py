"""Figures of the handbook: arrays and tables in, matplotlib figures out, one style for all."""

from saebook.plots.latent_profile import plot_latent_panel, plot_latent_profile
from saebook.plots.latents import plot_latent_peth, plot_latent_tuning
from saebook.plots.scores import (
    plot_controls,
    plot_recovery,
    plot_recovery_scores,
    plot_score_card,
)
from saebook.plots.spikes import (
    dropped_per_rule,
    plot_count_sparsity,
    plot_raster,
    plot_unit_quality,
)
from saebook.plots.style import (
    COLUMN_WIDTH,
    GREY,
    LIGHT_GREY,
    PAGE_WIDTH,
    PALETTE,
    horizontal_line,
    panels,
    styled,
    use_style,
    vertical_line,
)
from saebook.plots.training import plot_training_history
from saebook.plots.tuning import plot_decoder_weights, plot_tuning_claim
from saebook.plots.unlearning import plot_unlearning

__all__ = [
    "COLUMN_WIDTH",
    "GREY",
    "LIGHT_GREY",
    "PAGE_WIDTH",
    "PALETTE",
    "dropped_per_rule",
    "horizontal_line",
    "panels",
    "plot_controls",
    "plot_count_sparsity",
    "plot_decoder_weights",
    "plot_latent_panel",
    "plot_latent_peth",
    "plot_latent_profile",
    "plot_latent_tuning",
    "plot_raster",
    "plot_recovery",
    "plot_recovery_scores",
    "plot_score_card",
    "plot_training_history",
    "plot_tuning_claim",
    "plot_unit_quality",
    "plot_unlearning",
    "styled",
    "use_style",
    "vertical_line",
]
