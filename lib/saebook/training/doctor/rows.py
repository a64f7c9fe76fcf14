"""What the rows themselves say about an SAE: one pass over a sample of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saebook.models import SAE
from saebook.training.examples import as_batch

MOST_ROWS = 8192
MOST_ENTRIES = 2**25  # latents, over all rows
N_BLOCKS = 8
HEAVIEST = 1 / 200
N_ALONE = 32
CHANGED = 0.01


@dataclass(frozen=True)
class RowScores:
    """An SAE's scores on a sample of rows, in the order in which they came.

    Attributes
    ----------
    n_examples
        Rows looked at.
    mean_square
        E‖scaled x‖² over the encoder's width: 1 where inputs are on scale.
    heaviest_share
        Share of Σ‖scaled x‖² that lies in the heaviest half per cent of rows.
    fvu, l0
        In eval mode, the FVU against the variance of these rows.
    training_fvu, training_l0
        As a training step would measure them: latents chosen as in training, the error in
        scaled units, against the variance of the rows that the inputs were fitted on.
    block_fvu
        ``fvu`` of consecutive blocks of rows.
    density
        [d_sae] share of rows on which each latent is active, in eval mode.
    batch_dependence
        Share of rows whose latents change by over 1 % of their norm when the row is encoded
        alone, in the mode that the SAE was found in.
    active_fvu
        ``fvu`` of a reconstruction from the active latents alone; NaN where the others are 0
        anyway.
    """

    n_examples: int
    mean_square: float
    heaviest_share: float
    fvu: float
    l0: float
    training_fvu: float
    training_l0: float
    block_fvu: tuple[float, ...]
    density: Tensor = field(repr=False)
    batch_dependence: float
    active_fvu: float = math.nan

    @property
    def block_spread(self) -> float:
        """Standard deviation of FVU between blocks; 0 where there is one block."""
        if len(self.block_fvu) < 2:
            return 0.0
        return float(torch.tensor(self.block_fvu, dtype=torch.float64).std())


@torch.no_grad()
def score_rows(sae: SAE, x: Tensor, batch_size: int = 1024) -> RowScores:
    """Score an SAE on at most ``MOST_ROWS`` evenly spaced rows.

    Parameters
    ----------
    sae
        Left in the mode in which it came.
    x
        Examples [n, ...] as training takes them.
    batch_size
        That of training, which BatchTopK's choice depends on.
    """
    wanted = max(1, min(MOST_ROWS, MOST_ENTRIES // sae.config.d_sae))
    x = x[:: -(-len(x) // wanted)].to(sae.W_dec.device, sae.W_dec.dtype)
    mode = sae.training
    try:
        dependence = _batch_dependence(sae, x)
        sae.train()
        in_training = _training_scores(sae, x, batch_size)
        sae.eval()
        return _eval_scores(sae, x, batch_size, in_training, dependence)
    finally:
        sae.train(mode)


def _batch_dependence(sae: SAE, x: Tensor) -> float:
    probed = as_batch(x[:256], sae.config).x
    every = max(1, len(probed) // N_ALONE)
    together = sae.encode(probed)[::every]
    alone = torch.cat([sae.encode(row[None]) for row in probed[::every]])
    size = together.norm(dim=-1).maximum(alone.norm(dim=-1)).clamp_min(1e-12)
    return float(((together - alone).norm(dim=-1) > CHANGED * size).float().mean())


def _training_scores(sae: SAE, x: Tensor, batch_size: int) -> tuple[float, float]:
    error = active = 0.0
    for part in _batches(x, batch_size):
        batch = as_batch(part, sae.config)
        forward = sae.pass_through(batch.x, batch.target)
        difference = (forward.target_scaled - forward.reconstruction_scaled).double()
        error += float(difference.square().sum())
        active += float(sae.config.selection.active(forward.latents).sum())
    return _ratio(error / len(x), float(sae.target_variance)), active / len(x)


def _eval_scores(
    sae: SAE,
    x: Tensor,
    batch_size: int,
    in_training: tuple[float, float],
    dependence: float,
) -> RowScores:
    errors, squares, targets = [], [], []
    # Where negative latents don't count as active, they may reconstruct all the same.
    leaky, from_active = sae.config.selection.positive_only, 0.0
    firing = torch.zeros(sae.config.d_sae, dtype=torch.float64, device=x.device)
    for part in x.split(batch_size):
        batch = as_batch(part, sae.config)
        latents = sae.encode(batch.x)
        target = sae.target_of(batch.x, batch.target).flatten(1).double()
        made = sae.decode(latents, sae.context(batch.x)).flatten(1).double()
        errors.append((target - made).square().sum(dim=1))
        scaled = sae.scaling(batch.x).flatten(1).double()
        squares.append(scaled.square().sum(dim=1))
        targets.append(target)
        active = sae.config.selection.active(latents)
        firing += active.sum(dim=0)
        if leaky:
            alone = sae.decode(latents * active, sae.context(batch.x)).flatten(1).double()
            from_active += float((target - alone).square().sum())
    error, square, target = torch.cat(errors), torch.cat(squares), torch.cat(targets)
    variance = float((target - target.mean(dim=0)).square().sum(dim=1).mean())
    heaviest = square.topk(max(1, round(HEAVIEST * len(square)))).values.sum()
    n_blocks = min(N_BLOCKS, max(1, len(x) // 32))
    return RowScores(
        n_examples=len(x),
        mean_square=float(square.mean()) / sae.config.d_encoder,
        heaviest_share=_ratio(float(heaviest), float(square.sum())),
        fvu=_ratio(float(error.mean()), variance),
        l0=float(firing.sum()) / len(x),
        training_fvu=in_training[0],
        training_l0=in_training[1],
        block_fvu=tuple(_ratio(float(e.mean()), variance) for e in error.chunk(n_blocks)),
        density=(firing / len(x)).cpu(),
        batch_dependence=dependence,
        active_fvu=_ratio(from_active / len(x), variance) if leaky else math.nan,
    )


def _batches(x: Tensor, batch_size: int) -> list[Tensor]:
    """Rows dealt out like cards, so that a batch is as mixed as in training."""
    n_batches = max(1, len(x) // batch_size)
    return [x[i::n_batches] for i in range(n_batches)]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
