"""A finished training run, in memory and on disk."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from saebook import metrics
from saebook.errors import CheckpointError
from saebook.models import SAE, load_sae, save_sae
from saebook.training.findings import Finding

HISTORY, RECORD, MODEL = "history.parquet", "run.json", "sae"


@dataclass(frozen=True)
class Run:
    """What training leaves behind.

    Attributes
    ----------
    sae
        The trained model, in eval mode.
    card
        Scores on the rows named by ``card["split"]``: ``fvu``, ``explained_variance``, ``l0``,
        ``dead`` and ``dense`` (shares of latents), ``n_examples``.
    history
        One row per log: ``step``, ``examples``, ``learning_rate``, every loss term, ``total``,
        ``fvu``, ``l0``, ``dead``, ``grad_norm``.
    findings
        What a reader should know before trusting the run; empty when nothing stood out.
    path
        Its folder, when it was given one.
    """

    sae: SAE
    card: dict[str, Any]
    history: pd.DataFrame
    findings: tuple[Finding, ...]
    path: Path | None = None


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
        "findings": [asdict(finding) for finding in run.findings],
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
    findings = tuple(Finding(**finding) for finding in record["findings"])
    return Run(load_sae(path / MODEL), record["card"], history, findings, path)


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
def score(sae: SAE, batches: Any, split: str) -> dict[str, Any]:
    """Card of an SAE over batches [n, d_in]: FVU, explained variance, L0, dead, dense."""
    was_training = sae.training
    sae.eval()
    reconstruction, activity = metrics.ReconstructionSums(), metrics.LatentSums()
    for x in batches:
        latents = sae.encode(x)
        reconstruction.update(x, sae.decode(latents))
        activity.update(latents)
    sae.train(was_training)
    density = activity.density()
    return {
        "split": split,
        "n_examples": reconstruction.n_examples,
        "fvu": reconstruction.fvu(),
        "explained_variance": reconstruction.explained_variance(),
        "l0": activity.l0(),
        "dead": metrics.dead_fraction(density),
        "dense": metrics.dense_fraction(density),
    }
