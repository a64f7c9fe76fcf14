"""Sums behind score cards of spliced SAEs, over batches of any size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from saebook.errors import DataError, SelectionError
from saebook.evaluation.language_card import SplicedLosses
from saebook.evaluation.language_passes import ANCHORS
from saebook.metrics import CardSums, ShrinkageSums


class Observed:
    """What SAEs made of the activations that they replaced."""

    def __init__(self, saes: Mapping[str, Any]) -> None:
        rules = {
            name: getattr(getattr(s, "config", None), "selection", None) for name, s in saes.items()
        }
        self._cards = {
            name: CardSums(
                positive_only=getattr(rules[name], "positive_only", False),
                retired=getattr(sae, "retired", None),
            )
            for name, sae in saes.items()
        }
        self._shrinkage = {name: ShrinkageSums() for name in saes}
        self._l1 = dict.fromkeys(saes, 0.0)

    def update(self, name: str, x: Tensor, latents: Tensor, made: Tensor) -> None:
        """Add the kept positions of one batch: [n, d_in], [n, d_sae] and [n, d_in]."""
        self._cards[name].update(x, latents, made)
        self._shrinkage[name].update(x, made)
        self._l1[name] += float(latents.abs().sum(dtype=torch.float64))

    def scores(self, name: str) -> dict[str, Any]:
        """Reconstruction, mse, l1 and shrinkage of one SAE."""
        sums = self._cards[name].reconstruction
        if not sums.n_examples:
            raise SelectionError("no position was kept: check the mask and the batches")
        return {
            "reconstruction": self._cards[name].card(split="spliced"),
            "mse": sums.squared_error / sums.n_examples,
            "l1": self._l1[name] / sums.n_examples,
            "shrinkage": self._shrinkage[name].shrinkage(),
        }


class Totals:
    """Sums of losses by pass, divided at the end."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sums = dict.fromkeys(names, 0.0)
        self._counts = dict.fromkeys(self._sums, 0)

    def add(self, name: str, values: Tensor, weight: int = 1) -> None:
        """Add losses [n], each standing for ``weight`` items."""
        if not bool(values.isfinite().all()):
            raise DataError(f"a loss of the {name} pass is not finite: check the loss function")
        self._sums[name] += weight * float(values.sum(dtype=torch.float64))
        self._counts[name] += weight * len(values)

    def losses(self, name: str) -> SplicedLosses:
        """Mean losses of one SAE beside the anchors."""
        counts = {self._counts[key] for key in (*ANCHORS, name)}
        if len(counts) != 1:
            raise DataError(
                f"the loss gave {sorted(counts)} values in different passes over the same "
                "batches: it has to judge the same items each time"
            )
        (n,) = counts
        if not n:
            raise SelectionError("no prediction was scored: check the mask and the batches")
        clean, zero, mean, own = (self._sums[key] / n for key in (*ANCHORS, name))
        return SplicedLosses(clean, zero, mean, own, n)
