"""Whether a fit ended by itself: scikit-learn's warnings as something to ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def convergence() -> Iterator[list[str]]:
    """Collect what scikit-learn warns of convergence; other warnings pass through.

    Yields
    ------
    list of str
        Each message once, complete when the block has ended. Empty: it converged.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import NMF
    >>> with convergence() as messages:
    ...     fitted = NMF(2, max_iter=1).fit(np.eye(3) + 0.1)
    >>> messages
    ['Maximum number of iterations 1 reached. Increase it to improve convergence.']
    """
    from sklearn.exceptions import ConvergenceWarning

    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            text = " ".join(str(warning.message).split())
            if text not in messages:
                messages.append(text)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
