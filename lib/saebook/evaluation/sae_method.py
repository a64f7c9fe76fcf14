"""An SAE as one method among others: fit, transform, reconstruct."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from saebook.baselines import Method
from saebook.errors import ConfigError
from saebook.evaluation.recovery import decoder_directions
from saebook.evaluation.scorecard import reconstruct, scoring

ROWS_AT_ONCE = 4096


class SAEMethod(Method):
    """A sparse autoencoder of single bins, or of windows of bins.

    Parameters
    ----------
    train
        Trains an SAE on examples [n, n_units], or on windows [n, window, n_units], and returns
        it: anything with ``encode`` and ``decode``. How it is trained is visible where it is
        called.
    name
        How tables call it.
    window
        Bins of an example, an odd number. More than one: each bin stands in the middle of its
        window, beside bins of its own trial only (at the ends of a trial the first or last bin is
        repeated), and the SAE has to reconstruct the whole window (``target="all"``).
    settings
        What ``train`` depends on, such as d_sae, k and seed: kept results of a comparison are
        recognised by it.

    Raises
    ------
    ConfigError
        The window is no odd number, or the SAE reconstructs part of it only.

    Examples
    --------
    >>> from saebook.evaluation import RandomDictionary
    >>> def untrained(x):
    ...     sae = RandomDictionary(x.shape[1], 12, k=3)
    ...     sae.fit(x, x.mean(0))
    ...     return sae
    >>> counts = np.random.default_rng(0).poisson(1.0, (50, 6))
    >>> method = SAEMethod(untrained, name="random dictionary").fit(counts)
    >>> method.transform(counts).shape, method.temporal
    ((50, 12), False)
    """

    name: ClassVar[str] = "SAE"
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        train: Callable[[Tensor], Any],
        *,
        name: str = "SAE",
        window: int = 1,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if window < 1 or window % 2 == 0:
            raise ConfigError(f"window = {window}: give an odd number of bins, 1 for single bins")
        self.train, self.window = train, window
        self.settings = dict(settings or {})
        # Of this object: one class serves SAEs of bins and of windows.
        self.name = name  # type: ignore[misc]
        self.temporal = window > 1  # type: ignore[misc]
        self.sae: Any = None

    def _fit(self, x: np.ndarray, trials: dict[int, slice], y: Any) -> None:
        self.sae = self.train(self._examples(x, trials))
        config = getattr(self.sae, "config", None)
        if self.window > 1 and getattr(config, "target", "all") != "all":
            raise ConfigError(
                f"the SAE reconstructs the last of {self.window} bins: make it with target='all', "
                "so that each bin can stand in the middle of its window"
            )
        self.components = None
        if self.window == 1 and hasattr(self.sae, "W_dec"):
            self.components = decoder_directions(self.sae).cpu().numpy()

    def _transform(self, x: np.ndarray, trials: dict[int, slice]) -> np.ndarray:
        return self._applied(x, trials)[0]

    def _reconstruct(self, x: np.ndarray, trials: dict[int, slice]) -> np.ndarray:
        made = self._applied(x, trials)[1]
        return made.clip(min=0.0)

    def _applied(self, x: np.ndarray, trials: dict[int, slice]) -> tuple[np.ndarray, np.ndarray]:
        """Latents [n, d_sae] and reconstructions of the bins themselves [n, n_units]."""
        latents, made = [], []
        with scoring(self.sae):
            for part in self._examples(x, trials).split(ROWS_AT_ONCE):
                f, whole = reconstruct(self.sae, part)
                latents.append(f.cpu())
                made.append((whole[:, self.window // 2] if self.window > 1 else whole).cpu())
        return torch.cat(latents).numpy(), torch.cat(made).numpy()

    def _examples(self, x: np.ndarray, trials: dict[int, slice]) -> Tensor:
        """Rows, or the window around each, as float32."""
        if self.window == 1:
            return torch.as_tensor(x, dtype=torch.float32)
        around = np.arange(self.window) - self.window // 2
        rows = np.concatenate(
            [
                np.clip(np.arange(s.start, s.stop)[:, None] + around, s.start, s.stop - 1)
                for s in trials.values()
            ]
        )
        return torch.as_tensor(x[rows], dtype=torch.float32)  # [n, window, n_units]
