"""Decoder rows that change their size to please a penalty, or that say the same twice."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Finding

GROWN = 1.5
SHRUNK = 0.5
# A penalty weighted by the norms is the same however size is shared with the encoder: there, rows
# may shrink that far, unless nothing is reconstructed either.
SHRUNK_WEIGHTED = 0.1
NOTHING_LEARNED = 0.9
WEIGHTED = ("l1_decoder_norm", "l1_gate", "tanh")
TWIN_COSINE = 0.9
SOME_TWINS, MANY_TWINS = 0.25, 0.6
MOST_COMPARED = 4096


def decoder_norms(evidence: Evidence) -> Finding | None:
    """Find free decoder rows that grew under a plain L1, or all but vanished."""
    config = evidence.config
    first, late = evidence.first("decoder_norm"), evidence.late("decoder_norm")
    if config.decoder_norm != "free" or not first > 0 or math.isnan(late):
        return None
    measured = f"the mean norm of decoder rows went from {first:.3g} to {late:.3g}"
    if config.sparsity == "l1" and late > GROWN * first:
        return Finding(
            "decoder_norms",
            "warning",
            measured,
            "a plain L1 counts latents but not decoder norms: making rows longer and latents "
            "smaller lowers the penalty without being any sparser",
            "use decoder_norm='unit', or sparsity='l1_decoder_norm'",
        )
    weighted = config.sparsity in WEIGHTED and not evidence.late("fvu") > NOTHING_LEARNED
    if late < (SHRUNK_WEIGHTED if weighted else SHRUNK) * first:
        return Finding(
            "decoder_norms",
            "warning",
            measured,
            "the penalty (or weight decay) falls with the rows themselves, so a smaller loss is "
            "no sign of learning",
            "use decoder_norm='unit', and lower λ or weight_decay",
        )
    return None


def twins(
    decoder_rows: Tensor, encoder_rows: Tensor, threshold: float = TWIN_COSINE
) -> tuple[int, float]:
    """Rows that have a twin among the others in both matrices.

    Parameters
    ----------
    decoder_rows, encoder_rows
        [n, d_out] and [n, d_in], one row per latent.
    threshold
        Cosine above which, in both, two latents are twins.

    Returns
    -------
    tuple of int and float
        How many have a twin, and the largest of the smaller cosines.

    Examples
    --------
    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.01, 1.0]])
    >>> count, cosine = twins(rows, rows)
    >>> count, round(cosine, 3)
    (2, 1.0)
    """
    if len(decoder_rows) < 2:
        return 0, math.nan
    decoder, encoder = F.normalize(decoder_rows, dim=1), F.normalize(encoder_rows, dim=1)
    closest = torch.full((len(decoder),), -1.0, device=decoder.device)
    for start in range(0, len(decoder), 1024):
        part = slice(start, start + 1024)
        cosine = (decoder[part] @ decoder.T).minimum(encoder[part] @ encoder.T)
        own = torch.arange(start, start + len(cosine), device=cosine.device)
        cosine[torch.arange(len(cosine), device=cosine.device), own] = -1.0
        closest[part] = cosine.max(dim=1).values
    return int((closest > threshold).sum()), float(closest.max())


@torch.no_grad()
def duplicates(evidence: Evidence) -> Finding | None:
    """Find pairs of active latents that read and write the same direction."""
    sae, rows = evidence.sae, evidence.training
    if sae is None or rows is None:
        return None
    active = (rows.density > 0).nonzero().flatten()
    if len(active) > MOST_COMPARED:
        active = rows.density.topk(MOST_COMPARED).indices
    chosen = active.to(sae.W_dec.device)
    n, closest = twins(sae.directions[chosen], sae.encoder_rows[chosen])
    if not len(active) or not n > SOME_TWINS * len(active):
        return None
    return Finding(
        "duplicates",
        "warning" if n > MANY_TWINS * len(active) else "note",
        f"{n} of {len(active)} active latents have a twin with a cosine above {TWIN_COSINE} in "
        f"encoder and decoder alike (closest {closest:.3f})",
        "the dictionary is wider than the data need, or latents began as copies",
        "lower d_sae or k, and count features after merging twins",
    )
