"""Settings to begin with, from what is known of a recording before anything is trained."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from saebook.errors import ConfigError
from saebook.models import SAEConfig
from saebook.training.config import TrainConfig

# Where the logarithmic error recovered more than the squared one, in simulations: with 85 units and
# more (at 56 and fewer the squared one did, at up to 75 spikes in a bin of the population), 17 spikes
# in a bin and more (with 9 and fewer they tied), and 2,500 spikes of each unit (with 430 to 660 the
# squared one did). Between these nothing was tried.
POOLED_UNITS, POOLED_SPIKES, SPIKES_PER_UNIT = 80, 15, 2000
SOME_UNITS, MANY_UNITS = 200, 300
LATENTS_PER_UNIT, ROWS_PER_LATENT = 8, 10
FEWEST_ROWS = 200
BATCH_SIZE, N_STEPS = 512, 1500
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class Recommendation:
    """Settings of a first run, a small range around them, and why.

    Attributes
    ----------
    config
        Of the model.
    train
        Of the run.
    ranges
        Settings of the model worth varying, and over which values.
    reasons
        One sentence for each setting.

    Examples
    --------
    >>> advice = recommend_config(n_units=200, n_examples=20_000, mean_rate=5.0)
    >>> len(advice.sweep), advice.sweep[0].d_in
    (12, 200)
    """

    config: SAEConfig
    train: TrainConfig
    ranges: dict[str, tuple]
    reasons: dict[str, str]

    @property
    def sweep(self) -> tuple[SAEConfig, ...]:
        """Every combination of the ranges. Choose among their runs with `select_run`."""
        return tuple(
            self.variant(**dict(zip(self.ranges, values, strict=True)))
            for values in itertools.product(*self.ranges.values())
        )

    def variant(self, **changes: Any) -> SAEConfig:
        """The recommended model with other settings; what follows from them follows anew."""
        chosen = ("d_in", "d_sae", "k", "input_scaling", "reconstruction")
        return SAEConfig(**{name: getattr(self.config, name) for name in chosen} | changes)

    @property
    def table(self) -> pd.DataFrame:
        """One row per setting: its value, its range and its reason."""
        settings = self.config.to_dict() | self.train.to_dict()
        rows = [
            {
                "setting": name,
                "value": settings[name],
                "range": ", ".join(map(str, self.ranges.get(name, ()))),
                "reason": reason,
            }
            for name, reason in self.reasons.items()
        ]
        return pd.DataFrame(rows).set_index("setting")

    def __str__(self) -> str:
        """One line per setting."""
        settings = self.config.to_dict() | self.train.to_dict()
        lines = []
        for name, reason in self.reasons.items():
            values = ", ".join(map(str, self.ranges.get(name, ())))
            lines.append(f"{name} = {settings[name]}{values and f' (try {values})'}: {reason}")
        return "\n".join(lines)


def recommend_config(
    n_units: int, n_examples: int, mean_rate: float, *, bin_size_s: float = 0.05
) -> Recommendation:
    """Recommend settings for an SAE on binned spikes.

    Parameters
    ----------
    n_units
        Units that the SAE will see.
    n_examples
        Bins of the training split.
    mean_rate
        Mean over units of their firing rates, Hz.
    bin_size_s
        Width of a bin, s.

    Returns
    -------
    Recommendation
        For `fit`, with a small sweep and a reason for every setting.

    Raises
    ------
    ConfigError
        A number is not positive, or the bins are fewer than an SAE can be trained on.

    Notes
    -----
    The rules come from simulated counts with known features, 20 to 1,000 units, judged by how well
    single latents follow single features on held-out bins; chapters 40 and 45 show such runs. What
    decides most is not the width but the loss: the logarithmic error needs many units to pool and
    enough spikes to learn that from. A recording alone does not tell whether its features are shared
    by many units or carried by a few, so that the sweep holds both losses. The width and k of
    recordings with few units were chosen on the place cells of
    ``reports/results/place_cells.json``. On twenty settings that no rule was made from, the
    recommendation's correlation was short of the best of a twelve-point grid by 0.014 in the median
    and by 0.086 at worst (``reports/results/recommendation.json``).

    Examples
    --------
    >>> advice = recommend_config(n_units=200, n_examples=20_000, mean_rate=5.0)
    >>> advice.config.d_sae, advice.config.k, advice.config.reconstruction
    (256, 4, 'lmse')
    >>> recommend_config(30, 20_000, 5.0).config.reconstruction
    'mse'
    """
    _check(n_units, n_examples, mean_rate, bin_size_s)
    spikes = n_units * mean_rate * bin_size_s
    of_unit = mean_rate * bin_size_s * n_examples
    pooled = n_units >= POOLED_UNITS and spikes >= POOLED_SPIKES and of_unit >= SPIKES_PER_UNIT
    wanted = 512 if n_units >= MANY_UNITS else 256 if pooled or n_units >= SOME_UNITS else 128
    wanted = min(wanted, max(16, 2 ** math.ceil(math.log2(LATENTS_PER_UNIT * n_units))))
    d_sae = min(wanted, 2 ** int(math.log2(n_examples / ROWS_PER_LATENT)))
    k = min(4 if pooled and n_units < MANY_UNITS else 8, max(1, n_units // 4), d_sae // 4)
    config = SAEConfig(
        d_in=n_units,
        d_sae=d_sae,
        k=k,
        input_scaling="sqrt",
        reconstruction="lmse" if pooled else "mse",
    )
    train = TrainConfig(
        n_steps=N_STEPS, batch_size=min(BATCH_SIZE, n_examples), learning_rate=LEARNING_RATE
    )
    many = (
        f"{n_units} units, {spikes:.3g} spikes in a bin of {1000 * bin_size_s:g} ms and "
        f"{of_unit:,.0f} of each unit"
    )
    reasons = {
        "d_sae": f"{n_examples:,} bins can't feed more: {ROWS_PER_LATENT} for each latent"
        if d_sae < wanted
        else f"{n_units} units share many features; surplus latents are retired"
        if wanted > 128
        else "with so few units or spikes a wider one finds hardly more",
        "k": f"with {n_units} units, few enough that latents can't just copy them"
        if k < 4
        else "few latents in a bin must divide the work between them"
        if k == 4
        else "many units take part in many features at a time"
        if pooled
        else "with so few spikes in a bin, each of them is worth a latent",
        "reconstruction": f"{many} are enough to pool units: the logarithm keeps fast ones from "
        "owning the error"
        if pooled
        else f"{many} are too few to pool units: the squared error keeps to those that fire",
        "input_scaling": "square roots give Poisson counts of any rate noise of the same size",
        "learning_rate": "at a third of it as many steps recover less from many units",
        "schedule": "warm-up, hold, cosine to 1 %, in fractions of the run: right for any length",
        "n_steps": f"{N_STEPS * train.batch_size / n_examples:.3g} passes over the bins; half as "
        "many steps recover less from many units",
    }
    ranges = {
        "k": tuple(sorted({max(1, k // 2), k, min(2 * k, d_sae)})),
        "d_sae": tuple(sorted({max(d_sae // 2, k), d_sae})),
        "reconstruction": ("mse", "lmse"),
    }
    return Recommendation(config, train, ranges, reasons)


def _check(n_units: int, n_examples: int, mean_rate: float, bin_size_s: float) -> None:
    numbers = {"n_units": n_units, "n_examples": n_examples}
    for name, value in numbers.items():
        if isinstance(value, bool) or not float(value).is_integer() or value < 1:
            raise ConfigError(f"{name} = {value!r}: give a whole number of at least 1")
    for name, value in {"mean_rate": mean_rate, "bin_size_s": bin_size_s}.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} = {value!r}: give a finite number above 0")
    if n_examples < FEWEST_ROWS:
        raise ConfigError(
            f"n_examples = {n_examples}: no SAE can be fed by fewer than {FEWEST_ROWS} bins; record "
            "longer, or use shorter bins"
        )
