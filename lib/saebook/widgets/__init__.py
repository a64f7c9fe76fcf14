"""Interactive views, each of which is a still figure where no kernel runs.

>>> from saebook.widgets import latent_explorer
"""

from saebook.widgets.explorer import LatentExplorer, latent_explorer
from saebook.widgets.latent_table import LatentTable

__all__ = ["LatentExplorer", "LatentTable", "latent_explorer"]
