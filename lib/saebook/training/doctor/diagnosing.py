"""Put a run before every detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saebook.errors import ConfigError
from saebook.training.config import TrainConfig
from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Diagnosis, Finding
from saebook.training.doctor.registry import DETECTORS
from saebook.training.doctor.rows import score_rows
from saebook.training.examples import read_examples

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from saebook.data.store import ExampleStore
    from saebook.models import SAE
    from saebook.training.run import Run

LACKING = {
    "training": "training rows",
    "held_out": "held-out rows",
    "train": "training settings",
    "sae": "a model",
}
# Shares of a run at which it is looked at while it goes on; before the first, little is settled.
LOOKS = tuple(i / 10 for i in range(2, 10))


def diagnose(
    run: Run,
    data: Tensor | np.ndarray | ExampleStore | tuple[Tensor, Tensor] | None = None,
    validation: Tensor | np.ndarray | tuple[Tensor, Tensor] | None = None,
) -> Diagnosis:
    """Name what is wrong with a run, from its history, its card, its weights and its rows.

    Parameters
    ----------
    run
        What training left behind.
    data
        The examples it was trained on, as :func:`saebook.training.fit` takes them; without
        them, the checks that score rows again are left out, and named as such.
    validation
        Rows that were not trained on, as ``data``; a store brings its own.

    Returns
    -------
    Diagnosis
        Findings, the gravest first: what was measured, the likely cause, the remedy. Empty where
        nothing stood out, which is necessary for a sound run but not sufficient.

    Raises
    ------
    DataError
        The examples have the wrong width, or hold NaN.

    Examples
    --------
    A learning rate of 1e-6 moves nothing in 50 steps:

    >>> import torch
    >>> from saebook.models import SAEConfig
    >>> from saebook.training import TrainConfig, fit
    >>> x = torch.rand(512, 8, generator=torch.Generator().manual_seed(0))
    >>> train = TrainConfig(n_steps=50, learning_rate=1e-6, device="cpu")
    >>> run = fit(SAEConfig(d_in=8, d_sae=16, k=2), x, train, progress=False)
    >>> "barely_trained" in diagnose(run, x)
    True
    """
    train, n_steps = _settings(run)
    rows = held_out = None
    if data is not None:
        most = train.resident_gb if train is not None else None
        examples = read_examples(data, validation, run.sae.config, most)
        rows = examples.rows
        held_out = examples.judged if examples.split != "train" else None
    evidence = gather(run.sae, run.history, run.card, train, n_steps, rows, held_out)
    return examine(evidence)


def gather(
    sae: SAE,
    history: pd.DataFrame,
    card: dict[str, Any],
    train: TrainConfig | None,
    n_steps: int | None,
    rows: Tensor | None = None,
    held_out: Tensor | None = None,
) -> Evidence:
    """Measure what the detectors need on rows [n, ...], and put it beside the rest."""
    batch_size = train.batch_size if train is not None else 1024
    scored = [
        score_rows(sae, x, batch_size) if x is not None and len(x) else None
        for x in (rows, held_out)
    ]
    return Evidence(sae.config, history, train, n_steps, card, sae, *scored)


def examine(evidence: Evidence) -> Diagnosis:
    """Ask every detector that has what it needs."""
    findings: list[Finding] = []
    unchecked: dict[str, str] = {}
    for name, detector in DETECTORS.items():
        missing = [need for need in detector.needs if getattr(evidence, need) is None]
        if missing:
            unchecked[name] = LACKING[missing[0]]
            continue
        finding = detector.check(evidence)
        if finding is not None:
            findings.append(finding)
    return Diagnosis(findings, [n for n in DETECTORS if n not in unchecked], unchecked)


class Watch:
    """Looks at a run while it goes on; tells each finding once.

    Parameters
    ----------
    sae
        The model in training.
    train
        Settings of the run.
    n_steps
        Its length.
    """

    def __init__(self, sae: SAE, train: TrainConfig, n_steps: int):
        self._sae, self._train, self._n_steps = sae, train, n_steps
        self._told: set[str] = set()
        self._left = list(LOOKS)

    def look(self, history: list[dict[str, float]]) -> list[Finding]:
        """Findings that were not told before, given the history so far."""
        import pandas as pd

        fraction = history[-1]["step"] / self._n_steps if history else 0.0
        if not self._left or fraction < self._left[0]:
            return []
        self._left = [share for share in self._left if share > fraction]
        evidence = Evidence(
            self._sae.config, pd.DataFrame(history), self._train, self._n_steps, sae=self._sae
        )
        found = [d.check(evidence) for n, d in DETECTORS.items() if d.live and n not in self._told]
        told = [finding for finding in found if finding is not None]
        self._told |= {finding.name for finding in told}
        return told


def _settings(run: Run) -> tuple[TrainConfig | None, int | None]:
    settings = run.settings.get("train")
    if not settings:
        return None, None
    try:
        train = TrainConfig.from_dict(settings)
    except ConfigError:  # a run of another version, whose settings are no longer known
        return None, settings.get("n_steps")
    return train, train.n_steps
