"""Passes that compute only the few latents of a batch that are not zero. For CPUs."""

from saebook.models.sparse.selecting import SelectAmongFew

__all__ = ["SelectAmongFew"]
