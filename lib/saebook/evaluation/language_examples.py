"""Excerpts of held-out text in which latents are most active."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from saebook.errors import SelectionError, StoreError
from saebook.evaluation.examples import Examples, same_width
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.language.token_views import Excerpts, top_excerpts

COLUMNS = ("document", "position", "token")


def top_examples(
    sae: Any,
    store: Any,
    latents: Iterable[int],
    token_text: Callable[[int], str],
    *,
    split: str = "test",
    n: int = 8,
    before: int = 16,
    after: int = 8,
    batch_size: int = 4096,
) -> dict[int, Excerpts]:
    """Excerpts around the peaks of some latents, from documents the SAE was not trained on.

    Parameters
    ----------
    sae : SAE
        Anything with ``encode`` and ``decode``.
    store : ExampleStore
        Of activations, with ``document``, ``position`` and ``token`` in its index.
    latents : iterable of int
        Which ones.
    token_text : callable
        From a token to its text, ``lambda token: tokenizer.decode([token])``.
    split : str
        Documents of this split.
    n, before, after : int
        Excerpts per latent, and positions shown around each peak.
    batch_size : int
        Rows encoded at once.

    Returns
    -------
    dict of int to Excerpts
        Strongest first, repeats of one passage left out; see
        :func:`saebook.language.token_views.top_excerpts`.

    Raises
    ------
    StoreError
        The store has no tokens in its index.
    SelectionError
        A latent that the SAE does not have, or an empty split.
    """
    missing = [name for name in COLUMNS if name not in store.index]
    if missing:
        raise StoreError(
            f"the store's index has no column {missing[0]!r}: excerpts need activations collected "
            "from text by collect_activations"
        )
    chosen = [int(latent) for latent in latents]
    examples = Examples(store, split)
    same_width(sae, examples)
    parts = []
    with scoring(sae):
        for x in examples.batches(batch_size):
            activity, _ = reconstruct(sae, x)
            outside = [i for i in chosen if not 0 <= i < activity.shape[-1]]
            if outside:
                raise SelectionError(
                    f"latent {outside[0]} was asked for: this SAE has {activity.shape[-1]}"
                )
            parts.append(activity[:, chosen].cpu())
    together = torch.cat(parts).numpy()  # [n_rows, n_chosen]
    index = store.index.iloc[np.asarray(store.rows(split))]
    document, position, token = (index[name].to_numpy() for name in COLUMNS)
    return {
        latent: top_excerpts(
            together[:, i], document, position, token, token_text,
            n=n, before=before, after=after, title=f"latent {latent}",
        )
        for i, latent in enumerate(chosen)
    }  # fmt: skip
