"""Passes that leave out what is zero, or what nobody needs: the same numbers, sooner."""

from saebook.models.sparse.few import SelectAmongFew
from saebook.models.sparse.many import select_among_many

__all__ = ["SelectAmongFew", "select_among_many"]
