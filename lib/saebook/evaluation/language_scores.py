"""``score_spliced`` and ``score_language_model``: SAEs judged by what they cost the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from saebook.evaluation.language_card import LanguageCard, TaskCard
from saebook.evaluation.language_passes import ANCHORS, CLEAN, check_names, passes_of
from saebook.evaluation.language_sums import Observed, Totals
from saebook.evaluation.scorecard import evaluate, scoring
from saebook.metrics import next_token_kl, next_token_losses, scored_positions

Loss = Callable[[Any, Any], Tensor]


def score_spliced(
    model: Any,
    batches: Iterable[Any],
    site: Any,
    saes: Mapping[str, Any],
    loss: Loss,
    *,
    mean: Tensor,
    keep: Callable[[Any, Tensor], Tensor] | None = None,
    inputs: Callable[[Any], Any] | None = None,
    progress: bool = True,
) -> dict[str, TaskCard]:
    """What splicing SAEs into any model costs it at its task.

    Parameters
    ----------
    model : nn.Module or LanguageModel
        In eval mode: a classifier, a vision transformer, ….
    batches : iterable
        Read once. Held-out ones.
    site : Site or nn.Module
        Where the SAEs were trained.
    saes : mapping of str to SAE
        By name; scored side by side, on one clean pass.
    loss : callable
        ``loss(model_output, batch)``: a tensor with one loss per item, or the mean of a batch,
        which is then weighed by its number of examples.
    mean : Tensor
        [d_model], mean activation on *training* positions, for mean-ablation.
    keep : callable, optional
        ``keep(batch, activations)``: booleans [batch, seq] of the positions to replace. All by
        default.
    inputs : callable, optional
        From a batch to what the model takes: a dictionary of arguments, or one argument. By
        default a dictionary is taken as it is, and of a pair the first.
    progress : bool
        Show a bar.

    Returns
    -------
    dict of str to TaskCard
        With the clean, zero- and mean-ablated losses beside each one.

    Raises
    ------
    DataError
        A name is an anchor's, a loss is not finite or of changing size, the model is in training
        mode, or a reconstruction does not fit.
    SelectionError
        No batch, or no position kept.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Flatten(), nn.Linear(6, 2)).eval()
    >>> x, labels = torch.rand(8, 3, 2), torch.arange(8) % 2
    >>> class Copy:
    ...     def encode(self, x): return x
    ...     def decode(self, latents): return latents
    >>> def loss(logits, batch):
    ...     return nn.functional.cross_entropy(logits, batch[1], reduction="none")
    >>> cards = score_spliced(model, [(x, labels)], model[0], {"copy": Copy()}, loss,
    ...     mean=torch.zeros(2), progress=False)
    >>> cards["copy"].loss.delta, cards["copy"].loss.n
    (0.0, 8)
    """
    check_names(saes)
    observed, totals = Observed(saes), Totals((*ANCHORS, *saes))
    with ExitStack() as stack:
        for sae in saes.values():
            stack.enter_context(scoring(sae))
        for batch in tqdm(batches, disable=not progress, unit="batch", desc="spliced"):
            kept = None if keep is None else (lambda x, batch=batch: keep(batch, x))
            taken = (inputs or _inputs)(batch)
            for name, output, _ in passes_of(model, site, taken, saes, mean, kept, observed.update):
                values = torch.as_tensor(loss(output, batch)).detach()
                totals.add(name, values.flatten(), _size(taken) if not values.ndim else 1)
    return {name: TaskCard(loss=totals.losses(name), **observed.scores(name)) for name in saes}


def score_language_model(
    model: Any,
    batches: Iterable[Any],
    site: Any,
    saes: Mapping[str, Any],
    *,
    mean: Tensor,
    mask: Any = None,
    rows: Any = None,
    progress: bool = True,
) -> dict[str, LanguageCard]:
    """Score cards of SAEs spliced into a language model, beside clean, zeros and the mean.

    Parameters
    ----------
    model : LanguageModel
        In eval mode.
    batches : iterable of TokenBatch
        Held-out text; read once, whatever the number of SAEs.
    site : Site
        Where the SAEs were trained.
    saes : mapping of str to SAE
        By name.
    mean : Tensor
        [d_model], mean activation on training positions, for mean-ablation.
    mask : MaskRule, optional
        The rule that the activations were collected under: it decides which positions are
        replaced, reconstructed and scored. The default rule where none is given.
    rows : Tensor or ExampleStore, optional
        Held-out activations on which dead latents and densities are counted, where there are
        more than the batches hold: rare latents look dead on few tokens. A store's test split.
    progress : bool
        Show a bar.

    Returns
    -------
    dict of str to LanguageCard

    Raises
    ------
    DataError, SelectionError
        As for :func:`score_spliced`; or no position makes a prediction that counts.

    Notes
    -----
    Masked positions (the attention sink at the start of a context, special tokens) keep their
    activations in *every* pass, the ablations too, so no score profits from them. Losses are
    sums over predictions divided at the end, so that batches of any size give one number.
    """
    from saebook.language.masking import MaskRule

    check_names(saes)
    rule = MaskRule() if mask is None else mask
    observed = Observed(saes)
    losses, divergences = Totals((*ANCHORS, *saes)), Totals((*ANCHORS, *saes))
    masked: Counter[str] = Counter()
    with ExitStack() as stack:
        for sae in saes.values():
            stack.enter_context(scoring(sae))
        for batch in tqdm(batches, disable=not progress, unit="batch", desc="spliced"):
            taken = {**batch.inputs(), "use_cache": False}
            clean = scored = None

            def keep(x: Tensor, batch: Any = batch) -> Tensor:
                masked.update(rule.counts(batch, x))
                return rule.keep(batch, x)

            for name, output, kept in passes_of(
                model, site, taken, saes, mean, keep, observed.update
            ):
                logits = output.logits
                if name == CLEAN:
                    clean = logits
                    scored = scored_positions(kept, batch.document.to(kept.device))
                assert clean is not None and scored is not None
                tokens = batch.input_ids.to(logits.device)
                losses.add(name, next_token_losses(logits, tokens, scored))
                divergences.add(name, _divergence(clean, logits, scored))
    cards = {}
    for name, sae in saes.items():
        scores = observed.scores(name)
        cards[name] = LanguageCard(
            loss=losses.losses(name),
            kl=divergences.losses(name),
            counted=scores["reconstruction"] if rows is None else evaluate(sae, rows, counts=False),
            masked=dict(masked),
            **scores,
        )
    return cards


def _divergence(clean: Tensor, logits: Tensor, scored: Tensor) -> Tensor:
    if logits is clean:
        return clean.new_zeros(int(scored.sum()))
    return next_token_kl(clean, logits, scored)


def _inputs(batch: Any) -> Any:
    if hasattr(batch, "inputs"):
        return batch.inputs()
    return batch[0] if isinstance(batch, tuple | list) else batch


def _size(inputs: Any) -> int:
    first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    return len(first)
