"""What replacing activations costs a language model: next-token loss, KL, and their scores."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.errors import DataError

# Rows of logits compared at once: a vocabulary of 50,000 is 200 kB a row in float32.
CHUNK_ROWS = 512


def scored_positions(keep: Tensor, document: Tensor) -> Tensor:
    """Positions whose prediction counts: kept ones followed by a token of the same document.

    Parameters
    ----------
    keep : Tensor
        Booleans [batch, seq]: positions whose activations are trained on and replaced.
    document : Tensor
        Integers [batch, seq], the document of each token; negative on padding.

    Returns
    -------
    Tensor
        Booleans [batch, seq]. The last position of a context has no next token and is false.

    Raises
    ------
    DataError
        Shapes differ.

    Notes
    -----
    A prediction belongs to the position that makes it, so the loss of the *next* token counts
    where the activation of *this* one was kept. A prediction across a document's end would judge
    the packing of contexts.

    Examples
    --------
    >>> keep = torch.tensor([[False, True, True, True, True]])
    >>> document = torch.tensor([[0, 0, 0, 1, 1]])
    >>> scored_positions(keep, document).tolist()
    [[False, True, False, True, False]]
    """
    if keep.ndim != 2 or keep.shape != document.shape:
        raise DataError(
            f"keep has shape {tuple(keep.shape)}, documents {tuple(document.shape)}: give both as "
            "[batch, seq]"
        )
    scored = torch.zeros_like(keep, dtype=torch.bool)
    own, following = document[:, :-1], document[:, 1:]
    scored[:, :-1] = keep[:, :-1].bool() & (own == following) & (own >= 0)
    return scored


def next_token_losses(logits: Tensor, tokens: Tensor, scored: Tensor) -> Tensor:
    """Cross-entropy of the next token at the scored positions.

    Parameters
    ----------
    logits : Tensor
        [batch, seq, vocabulary], any float type; compared in float32 or wider.
    tokens : Tensor
        Integers [batch, seq].
    scored : Tensor
        Booleans [batch, seq], from ``scored_positions``.

    Returns
    -------
    Tensor
        [n_scored], nats, in reading order.

    Raises
    ------
    DataError
        Shapes disagree, the last position is scored, or a loss is not finite.

    Examples
    --------
    >>> logits = torch.zeros(1, 3, 4)  # nothing known: log 4
    >>> scored = torch.tensor([[True, True, False]])
    >>> next_token_losses(logits, torch.tensor([[0, 1, 2]]), scored)
    tensor([1.3863, 1.3863])
    """
    _check(logits, scored)
    if tokens.shape != scored.shape:
        raise DataError(
            f"tokens have shape {tuple(tokens.shape)}, scored positions {tuple(scored.shape)}"
        )
    rows, targets = logits[scored], tokens.roll(-1, dims=1)[scored]
    parts = [
        F.cross_entropy(_wide(row), target, reduction="none")
        for row, target in zip(rows.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True)
    ]
    return _finite(torch.cat(parts), "next-token losses")


def next_token_kl(clean: Tensor, logits: Tensor, scored: Tensor) -> Tensor:
    """KL divergence of changed predictions from clean ones at the scored positions.

    Parameters
    ----------
    clean, logits : Tensor
        [batch, seq, vocabulary], of the model as it is and with activations replaced.
    scored : Tensor
        Booleans [batch, seq], from ``scored_positions``.

    Returns
    -------
    Tensor
        [n_scored], nats: ``Σ p (log p - log q)`` with p the clean prediction. 0 where nothing
        changed.

    Raises
    ------
    DataError
        Shapes disagree, the last position is scored, or a value is not finite.

    Examples
    --------
    >>> clean = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])  # p = (1/2, 1/2)
    >>> changed = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])  # q = (3/4, 1/4)
    >>> next_token_kl(clean, changed, torch.tensor([[True, False]]))  # log(4/3) / 2
    tensor([0.1438])
    """
    _check(clean, scored)
    if clean.shape != logits.shape:
        raise DataError(f"clean logits {tuple(clean.shape)}, changed ones {tuple(logits.shape)}")
    parts = []
    pairs = zip(clean[scored].split(CHUNK_ROWS), logits[scored].split(CHUNK_ROWS), strict=True)
    for own, changed in pairs:
        p, q = _wide(own).log_softmax(-1), _wide(changed).log_softmax(-1)
        parts.append(F.kl_div(q, p, reduction="none", log_target=True).sum(-1))
    return _finite(torch.cat(parts), "KL divergences")


def _check(logits: Tensor, scored: Tensor) -> None:
    if logits.ndim != 3 or logits.shape[:2] != scored.shape:
        raise DataError(
            f"logits have shape {tuple(logits.shape)}, scored positions {tuple(scored.shape)}: "
            "give [batch, seq, vocabulary] and [batch, seq]"
        )
    if bool(scored[:, -1].any()):
        raise DataError("the last position is scored, but no token follows it")


def _wide(logits: Tensor) -> Tensor:
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32))


def _finite(values: Tensor, name: str) -> Tensor:
    n_bad = int((~values.isfinite()).sum())
    if n_bad:
        raise DataError(
            f"{n_bad} of {len(values)} {name} are not finite: the model overflows at this "
            "precision, or the replaced activations do; try dtype='fp32'"
        )
    return values


def loss_recovered(clean: float, ablated: float, spliced: float) -> float:
    """Share of the loss between ablated and clean activations that a reconstruction saves.

    Parameters
    ----------
    clean, ablated, spliced : float
        Losses of the model as it is, with the activations ablated, and with the reconstruction
        in their place, on the same positions.

    Returns
    -------
    float
        ``(ablated - spliced) / (ablated - clean)``: 1 is perfect, 0 as bad as the ablation,
        below 0 worse. NaN where the ablation costs nothing: there is nothing to recover.

    Notes
    -----
    Against zero-ablation, with cross-entropies, this is the *CE score*; with KL divergences,
    whose clean value is 0, the *KL score*. Zero-ablation is an easy anchor, since zeros are far
    from every activation: a constant mean often scores well above 0, so print it beside.

    References
    ----------
    Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders"
    (arXiv 2404.16014), section 2.3.

    Examples
    --------
    >>> loss_recovered(clean=3.0, ablated=11.0, spliced=3.4)
    0.95
    >>> loss_recovered(clean=0.0, ablated=161.0, spliced=246.0) < 0  # a KL worse than ablation
    True
    """
    gap = ablated - clean
    return (ablated - spliced) / gap if gap > 0 else math.nan


def pareto_front(costs: Tensor) -> Tensor:
    """Which points no other one beats in every cost.

    Parameters
    ----------
    costs : Tensor
        [n_points, n_costs], smaller is better: L0 and Δloss, say.

    Returns
    -------
    Tensor
        Booleans [n_points]. Of equal points all are on the front.

    Raises
    ------
    DataError
        Not a matrix, or a value that is not finite.

    Examples
    --------
    >>> pareto_front(torch.tensor([[4.0, 0.5], [8.0, 0.2], [9.0, 0.3]])).tolist()
    [True, True, False]
    """
    if costs.ndim != 2 or not bool(costs.isfinite().all()):
        raise DataError(
            f"costs of shape {tuple(costs.shape)}: give finite numbers [n_points, n_costs]"
        )
    no_worse = (costs[:, None] <= costs[None]).all(-1)  # [by, of]
    better = (costs[:, None] < costs[None]).any(-1)
    return ~(no_worse & better).any(0)
