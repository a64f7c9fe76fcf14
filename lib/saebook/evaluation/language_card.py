"""Score cards of an SAE inside a model: what it costs beside what ablations cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from saebook.metrics import ScoreCard, loss_recovered


@dataclass(frozen=True)
class SplicedLosses:
    """Mean losses of a model, clean and with one site replaced, on the same items.

    Parameters
    ----------
    clean, zero, mean, spliced : float
        With the activations as they are, zero, their mean, and reconstructed.
    n : int
        Items averaged: predictions, images, ….

    Examples
    --------
    >>> losses = SplicedLosses(clean=3.0, zero=11.0, mean=7.0, spliced=3.4, n=100)
    >>> round(losses.delta, 3), losses.score, round(losses.score_of_mean, 3)
    (0.4, 0.95, 0.5)
    >>> round(losses.recovered_from_mean, 3)
    0.9
    """

    clean: float
    zero: float
    mean: float
    spliced: float
    n: int

    @property
    def delta(self) -> float:
        """What the reconstruction costs: spliced minus clean."""
        return self.spliced - self.clean

    @property
    def score(self) -> float:
        """Share of the loss recovered from zero-ablation: 1 perfect, 0 as zeros."""
        return loss_recovered(self.clean, self.zero, self.spliced)

    @property
    def score_of_mean(self) -> float:
        """The same of the mean, which knows nothing of any single position."""
        return loss_recovered(self.clean, self.zero, self.mean)

    @property
    def recovered_from_mean(self) -> float:
        """Share of the loss recovered from mean-ablation: 1 perfect, 0 as the mean."""
        return loss_recovered(self.clean, self.mean, self.spliced)


@dataclass(frozen=True, eq=False)
class TaskCard:
    """What an SAE costs a model at its task, with its reconstruction.

    Parameters
    ----------
    loss : SplicedLosses
        Of the task.
    reconstruction : ScoreCard
        At the replaced positions.
    mse, l1, shrinkage : float
        Squared error per position, summed over d_model; latents summed; γ. See
        ``saebook.metrics.shrinkage``.
    """

    loss: SplicedLosses
    reconstruction: ScoreCard
    mse: float
    l1: float
    shrinkage: float
    name: str = "task loss"

    def rows(self) -> list[tuple[str, str, str]]:
        """The card as (score, value, remark) lines of text, in reading order."""
        return [*_loss_rows(self.name, "", self.loss), *self._reconstruction_rows()]

    def _reconstruction_rows(self) -> list[tuple[str, str, str]]:
        made = self.reconstruction
        return [
            ("Explained variance", _text(made.explained_variance), "1 perfect, 0 the mean"),
            ("MSE", f"{self.mse:.4g}", f"per position, over {made.d_in} dimensions"),
            ("Cosine", _text(made.cosine), "of x and x̂"),
            ("L2 ratio", _text(made.l2_ratio), "‖x̂‖/‖x‖"),
            ("Shrinkage γ", _text(self.shrinkage), "below 1: too small as a whole"),
            ("L0", f"{made.l0:.2f}", f"of {made.d_sae} latents; fewer is sparser"),
            ("L1", f"{self.l1:.4g}", "of latents; larger is *less* sparse"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Every score as a plain number, NaN where undefined, ready for a table."""
        return {
            **_loss_values("loss", self.loss),
            **self._reconstruction_values(),
        }

    def _reconstruction_values(self) -> dict[str, Any]:
        made = self.reconstruction
        return {
            "explained_variance": made.explained_variance,
            "mse": self.mse,
            "cosine": made.cosine,
            "l2_ratio": made.l2_ratio,
            "shrinkage": self.shrinkage,
            "l0": made.l0,
            "l1": self.l1,
            "n_positions": made.n_examples,
        }

    @property
    def _title(self) -> str:
        return f"Spliced in: {self.reconstruction.n_examples:,} positions replaced"

    def __str__(self) -> str:
        rows = self.rows()
        left, middle = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [self._title, "-" * len(self._title)]
        lines += [f"{name:<{left}}  {value:>{middle}}  {remark}" for name, value, remark in rows]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class LanguageCard(TaskCard):
    """Scores of one SAE inside a language model; prints as a table.

    Every number is over the same mask: ``reconstruction`` over the kept positions, ``loss`` and
    ``kl`` over the predictions made at them (see ``saebook.metrics.scored_positions``).

    Parameters
    ----------
    loss : SplicedLosses
        Next-token cross-entropy, nats.
    kl : SplicedLosses
        KL divergence from the clean prediction, nats; 0 for the clean pass.
    counted : ScoreCard
        Where dead latents and densities were counted: the kept positions, or more of them.
    masked : dict
        Reason to number of positions left out.
    """

    name: str = "CE"
    kl: SplicedLosses = field(default=SplicedLosses(0.0, math.nan, math.nan, math.nan, 0))
    counted: ScoreCard = field(kw_only=True)
    masked: dict[str, int] = field(default_factory=dict)

    @property
    def flags(self) -> dict[str, str]:
        """Name of each warning to a sentence that explains it."""
        found = {}
        if self.reconstruction.l0 == 0:
            found["silent"] = (
                "no latent is active: L0 = 0 is not extreme sparsity but no code at all; check "
                "that the trained model is the one scored"
            )
        if self.loss.recovered_from_mean < 0:
            found["worse_than_mean"] = (
                f"the mean in place of every activation costs {self.loss.mean - self.loss.clean:.3f}"
                f" nats, this SAE {self.loss.delta:.3f}"
            )
        if math.isnan(self.loss.score):
            found["nothing_to_recover"] = "zero-ablation costs nothing here: scores are undefined"
        return found

    def rows(self) -> list[tuple[str, str, str]]:
        """The card as (score, value, remark) lines of text, in reading order."""
        counted = self.counted
        return [
            *_loss_rows("CE", " nats", self.loss),
            ("KL", f"{self.kl.spliced:.4f}", f"mean ablation {self.kl.mean:.3f}, "
             f"zero {self.kl.zero:.3f} nats"),
            ("KL score", _text(self.kl.score), f"the mean {_text(self.kl.score_of_mean)}"),
            *self._reconstruction_rows(),
            ("Dead latents", f"{counted.dead_fraction:.1%}",
             f"silent on {counted.n_examples:,} tokens"),
            ("Dense latents", f"{counted.dense_fraction:.1%}", "active on > 50 % of tokens"),
            ("Density, alive", f"{counted.density_summary()['q50']:.2g}", "median"),
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Every score as a plain number, NaN where undefined, ready for a table."""
        return {
            **_loss_values("ce", self.loss),
            **_loss_values("kl", self.kl),
            **self._reconstruction_values(),
            "dead_fraction": self.counted.dead_fraction,
            "dense_fraction": self.counted.dense_fraction,
            "n_counted": self.counted.n_examples,
            "n_predictions": self.loss.n,
        }

    @property
    def _title(self) -> str:
        masked = ", ".join(f"{n:,} {reason}" for reason, n in self.masked.items() if n)
        return (
            f"Spliced in: {self.reconstruction.n_examples:,} positions replaced, {self.loss.n:,} "
            f"predictions scored" + (f" (left alone: {masked})" if masked else "")
        )

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"! {k}: {v}" for k, v in self.flags.items())])


def language_table(cards: Mapping[str, TaskCard]) -> pd.DataFrame:
    """One row per model, with the anchors that its scores stand between.

    Parameters
    ----------
    cards : mapping of str to LanguageCard or TaskCard
        By name, scored on the same batches.

    Returns
    -------
    DataFrame
        Columns as in ``to_dict``, index ``model``.
    """
    rows = {name: card.to_dict() for name, card in cards.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _loss_rows(name: str, unit: str, loss: SplicedLosses) -> list[tuple[str, str, str]]:
    return [
        (f"{name}, clean", f"{loss.clean:.4f}", f"{unit.strip()} over {loss.n:,}".strip()),
        (f"{name}, spliced", f"{loss.spliced:.4f}", f"mean ablation {loss.mean:.3f}, zero "
         f"{loss.zero:.3f}"),
        (f"Δ{'loss' if unit else ' ' + name}", f"{loss.delta:+.4f}", "spliced - clean"),
        (f"{name} score", _text(loss.score), "1 clean, 0 zero ablation; the mean "
         f"{_text(loss.score_of_mean)}"),
        ("Loss recovered", _text(loss.recovered_from_mean), "1 clean, 0 mean ablation"),
    ]  # fmt: skip


def _loss_values(name: str, loss: SplicedLosses) -> dict[str, float]:
    return {
        f"{name}_clean": loss.clean,
        f"{name}_zero": loss.zero,
        f"{name}_mean": loss.mean,
        name: loss.spliced,
        f"delta_{name}": loss.delta,
        f"{name}_score": loss.score,
        f"{name}_score_of_mean": loss.score_of_mean,
        f"{name}_recovered_from_mean": loss.recovered_from_mean,
    }


def _text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
