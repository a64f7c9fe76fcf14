"""What was found of latents and variables: the table, the report, each test with its null."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from saebook.errors import DataError
from saebook.evaluation.discovery.testing import LatentScore, score_latents
from saebook.evaluation.variables import Variable
from saebook.metrics import hits_needed

NAMES_NOTHING = ("population", "time")


@dataclass(frozen=True, eq=False)
class Discovery:
    """What latents stand for.

    Attributes
    ----------
    table
        One row per latent, index ``latent``: ``variable`` and its ``kind``, chosen on training
        rows; ``preferred``, where the tuning curve peaks; ``score_train`` (cross-validated) and
        ``score_test``, shares of variance explained; ``r``, the correlation that was tested;
        ``p``, ``method`` and ``attainable`` (see
        :class:`~saebook.evaluation.discovery.TailP`); ``q``, adjusted over latents;
        ``discovered``; ``density``, share of rows in which the latent is active; ``guard_s``;
        ``rows``, test rows in which the variable is known. Latents that are constant in training
        or test rows have no variable, NaN for numbers, and are no test.
    scores_train
        [m, n_variables] every score on training rows, columns named after the variables.
    variables
        What latents were tried against.
    q
        False-discovery rate.
    notes
        What was left out, and why.
    """

    table: pd.DataFrame
    scores_train: pd.DataFrame
    variables: tuple[Variable, ...]
    q: float
    notes: tuple[str, ...] = ()
    _inputs: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def n_tested(self) -> int:
        """Latents that were tested."""
        return int(np.isfinite(self.table["p"].to_numpy(float)).sum())

    @property
    def found(self) -> pd.DataFrame:
        """Rows of the discovered latents, smallest p first, then the highest score."""
        rows: Any = self.table[self.table["discovered"]]
        return rows.sort_values(["p", "score_test"], ascending=[True, False])

    def variable(self, latent: int) -> Variable:
        """The variable of a latent."""
        name = self.table.loc[latent, "variable"]
        for variable in self.variables:
            if variable.name == name:
                return variable
        raise DataError(f"latent {latent} is constant in training or test rows: it has no variable")

    def score(self, latent: int) -> LatentScore:
        """The test of one latent again, with its whole null.

        Parameters
        ----------
        latent : int
            Row of the table.
        """
        activity, rows = self.activity(latent)
        return score_latents(
            activity[rows["train"], None], activity[rows["test"], None], self.variable(latent),
            rows["train"], rows["test"], **self._inputs["settings"],
        )[0]  # fmt: skip

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """Rows of the store: "train" and "test"."""
        return self._inputs["rows"]

    def activity(self, latent: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Activity of one latent in every row [n], and the rows of "train" and "test".

        Parameters
        ----------
        latent : int
            Row of the table.
        """
        columns = columns_of(self._inputs["latents"], np.array([latent]))
        return columns[:, 0], self.rows

    def report(self) -> str:
        """What was tested, what was found, and what could have been found at all."""
        table: Any = self.table
        found: Any = self.found
        m = self.n_tested
        lines = [
            f"{len(table):,} latents x {len(self.variables)} variables: {m:,} tested, each against "
            f"the variable chosen for it on training rows; {len(table) - m:,} constant or untestable"
        ]
        counts = found["variable"].value_counts()
        named = ", ".join(f"{name} {n}" for name, n in counts.head(8).items())
        more = f", and {len(counts) - 8} variables more" if len(counts) > 8 else ""
        lines.append(
            f"{len(found):,} discovered at q = {self.q:g} (Benjamini-Hochberg over {m:,} tests)"
            + (f": {named}{more}" if len(found) else "")
        )
        if m:
            attainable = table["attainable"]
            needed = hits_needed(attainable, self.q)
            lines.append(
                f"smallest attainable p: {attainable.min():.2g} (median over latents "
                f"{attainable.median():.2g}); "
                + (
                    "even if every latent reached its own, nothing could be discovered"
                    if needed is None
                    else f"at least {needed} latent{'s' * (needed != 1)} must reach it for any "
                    "discovery"
                )
            )
            tails = int((table["method"] == "tail").sum())
            lines.append(f"p from a generalised Pareto tail: {tails:,}; counted: {m - tails:,}")
        drifting = int(found["kind"].isin(NAMES_NOTHING).sum())
        if drifting:
            lines.append(f"{drifting} of them follow time or the population, which names nothing")
        return "\n".join([*lines, *self.notes])


def columns_of(latents: Any, columns: np.ndarray) -> np.ndarray:
    """Some columns of an array, tensor or sparse matrix, dense [n, len(columns)]."""
    if isinstance(latents, torch.Tensor):
        return latents[:, torch.as_tensor(columns)].detach().cpu().float().numpy()
    part = latents[:, columns]
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part)
