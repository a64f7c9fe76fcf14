"""Interactive views, each of which is a still figure where no kernel runs.

>>> from saebook.widgets import latent_view
"""

from saebook.widgets.latents import LatentView, latent_view

__all__ = ["LatentView", "latent_view"]
