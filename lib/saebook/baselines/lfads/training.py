"""Training LFADS: coordinated dropout, ramps, and the epoch that predicts unseen counts best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from saebook.baselines.lfads.cells import drop_with
from saebook.baselines.lfads.losses import hidden_parts, hide, hide_where, poisson_nll, ramp
from saebook.baselines.lfads.model import LFADSModel
from saebook.errors import TrainingError
from saebook.metrics import bits_per_spike

# Spikes per bin below which no unit's mean is taken to be.
LEAST_RATE = 1e-4


@dataclass(frozen=True)
class Windows:
    """Windows to train on or to score.

    Parameters
    ----------
    seen
        [n, T, n_units]: counts that the encoders may see.
    targets
        [n, T, n_targets]: counts to predict, those seen first.
    """

    seen: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def n_seen(self) -> int:
        """Units that the encoders see."""
        return self.seen.shape[2]

    @property
    def has_held_out(self) -> bool:
        """Whether there are units that the encoders don't see."""
        return self.targets.shape[2] > self.n_seen

    def batch(self, rows: Tensor) -> Windows:
        """Some of them."""
        return Windows(self.seen[rows], self.targets[rows])

    def to(self, device: torch.device) -> Windows:
        """The same on a device."""
        return Windows(self.seen.to(device), self.targets.to(device))


def train(
    model: LFADSModel, windows: Windows, validation: Windows, *, seed: int, progress: bool = False
) -> pd.DataFrame:
    """Train until the validation score no longer improves; the model ends as at its best epoch.

    Parameters
    ----------
    model
        On the device of the windows; changed in place.
    windows
        Those to learn from.
    validation
        Those that choose the epoch and the learning rate, of other trials.
    seed
        Of the order of windows, dropout and posterior draws.
    progress
        Show a bar over epochs.

    Returns
    -------
    DataFrame
        One row per epoch, index `epoch`: `train_bits` and `validation_bits`, bits per spike over
        the training mean rates on counts that the encoders didn't see; `smoothed_bits`; `kl`,
        nats per window; `learning_rate`; `best`, true for the epoch that was kept.

    Raises
    ------
    TrainingError
        A loss is not finite.
    """
    from tqdm.auto import trange

    config, device = model.config, windows.seen.device
    generator = torch.Generator(device).manual_seed(seed)
    mean_rates = windows.targets.mean(dim=(0, 1)).clamp_min(LEAST_RATE)
    with torch.no_grad():
        model.readout.bias.copy_(mean_rates.log())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    # Every epoch is scored on the same parts of the counts.
    parts = _parts(validation, config.coordinated_dropout, seed)
    plateau = Plateau(config.lr_patience)
    best = Plateau(config.patience)
    rows, kept, smoothed = [], {}, -math.inf
    with (
        one_thread_if_small(model),
        trange(config.max_epochs, desc="LFADS", unit="epoch", disable=not progress) as epochs,
    ):
        for epoch in epochs:
            rate = optimizer.param_groups[0]["lr"]
            bits, kl = _epoch(model, windows, mean_rates, optimizer, epoch, generator)
            score = validation_bits(model, validation, mean_rates, parts)
            if not all(map(math.isfinite, (bits, kl, score))):
                raise TrainingError(
                    f"LFADS: in epoch {epoch} the score is {bits} bits/spike in training and "
                    f"{score} in validation, the divergence {kl}. Lower learning_rate "
                    f"({rate:g}), or look for counts far above all others"
                )
            share = config.smoothing if rows else 1.0
            smoothed = score * share + (smoothed * (1 - share) if rows else 0.0)
            if best.improved(smoothed):
                kept = {name: value.clone() for name, value in model.state_dict().items()}
                best_epoch = epoch
            rows.append((bits, score, smoothed, kl, rate))
            if not plateau.improved(smoothed) and plateau.over:
                optimizer.param_groups[0]["lr"] = max(
                    rate * config.lr_decay, config.min_learning_rate
                )
                plateau.since = 0
            if epoch % 5 == 0:
                epochs.set_postfix(
                    train=f"{bits:.3f}", val=f"{smoothed:.3f}", kl=f"{kl:.1f}", refresh=False
                )
            if best.over:
                break
    model.load_state_dict(kept)
    columns = ["train_bits", "validation_bits", "smoothed_bits", "kl", "learning_rate"]
    history = pd.DataFrame(rows, columns=columns).rename_axis("epoch")
    history["best"] = history.index == best_epoch
    return history


class Plateau:
    """Counts epochs since the last improvement."""

    def __init__(self, patience: int) -> None:
        self.patience, self.best, self.since = patience, -math.inf, 0

    def improved(self, score: float) -> bool:
        """Take in an epoch's score, higher is better; whether it is the best so far."""
        better = score > self.best
        self.best, self.since = (score, 0) if better else (self.best, self.since + 1)
        return better

    @property
    def over(self) -> bool:
        """Whether patience is used up."""
        return self.since >= self.patience


