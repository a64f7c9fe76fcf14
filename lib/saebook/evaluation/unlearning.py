"""Forgetting one thing by clamping the latents that stand for it: which ones, and to what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from saebook.errors import ConfigError, DataError, SelectionError
from saebook.evaluation.scorecard import reconstruct, scoring

Unit = Literal["activity", "norm"]


@dataclass(frozen=True, eq=False)
class LatentEvidence:
    """What training rows say of every latent, for choosing which to clamp.

    Attributes
    ----------
    forget, retain
        [d_sae], how much a latent has to do with what is to be forgotten, and with what is to be
        kept: shares of rows on which it is active, or shares of its variance explained.
    frequency
        [d_sae], share of all these rows on which it is active: what random latents are matched
        by.
    size
        [d_sae], activity that a multiplier of 1 stands for.
    """

    forget: np.ndarray
    retain: np.ndarray
    frequency: np.ndarray
    size: np.ndarray

    def __post_init__(self) -> None:
        shapes = {np.shape(getattr(self, n)) for n in ("forget", "retain", "frequency", "size")}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise DataError(f"forget, retain, frequency and size: shapes {shapes}; give [d_sae]")

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.forget)

    def ranked(self, max_retain: float) -> np.ndarray:
        """Latents to clamp, the best first: see :func:`rank_to_forget`."""
        return rank_to_forget(self.forget, self.retain, max_retain)

    def clamp(self, latents: Sequence[int] | np.ndarray, multiplier: float) -> Clamp:
        """Set these latents to ``-multiplier`` times their size wherever they are active."""
        if not np.isfinite(multiplier) or multiplier < 0:
            raise ConfigError(
                f"multiplier = {multiplier}: give 0 to switch latents off, or more to push back"
            )
        chosen = np.asarray(latents, dtype=int)
        return Clamp(tuple(chosen.tolist()), tuple((-multiplier * self.size[chosen]).tolist()))


def rank_to_forget(forget: Any, retain: Any, max_retain: float) -> np.ndarray:
    """Latents that have to do with what is forgotten and hardly with what is kept.

    Parameters
    ----------
    forget, retain : array
        [d_sae] scores on training rows: shares of rows on which a latent is active, say.
    max_retain : float
        Latents whose ``retain`` reaches this are dropped.

    Returns
    -------
    ndarray
        Indices by decreasing ``forget``, ties by index; those at 0 or below are not among them.
        May be empty.

    Raises
    ------
    DataError
        A score is not finite, or shapes differ.

    References
    ----------
    Karvonen et al. 2025, "SAEBench" (arXiv 2503.09532), section on unlearning;
    Farrell et al. 2024, "Applying sparse autoencoders to unlearn knowledge in language models"
    (arXiv 2410.19278).

    Examples
    --------
    >>> rank_to_forget([0.2, 0.5, 0.9, 0.0], [0.0, 0.001, 0.3, 0.0], max_retain=0.01).tolist()
    [1, 0]
    """
    forget, retain = np.asarray(forget, dtype=float), np.asarray(retain, dtype=float)
    if forget.ndim != 1 or forget.shape != retain.shape:
        raise DataError(f"forget {forget.shape} and retain {retain.shape}: give [d_sae] twice")
    if not (np.isfinite(forget).all() and np.isfinite(retain).all()):
        raise DataError("a score of a latent is not finite: score it 0 where it is undefined")
    kept = np.where(retain < max_retain, forget, 0.0)
    order = np.argsort(-kept, kind="stable")
    return order[: int((kept > 0).sum())]


@dataclass(frozen=True)
class Clamp:
    """Latents to set to a value of their own wherever they are active.

    Attributes
    ----------
    latents
        Their indices.
    values
        What each becomes; 0 switches it off, less pushes the reconstruction the other way.

    Examples
    --------
    >>> clamp = Clamp((0, 2), (-1.0, -5.0))
    >>> clamp(torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]])).tolist()
    [[-1.0, 1.0, 0.0], [0.0, 0.0, -5.0]]
    """

    latents: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, latents: Tensor) -> Tensor:
        """Clamped latents [..., d_sae]; the given ones stay as they are."""
        if not self.latents:
            return latents
        clamped = latents.clone()
        chosen = list(self.latents)
        before = latents[..., chosen]
        clamped[..., chosen] = torch.where(before > 0, before.new_tensor(self.values), before)
        return clamped


def edited(sae: Any, x: Tensor, clamp: Clamp, *, keep_error: bool = True) -> Tensor:
    """Inputs as they would be with some latents clamped.

    Parameters
    ----------
    sae : SAE
        Anything with ``encode`` and ``decode``, in eval mode.
    x : Tensor
        [n, d_in], in the units of the model's input.
    clamp : Clamp
        Which latents, and to what.
    keep_error : bool
        Add back what the SAE does not reconstruct, as SAEBench does: ``x - x̂ + x̂'``. Only what
        the latents wrote then changes, and an empty clamp changes nothing. Otherwise ``x̂'``.

    Returns
    -------
    Tensor
        [n, d_in], of the dtype of x.

    Examples
    --------
    >>> from saebook.models import SAE, SAEConfig
    >>> sae = SAE(SAEConfig(d_in=4, d_sae=8, architecture="topk", k=2, reconstruction="mse"))
    >>> x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    >>> sae.fit_inputs(x)
    >>> bool((edited(sae, x, Clamp((), ())) == x).all())
    True
    """
    with scoring(sae):
        latents, made = reconstruct(sae, x)
    return edited_from(sae, x, latents, made, clamp, keep_error=keep_error)


def edited_from(
    sae: Any, x: Tensor, latents: Tensor, made: Tensor, clamp: Clamp, *, keep_error: bool = True
) -> Tensor:
    """As :func:`edited`, from latents and reconstruction of x that are known already."""
    changed = clamp(latents)
    if changed is latents:
        return x if keep_error else made.to(x)
    with scoring(sae):
        context = sae.context(x.to(latents)) if hasattr(sae, "context") else ()
        edit = sae.decode(changed, context) if context else sae.decode(changed)
    return x + (edit - made).to(x) if keep_error else edit.to(x)


def sizes(sae: Any, mean_activity: np.ndarray, unit: Unit = "activity") -> np.ndarray:
    """Activity of each latent that a multiplier of 1 stands for, [d_sae].

    Parameters
    ----------
    sae : SAE
        The model.
    mean_activity : ndarray
        [d_sae], of each latent where it is active, on training rows.
    unit : {"activity", "norm"}
        ``"activity"``: the mean activity, which asks nothing of the scale of the data.
        ``"norm"``: what adds a vector of norm 1 to the reconstruction, in the units of the data,
        which is SAEBench's multiplier: its decoders have rows of norm 1 and no input scaling.

    Raises
    ------
    ConfigError
        Another unit, or a decoder or a scaling under which a latent has no norm of its own.
    """
    if unit == "activity":
        return np.asarray(mean_activity, dtype=float)
    if unit != "norm":
        raise ConfigError(f"unit = {unit!r}: give 'activity' or 'norm'")
    config = getattr(sae, "config", None)
    scaling = getattr(sae, "target_scaling", None)
    linear = config is None or (config.decoder == "linear" and config.output == "none")
    if not linear or (scaling is not None and scaling.mode.per_example):
        raise ConfigError(
            "unit = 'norm' needs latents that add one fixed vector each to the reconstruction: "
            "this model's decoder, output or input scaling bends it; use unit='activity'"
        )
    with torch.no_grad():
        rows = sae.W_dec.detach()
        if scaling is not None:
            rows = scaling.invert(rows) - scaling.invert(torch.zeros_like(rows[:1]))
        norms = rows.double().norm(dim=1).cpu().numpy()
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


class ActivitySums:
    """How often and how strongly each latent is active, summed over batches.

    Examples
    --------
    >>> sums = ActivitySums()
    >>> sums.update(torch.tensor([[0.0, 2.0], [0.0, 4.0]]))
    >>> sums.frequency.tolist(), sums.mean_activity.tolist()
    ([0.0, 1.0], [0.0, 3.0])
    """

    def __init__(self) -> None:
        self.n = 0
        self._active: Any = 0.0
        self._total: Any = 0.0

    def update(self, latents: Tensor) -> None:
        """Add latents [n, d_sae]."""
        self.n += len(latents)
        self._active = self._active + (latents > 0).sum(dim=0).double().cpu().numpy()
        self._total = self._total + latents.clamp_min(0).sum(dim=0).double().cpu().numpy()

    @property
    def frequency(self) -> np.ndarray:
        """Share of rows on which each latent is active, [d_sae]."""
        if not self.n:
            raise SelectionError("no row was given: frequencies are shares of rows")
        return self._active / self.n

    @property
    def mean_activity(self) -> np.ndarray:
        """Mean of each latent over the rows on which it is active, [d_sae]; 0 where it never is."""
        active = np.asarray(self._active, dtype=float)
        return np.divide(self._total, active, out=np.zeros_like(active), where=active > 0)


def evidence_from_rows(
    sae: Any, forget: Iterable[Tensor], retain: Iterable[Tensor], *, unit: Unit = "activity"
) -> LatentEvidence:
    """How often each latent is active on rows to forget and on rows to keep.

    Parameters
    ----------
    sae : SAE
        The model.
    forget, retain : iterable of Tensor
        Batches [n, d_in] of training rows of the two kinds, in the caller's units.
    unit : {"activity", "norm"}
        What multipliers multiply: see :func:`sizes`. Mean activities are those on forget rows,
        and on both kinds for a latent that is active on none of them.

    Returns
    -------
    LatentEvidence
        ``forget`` and ``retain`` are shares of rows; ``frequency`` is the mean of the two, so
        that both kinds count the same.

    Raises
    ------
    SelectionError
        One of the two kinds has no row.

    Examples
    --------
    >>> class Copy:  # a latent per input
    ...     def encode(self, x): return x
    ...     def decode(self, latents): return latents
    >>> evidence = evidence_from_rows(
    ...     Copy(), [torch.tensor([[1.0, 1.0], [3.0, 0.0]])], [torch.tensor([[0.0, 1.0]])]
    ... )
    >>> evidence.forget.tolist(), evidence.retain.tolist(), evidence.size.tolist()
    ([1.0, 0.5], [0.0, 1.0], [2.0, 1.0])
    """
    kinds = []
    for batches in (forget, retain):
        sums = ActivitySums()
        with scoring(sae):
            for x in batches:
                sums.update(reconstruct(sae, x)[0])
        kinds.append(sums)
    own, other = kinds
    mean = np.where(own.frequency > 0, own.mean_activity, other.mean_activity)
    return LatentEvidence(
        forget=own.frequency,
        retain=other.frequency,
        frequency=(own.frequency + other.frequency) / 2,
        size=sizes(sae, mean, unit),
    )
