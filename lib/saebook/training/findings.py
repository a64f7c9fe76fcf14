"""What a reader should know about a run before trusting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saebook.models import SAEConfig

MANY_DEAD = 0.2
L0_TOLERANCE = 0.2


@dataclass(frozen=True)
class Finding:
    """One observation: its name, the measured evidence, the likely cause and the remedy."""

    name: str
    evidence: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. {self.cause} {self.remedy}"


def find(config: SAEConfig, card: dict[str, Any], mean_active_inputs: float) -> list[Finding]:
    """Observations on a finished run.

    Parameters
    ----------
    config
        Settings of the model.
    card
        Scores of the run (see :class:`~saebook.training.Run`).
    mean_active_inputs
        Mean number of non-zero entries per training example.

    Examples
    --------
    >>> config = SAEConfig(d_in=20, d_sae=64, k=8)
    >>> card = {"dead": 0.5, "l0": 8.1, "dense": 0.0}
    >>> [finding.name for finding in find(config, card, mean_active_inputs=6.0)]
    ['dead latents', 'enough latents to copy the input']
    """
    findings = []
    if card["dead"] > MANY_DEAD:
        findings.append(
            Finding(
                "dead latents",
                f"{card['dead']:.0%} of {config.d_sae} latents never fired on "
                f"{card.get('n_examples', '?')} held-out examples",
                "The dictionary is wider than the data can fill, or the learning rate killed them.",
                "Use fewer latents, train longer, or lower the learning rate.",
            )
        )
    if config.k is not None and abs(card["l0"] - config.k) > L0_TOLERANCE * config.k:
        findings.append(
            Finding(
                "L0 away from k",
                f"{card['l0']:.2f} active latents per held-out example, k = {config.k}",
                "Held-out examples differ from training ones, or few latents exceed zero.",
                "Compare the splits; for topk, a smaller k may be all that the data need.",
            )
        )
    if config.d_sae >= config.d_in and card["l0"] >= mean_active_inputs:
        findings.append(
            Finding(
                "enough latents to copy the input",
                f"{card['l0']:.1f} latents are active per example, and only "
                f"{mean_active_inputs:.1f} of {config.d_in} inputs are non-zero",
                "One latent per input reconstructs such data perfectly without learning anything.",
                "Lower k, and judge by recovery, held-out units or decoding, not by FVU.",
            )
        )
    return findings
