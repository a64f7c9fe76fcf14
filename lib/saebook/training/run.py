"""A finished training run, in memory and on disk."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from saebook.errors import CheckpointError
from saebook.metrics import CardSums, ScoreCard
from saebook.models import SAE, load_sae, save_sae
from saebook.training.examples import as_batch

HISTORY, RECORD, MODEL = "history.parquet", "run.json", "sae"
SETTLE_ENTRIES = 2**24  # latents looked at to describe a decoder that is not linear


@dataclass(frozen=True)
class Run:
    """What training leaves behind.

    Attributes
    ----------
    sae
        The trained model, in eval mode.
    card
        Scores on the rows named by ``card["split"]``, as
        :meth:`saebook.metrics.ScoreCard.to_dict` gives them: ``fvu``,
        ``explained_variance``, ``l0``, ``dead_fraction``, ``dense_fraction``, … Empty for a member
        of a stack that diverged.
    history
        One row per log: ``step``, ``examples``, ``learning_rate``, every loss term, ``total``,
        ``fvu``, ``worst_example``, ``l0``, ``dead``, ``grad_norm``, and what was asked for.
    findings
        What a reader should know before trusting the run, by name: the measured evidence, the
        likely cause and the remedy, as :func:`saebook.training.diagnose` found them at its end.
        Empty when nothing stood out.
    path
        Its folder, when it was given one.
    settings
        What it was made with, as dictionaries: ``sae``, ``train``, ``seed`` and ``data``.
    """

    sae: SAE
    card: dict[str, Any]
    history: pd.DataFrame
    findings: dict[str, str]
    path: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def save_run(run: Run, path: Path, settings: dict[str, Any]) -> None:
    """Write a run; its record comes last, and marks it as complete."""
    path.mkdir(parents=True, exist_ok=True)
    save_sae(run.sae, path / MODEL)
    partial = path / f"{HISTORY}.partial-{os.getpid()}"
    run.history.to_parquet(partial, index=False)
    partial.replace(path / HISTORY)
    record = {
        "settings": settings,
        "card": run.card,
        "findings": run.findings,
    }
    partial = path / f"{RECORD}.partial-{os.getpid()}"
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(path / RECORD)


def load_run(path: str | Path) -> Run:
    """Read a finished run from its folder.

    Raises
    ------
    CheckpointError
        The folder holds no finished run, or a damaged one.
    """
    path = Path(path)
    record = read_record(path)
    if record is None:
        raise CheckpointError(f"{path}: no finished run there ({RECORD} is missing)")
    try:
        history = pd.read_parquet(path / HISTORY)
    except OSError as error:
        raise CheckpointError(f"{path / HISTORY}: can't be read ({error})") from error
    sae = load_sae(path / MODEL)
    return Run(sae, record["card"], history, record["findings"], path, record["settings"])


def read_record(path: Path) -> dict[str, Any] | None:
    """Record of a finished run, or None where there is none yet."""
    file = path / RECORD
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); remove the folder") from error


@torch.no_grad()
def settle(sae: SAE, x: Tensor, rows: int = 100_000) -> None:
    """Settle what waits for the end of training on training examples x, and enter eval mode."""
    x = x[:: -(-len(x) // rows)].to(sae.W_dec.device, sae.W_dec.dtype)
    if sae.selects_topk:
        # The architecture's own rule has not been in force: it begins where topk left off.
        few = x[:: max(1, len(x) * sae.config.d_sae // SETTLE_ENTRIES)]
        sae.config.selection.fit(sae, sae.pre_activations(few))
        sae.selects_topk = False
    sae.config.selection.finish(sae, x)
    sae.eval()
    every = max(1, len(x) * sae.config.d_sae // SETTLE_ENTRIES)
    sae.config.decoding.settle(sae, sae.encode(x[::every]))


@torch.no_grad()
def score(sae: SAE, x: Tensor, split: str, centre: Tensor | None, rows: int = 8192) -> ScoreCard:
    """Score an SAE in eval mode on examples x [n, ...].

    ``centre`` [d_in], the mean of the training rows, is given for spike counts only: it adds
    the control that copies raw units (see :class:`saebook.metrics.CardSums`).
    """
    sums = CardSums(
        centre=centre,
        positive_only=sae.config.selection.positive_only,
        retired=sae.retired,
    )
    for part in x.split(rows):
        batch = as_batch(part.to(sae.W_dec), sae.config)
        latents = sae.encode(batch.x)
        reconstruction = sae.decode(latents, sae.context(batch.x))
        sums.update(sae.target_of(batch.x, batch.target), latents, reconstruction)
    return sums.card(split)
