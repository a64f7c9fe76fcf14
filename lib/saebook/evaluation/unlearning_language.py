"""Unlearning in language models: what clamped latents cost the next-token loss of two domains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from saebook.errors import SelectionError
from saebook.evaluation.language_passes import BatchPasses
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.evaluation.unlearning import (
    Clamp,
    LatentEvidence,
    Unit,
    edited_from,
    evidence_from_rows,
)
from saebook.evaluation.unlearning_sweep import Damage
from saebook.language import MaskRule, TokenBatch
from saebook.metrics.language import next_token_kl, next_token_losses, scored_positions


def evidence_from_texts(
    sae: Any,
    model: Any,
    site: Any,
    forget: Iterable[TokenBatch],
    retain: Iterable[TokenBatch],
    *,
    rule: MaskRule | None = None,
    unit: Unit = "norm",
) -> LatentEvidence:
    """How often each latent is active on text to forget and on text to keep.

    Parameters
    ----------
    sae : SAE
        Trained on activations of ``site``.
    model : LanguageModel or nn.Module
        In eval mode.
    site : Site or nn.Module
        Where.
    forget, retain : iterable of TokenBatch
        Training documents of the two domains, such as ``token_batches`` gives.
    rule : MaskRule
        Positions that count; the rule's defaults by default.
    unit : {"norm", "activity"}
        What multipliers multiply: see :func:`~saebook.evaluation.sizes`. SAEBench's is the norm.

    Returns
    -------
    LatentEvidence
        Shares of kept positions.
    """
    rule = rule or MaskRule()

    def kept(batches: Iterable[TokenBatch]) -> Iterator[Tensor]:
        for batch in batches:
            x = BatchPasses(model, site, batch.inputs()).activations
            yield x[rule.keep(batch, x)]

    return evidence_from_rows(sae, kept(forget), kept(retain), unit=unit)


def loss_damage(
    sae: Any,
    model: Any,
    site: Any,
    forget: Iterable[TokenBatch],
    retain: Iterable[TokenBatch],
    *,
    forget_validation: Iterable[TokenBatch] | None = None,
    retain_validation: Iterable[TokenBatch] | None = None,
    rule: MaskRule | None = None,
    keep_error: bool = True,
    progress: bool = True,
) -> Damage:
    """Make the function that tells what clamps cost the model on two domains.

    Parameters
    ----------
    sae : SAE
        Trained on activations of ``site``.
    model : LanguageModel or nn.Module
        In eval mode; its output has ``logits``.
    site : Site or nn.Module
        Where.
    forget, retain : iterable of TokenBatch
        Held-out documents of the two domains. They are kept in memory.
    forget_validation, retain_validation : iterable of TokenBatch, optional
        Others, for choosing among settings.
    rule : MaskRule
        Positions that are edited and counted; the rule's defaults by default.
    keep_error : bool
        Add back what the SAE does not reconstruct, as SAEBench does: damage is then that of the
        clamp alone. Otherwise the edited reconstruction takes the place of the activations, and
        what it fails to reconstruct is part of the damage.
    progress : bool
        Show bars.

    Returns
    -------
    callable
        From clamps to one dictionary each: ``forget`` and ``retain``, the rise of the mean
        next-token loss in nats; ``forget_kl`` and ``retain_kl``, the mean KL divergence from the
        predictions of the intact model; and the same with ``_validation`` where it is given. The
        loss may fall where the text becomes easier to guess; KL says whether anything changed.

    Raises
    ------
    SelectionError
        A part has no position to score.

    Notes
    -----
    SAEBench asks multiple-choice questions of an instructed model and counts a setting only
    where at least 99 % of the answers on other subjects stay right. The rise of the loss on
    documents of two domains needs no questions, and moves with any model.
    """
    rule = rule or MaskRule()
    given = {
        "forget": forget,
        "retain": retain,
        "forget_validation": forget_validation,
        "retain_validation": retain_validation,
    }
    parts = {name: list(batches) for name, batches in given.items() if batches is not None}

    def damage(clamps: Sequence[Clamp]) -> list[dict[str, float]]:
        rows: list[dict[str, float]] = [{} for _ in clamps]
        for name, batches in parts.items():
            losses = torch.zeros(len(clamps), dtype=torch.float64)
            divergences = torch.zeros(len(clamps), dtype=torch.float64)
            n = 0
            for batch in tqdm(batches, desc=name, unit="batch", disable=not progress):
                risen, diverged, n_scored = _of_batch(
                    sae, model, site, batch, clamps, rule, keep_error
                )
                losses, divergences, n = losses + risen, divergences + diverged, n + n_scored
            if not n:
                raise SelectionError(
                    f"{name}: no position is left to score; give documents of several tokens, or "
                    "a mask rule that keeps some"
                )
            domain, _, part = name.partition("_")
            kl = f"{domain}_kl_{part}" if part else f"{domain}_kl"
            for row, loss, divergence in zip(rows, losses / n, divergences / n, strict=True):
                row |= {name: float(loss), kl: float(divergence)}
        return rows

    return damage


def _of_batch(
    sae: Any,
    model: Any,
    site: Any,
    batch: TokenBatch,
    clamps: Sequence[Clamp],
    rule: MaskRule,
    keep_error: bool,
) -> tuple[Tensor, Tensor, int]:
    """Sums over scored positions, per clamp, of the rise of the loss and of the KL divergence."""
    passes = BatchPasses(model, site, batch.inputs())
    x = passes.activations  # [batch, seq, d_model]
    kept = rule.keep(batch, x)
    clean = passes.output.logits
    tokens = batch.input_ids.to(clean.device)
    scored = scored_positions(kept, batch.document.to(kept.device)).to(clean.device)
    risen = torch.zeros(len(clamps), dtype=torch.float64)
    diverged = torch.zeros(len(clamps), dtype=torch.float64)
    if not bool(scored.any()):
        return risen, diverged, 0
    before = next_token_losses(clean, tokens, scored).double().sum()
    rows = x[kept]  # [n_kept, d_model]
    with scoring(sae):
        latents, made = reconstruct(sae, rows)
    for i, clamp in enumerate(clamps):
        changed = edited_from(sae, rows, latents, made, clamp, keep_error=keep_error)
        if changed is rows:
            continue
        whole = x.clone()
        whole[kept] = changed.to(x)
        logits = passes.replaced(lambda _, whole=whole: whole, kept).logits
        risen[i] = (next_token_losses(logits, tokens, scored).double().sum() - before).cpu()
        diverged[i] = next_token_kl(clean, logits, scored).double().sum().cpu()
    return risen, diverged, int(scored.sum())
