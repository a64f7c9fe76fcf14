"""Unlearning on recordings: what clamped latents cost the decoding of each variable."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from saebook.errors import ConfigError, DataError, SelectionError
from saebook.evaluation.examples import Examples, same_width
from saebook.evaluation.readers import Reader
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.evaluation.tuning import tuning_table
from saebook.evaluation.unlearning import (
    ActivitySums,
    Clamp,
    LatentEvidence,
    Unit,
    edited,
    sizes,
)
from saebook.evaluation.unlearning_sweep import Damage
from saebook.evaluation.variables import Variable

# A variable that could not be decoded to begin with can't be forgotten, nor kept.
DECODABLE = 0.05
NOTHING = Clamp((), ())


def evidence_from_tuning(
    sae: Any,
    x: Any,
    variables: Sequence[Variable],
    forget: str,
    rows: Any,
    *,
    unit: Unit = "activity",
) -> LatentEvidence:
    """How much of each latent the variable to forget explains, and the others at most.

    Where one is to forget a variable and not a set of rows, shares of variance explained stand
    in for shares of rows.

    Parameters
    ----------
    sae : SAE
        A model of single rows.
    x : array or Tensor
        [n_rows, d_in], every row of the store.
    variables : sequence of Variable
        Over every row of the store.
    forget : str
        Name of the one to forget; all others are to be kept.
    rows : array of int
        Training rows, ascending.
    unit : {"activity", "norm"}
        What multipliers multiply: see :func:`~saebook.evaluation.sizes`.

    Returns
    -------
    LatentEvidence
        ``forget`` and ``retain`` are cross-validated shares of variance explained, not below 0;
        ``retain`` is the largest over the other variables.

    Raises
    ------
    DataError
        No variable has this name, or there is none beside it.
    """
    names = _names(variables, forget)
    latents, activity = [], ActivitySums()
    with scoring(sae):
        for part in _tensor(sae, x)[np.asarray(rows)].split(4096):
            f = reconstruct(sae, part)[0]
            activity.update(f)
            latents.append(f.cpu().numpy())
    explained = tuning_table(np.concatenate(latents), variables, rows).clip(lower=0.0)
    others = [name for name in names if name != forget]
    return LatentEvidence(
        forget=explained[forget].to_numpy(),
        retain=explained[others].to_numpy().max(axis=1),
        frequency=activity.frequency,
        size=sizes(sae, activity.mean_activity, unit),
    )


def decoding_damage(
    sae: Any,
    x: Any,
    variables: Sequence[Variable],
    forget: str,
    *,
    train: Any,
    test: Any,
    validation: Any = None,
    readout: Literal["counts", "latents"] = "counts",
    keep_error: bool = True,
    refit: bool = False,
) -> Damage:
    """Make the function that tells what clamps cost the decoding of each variable.

    Parameters
    ----------
    sae : SAE
        A model of single rows.
    x : array or Tensor
        [n_rows, d_in], every row of the store.
    variables : sequence of Variable
        Over every row of the store.
    forget : str
        Name of the one to forget; all others are to be kept.
    train, test : array of int
        Rows that fit the readouts, and rows that judge the damage.
    validation : array of int, optional
        Rows for choosing among settings, so that ``test`` does not.
    readout : {"counts", "latents"}
        Decode from the edited inputs, as later areas would, or from the latents themselves.
    keep_error : bool
        For counts: add back what the SAE does not reconstruct (see
        :func:`~saebook.evaluation.edited`). It holds part of every variable, so what is
        forgotten from the reconstruction may still be read from there.
    refit : bool
        Fit the readouts on clamped training rows. Kept as they are, they ask whether a reader
        that knew the intact signal is misled; fitted again, whether the variable is gone. A
        latent clamped below zero still says when it was active, so a new readout may find it.

    Returns
    -------
    callable
        From clamps to one dictionary each: ``forget``, the share lost of the score of the
        variable to forget; ``retain``, the mean share lost over the others, and
        ``retain_worst``, the largest; ``score_<name>`` per variable; with ``validation`` also
        ``forget_validation`` and ``retain_validation``. A share is 1 where nothing is left, and
        below 0 where decoding improved.

    Raises
    ------
    SelectionError
        The variable to forget, or every other one, can't be decoded to begin with.
    DataError, ConfigError
        Shapes, names or settings don't fit.

    Warns
    -----
    UserWarning
        Names the variables to keep that can't be decoded to begin with: they count as neither
        kept nor lost.

    Notes
    -----
    Readouts and their scores are those of :class:`~saebook.evaluation.Reader`.
    """
    names = _names(variables, forget)
    if readout not in ("counts", "latents"):
        raise ConfigError(f"readout = {readout!r}: give 'counts' or 'latents'")
    whole = _tensor(sae, x)
    parts = {"test": np.asarray(test)}
    if validation is not None:
        parts["validation"] = np.asarray(validation)
    train = np.asarray(train)

    def features(rows: np.ndarray, clamp: Clamp) -> np.ndarray:
        batches = whole[rows].split(4096)
        with scoring(sae):
            if readout == "latents":
                made = [clamp(reconstruct(sae, batch)[0]) for batch in batches]
            else:
                made = [edited(sae, batch, clamp, keep_error=keep_error) for batch in batches]
        return torch.cat(made).double().cpu().numpy()

    def fitted(clamp: Clamp) -> dict[str, Reader]:
        seen = features(train, clamp)
        return {v.name: Reader(v, seen, train) for v in variables}

    def scores(readers: dict[str, Reader], clamp: Clamp, rows: np.ndarray) -> dict[str, float]:
        seen = features(rows, clamp)
        return {name: readers[name].score(seen, rows) for name in names}

    intact = fitted(NOTHING)
    before = {part: scores(intact, NOTHING, rows) for part, rows in parts.items()}
    kept = _decodable(before, forget)

    def damage(clamps: Sequence[Clamp]) -> list[dict[str, float]]:
        results = []
        for clamp in clamps:
            readers = fitted(clamp) if refit else intact
            row: dict[str, float] = {}
            for part, rows in parts.items():
                after = scores(readers, clamp, rows)
                lost = {n: 1 - max(after[n], 0.0) / before[part][n] for n in (forget, *kept)}
                others = [lost[n] for n in kept]
                suffix = "" if part == "test" else f"_{part}"
                row |= {f"forget{suffix}": lost[forget], f"retain{suffix}": float(np.mean(others))}
                if part == "test":
                    row["retain_worst"] = max(others)
                    row |= {f"score_{n}": after[n] for n in names}
            results.append(row)
        return results

    return damage


def decoding_scores(
    sae: Any, x: Any, variables: Sequence[Variable], *, train: Any, test: Any
) -> pd.DataFrame:
    """How well each variable is decoded to begin with, from inputs, reconstructions and latents.

    Parameters
    ----------
    sae : SAE
        A model of single rows.
    x : array or Tensor
        [n_rows, d_in], every row of the store.
    variables : sequence of Variable
        Over every row of the store.
    train, test : array of int
        Rows that fit the readouts, and rows that are scored.

    Returns
    -------
    DataFrame
        One row per variable: ``inputs``, ``reconstruction``, ``latents``; the score is that of
        :class:`~saebook.evaluation.Reader`.
    """
    whole, columns = _tensor(sae, x), {}
    takes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "inputs": lambda batch: batch,
        "reconstruction": lambda batch: reconstruct(sae, batch)[1],
        "latents": lambda batch: reconstruct(sae, batch)[0],
    }
    for name, take in takes.items():
        with scoring(sae):
            seen = {
                part: torch.cat([take(b) for b in whole[np.asarray(rows)].split(4096)])
                .double()
                .cpu()
                .numpy()
                for part, rows in (("train", train), ("test", test))
            }
        columns[name] = [
            Reader(v, seen["train"], np.asarray(train)).score(seen["test"], np.asarray(test))
            for v in variables
        ]
    return pd.DataFrame(columns, index=pd.Index([v.name for v in variables], name="variable"))


def _names(variables: Sequence[Variable], forget: str) -> list[str]:
    names = [variable.name for variable in variables]
    if len(set(names)) < len(names):
        raise DataError(f"two variables share a name: {sorted(names)}")
    if forget not in names or len(names) < 2:
        raise DataError(
            f"forget = {forget!r}, and the variables are {names}: name one of them, and have at "
            "least one other to keep"
        )
    return names


def _decodable(before: dict[str, dict[str, float]], forget: str) -> list[str]:
    """Variables to keep that can be decoded to begin with, in every part."""
    able = [n for n in before["test"] if min(part[n] for part in before.values()) >= DECODABLE]
    scores = ", ".join(f"{n} {score:.3f}" for n, score in before["test"].items())
    if forget not in able or len(able) < 2:
        raise SelectionError(
            f"decoding scores before any clamp: {scores}. The variable to forget and at least "
            f"one other need {DECODABLE}: choose variables that the recording holds"
        )
    if len(able) < len(before["test"]):
        left = ", ".join(f"{n} {s:.3f}" for n, s in before["test"].items() if n not in able)
        warnings.warn(
            f"not decodable before any clamp, so neither kept nor lost: {left} (at least "
            f"{DECODABLE} is needed on all rows that are scored)",
            stacklevel=3,
        )
    return [n for n in able if n != forget]


def _tensor(sae: Any, x: Any) -> torch.Tensor:
    config = getattr(sae, "config", None)
    if config is not None and (config.seq_len > 1 or config.is_transcoder):
        raise ConfigError(
            "clamped reconstructions replace single rows: this model takes windows, or "
            "reconstructs something else than its input"
        )
    whole = torch.as_tensor(np.asarray(x) if not isinstance(x, torch.Tensor) else x)
    if whole.ndim != 2:
        raise DataError(f"x has shape {tuple(whole.shape)}: give [n_rows, d_in]")
    same_width(sae, Examples(whole, None))
    return whole if whole.is_floating_point() else whole.float()
