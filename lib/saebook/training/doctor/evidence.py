"""Everything that detectors may look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from saebook.models import SAE, SAEConfig
from saebook.training.config import TrainConfig
from saebook.training.doctor.rows import RowScores

ADAM_FAMILY = ("adam", "adamw", "nadam")
LATE = 0.1


@dataclass(frozen=True)
class Evidence:
    """What is known of a run, or of its beginning.

    Attributes
    ----------
    config
        Of the model.
    history
        One row per log, as :class:`saebook.training.Run` holds it.
    train
        Settings of the run, where they are known.
    n_steps
        Its length in steps, where it is known.
    card
        Scores as a dictionary; empty before there are any.
    sae
        The model, as it is handed out for evaluation.
    training, held_out
        Scores on training rows, and on rows that were not trained on.
    """

    config: SAEConfig
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    train: TrainConfig | None = None
    n_steps: int | None = None
    card: dict[str, Any] = field(default_factory=dict)
    sae: SAE | None = None
    training: RowScores | None = None
    held_out: RowScores | None = None

    def column(self, name: str) -> pd.Series:
        """A column of the history; empty where there is none."""
        if name not in self.history:
            return pd.Series(dtype=float)
        return pd.Series(self.history[name], dtype=float)

    def first(self, name: str) -> float:
        """Its first value; NaN where there is none."""
        values = self.column(name)
        return float(values.iloc[0]) if len(values) else math.nan

    def late(self, name: str) -> float:
        """Its mean over the last tenth of the rows; NaN where there is none."""
        values = self._tail(name)
        return float(values.mean()) if len(values) else math.nan

    def late_spread(self, name: str) -> float:
        """Its standard deviation there; 0 where there are fewer than two rows."""
        values = self._tail(name)
        return float(values.to_numpy().std(ddof=1)) if len(values) > 1 else 0.0

    def _tail(self, name: str) -> pd.Series:
        values = self.column(name)
        return values.iloc[-max(1, round(LATE * len(values))) :]

    @property
    def wanted_l0(self) -> float | None:
        """Active latents per example that were asked for."""
        return self.config.k or self.config.target_l0

    @property
    def l0(self) -> float:
        """Late in training; else of the card; NaN where neither is known."""
        late = self.late("l0")
        return self.card.get("l0", math.nan) if math.isnan(late) else late

    @property
    def target_variance(self) -> float:
        """Variance of the scaled training targets; NaN without a fitted model."""
        return float(self.sae.target_variance) if self.sae is not None else math.nan

    @property
    def silent_share(self) -> float:
        """Share of latents silent on the training rows, retired ones among them."""
        if self.training is None:
            return math.nan
        return float((self.training.density == 0).double().mean())

    @property
    def dead_share(self) -> float:
        """Share of latents silent on the training rows, retired ones aside."""
        retired = getattr(self.sae, "retired", None)
        if self.training is None or retired is None or bool(retired.all()):
            return self.silent_share
        return float((self.training.density[~retired.cpu()] == 0).double().mean())

    @property
    def relative_step(self) -> float:
        """Largest change of a weight in one step of Adam, against a typical weight.

        Adam moves every weight by about the learning rate, and entries of unit rows are about
        1 / √d_in. NaN for other optimisers.
        """
        if self.train is None or self.train.optimizer not in ADAM_FAMILY:
            return math.nan
        return self.train.learning_rate * math.sqrt(self.config.d_encoder)