def objective(
    model: LFADSModel, batch: Windows, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss of one training step.

    Parameters
    ----------
    model
        LFADS.
    batch
        Windows.
    share
        Of the full weight of the regularisers: see :func:`ramp`.
    generator
        Source of masks, dropout and posterior draws.

    Returns
    -------
    tuple of Tensor
        The loss, 0-d: ``(Σ NLL of counts that weren't seen) / (number of counts) + share · (KL
        and L2 terms)``; log rates [T, B, n_targets]; booleans of that shape, true where the
        counts weren't seen; the divergence, 0-d, nats per window. Where coordinated dropout is
        0, all counts are scored.
    """
    config = model.config
    seen, hidden = batch.seen, torch.ones_like(batch.targets, dtype=torch.bool)
    if config.coordinated_dropout:
        seen, hidden[:, :, : batch.n_seen] = hide(seen, config.coordinated_dropout, generator)
    drop = drop_with(config.dropout, generator)
    noise = model.noise(seen.shape[1], len(seen), generator)
    output = model.decode(model.encode(seen, drop), *noise, drop)
    hidden = hidden.transpose(0, 1)
    nll = poisson_nll(output.log_rates, batch.targets.transpose(0, 1)).where(hidden, 0.0).mean()
    kl_initial, kl_inputs = output.kl_initial.mean(), output.kl_inputs.mean()
    penalty = config.kl_initial * kl_initial + config.kl_inputs * kl_inputs
    loss = nll + share * (penalty + config.l2 * model.recurrent_square())
    return loss, output.log_rates.detach(), hidden, (kl_initial + kl_inputs).detach()


def _epoch(
    model: LFADSModel,
    windows: Windows,
    mean_rates: Tensor,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """One pass over all windows: bits per spike of unseen counts, and the divergence."""
    config = model.config
    order = torch.randperm(len(windows), generator=generator, device=generator.device)
    bits, n_spikes, divergence = 0.0, 0.0, 0.0
    for rows in order.split(config.batch_size):
        batch = windows.batch(rows)
        loss, log_rates, hidden, kl = objective(
            model, batch, ramp(epoch, config.ramp_epochs), generator
        )
        optimizer.zero_grad()
        (config.loss_scale * loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        # Clipping divides by the norm: an infinite one would leave the model where it is.
        if not bool(norm.isfinite()):
            return math.nan, math.nan
        optimizer.step()
        # A count of 0 under the mean rate in both predictions adds nothing to their difference.
        counts = batch.targets.transpose(0, 1).where(hidden, 0.0).flatten(0, 1)
        rates = log_rates.exp().where(hidden, mean_rates).flatten(0, 1)
        n = float(counts.sum())
        if n:
            bits += n * bits_per_spike(counts, rates.clamp_min(1e-9), mean_rates)
        n_spikes += n
        divergence += float(kl) * len(batch)
    return bits / max(n_spikes, 1.0), divergence / len(windows)


@torch.no_grad()
def validation_bits(
    model: LFADSModel, windows: Windows, mean_rates: Tensor, parts: list[Tensor]
) -> float:
    """Bits per spike of counts that the encoders don't see, at the posterior's mean.

    With held-out units: of theirs. Otherwise of every count, each predicted while its own part
    of the counts is hidden, so that copying the input earns nothing.

    Parameters
    ----------
    model
        LFADS.
    windows
        Windows to score.
    mean_rates
        [n_targets], spikes per bin: the constant rates to beat.
    parts
        Booleans [n, T, n_units], of which one is true for each count; with held-out units none.
    """
    n_seen = windows.n_seen
    rates = []
    for first in range(0, len(windows), model.config.batch_size):
        rows = slice(first, first + model.config.batch_size)
        seen = windows.seen[rows]
        if windows.has_held_out:
            rates.append(mean_path_rates(model, seen)[:, :, n_seen:])
            continue
        merged = torch.zeros_like(seen)
        for part in parts:
            hidden = part[rows]
            merged += mean_path_rates(model, hide_where(seen, hidden)).where(hidden, 0.0)
        rates.append(merged if parts else mean_path_rates(model, seen))
    scored = slice(n_seen, None) if windows.has_held_out else slice(None)
    counts = windows.targets[:, :, scored].flatten(0, 1)
    predicted = torch.cat(rates).flatten(0, 1).clamp_min(1e-9)
    if not bool(predicted.isfinite().all()):
        return math.nan
    return bits_per_spike(counts, predicted, mean_rates[scored])


def mean_path_rates(model: LFADSModel, seen: Tensor) -> Tensor:
    """Rates [B, T, n_targets], spikes per bin, with all draws at their means."""
    noise = model.noise(seen.shape[1], len(seen))
    return model.decode(model.encode(seen), *noise).log_rates.exp().transpose(0, 1)


def _parts(windows: Windows, p: float, seed: int) -> list[Tensor]:
    if windows.has_held_out or not p:
        return []
    generator = torch.Generator(windows.seen.device).manual_seed(seed)
    return hidden_parts(windows.seen.shape, p, generator)


@contextmanager
def one_thread_if_small(model: LFADSModel) -> Iterator[None]:
    """Torch computes on one thread inside, where states are few and the model is on a CPU.

    A step takes microseconds there, and as long again for threads to meet at its end.
    """
    threads = torch.get_num_threads()
    is_small = model.config.generator_dim <= 256 and model.prior_mean.device.type == "cpu"
    if threads == 1 or not is_small:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
