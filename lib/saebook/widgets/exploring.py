"""What a latent explorer shows: the latent, variable and moment chosen, without any drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import DataError
from saebook.evaluation.profiles import LatentProfiles, coactive_words
from saebook.widgets.latent_table import LatentTable

PIECES = ("time", "tuning", "trials", "weights", "moments", "closeup", "coactive")
ABSENT = {
    "tuning": "What it follows: no variable was given",
    "trials": "Trial by trial: no trial event is known",
    "weights": "Units that make it: no decoder was given",
    "closeup": "Close up: never active in these bins",
}


class Exploring:
    """The latent, variable and moment that are looked at, out of many latents.

    Parameters
    ----------
    profiles : LatentProfiles
        All that is known of the latents.
    latent : int, optional
        Looked at first; the first of the table by default.
    variable : str, optional
        Drawn whatever the latent; by default each latent's own, as the table says, else the first.
    columns : sequence of str, optional
        Of the table.

    Attributes
    ----------
    table : LatentTable
        Latents to choose from.

    Raises
    ------
    DataError
        No such latent, variable or column.

    Examples
    --------
    >>> import numpy as np
    >>> from saebook.evaluation.profiles import profiles_of
    >>> state = Exploring(profiles_of(np.eye(4)[:, :2]))
    >>> state.latent = 1
    >>> state.description
    'Latent 1, active on 25 % of the bins'
    """

    def __init__(
        self,
        profiles: LatentProfiles,
        *,
        latent: int | None = None,
        variable: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.profiles = profiles
        self.table = LatentTable(profiles.columns.density, profiles.table, columns)
        self._chosen_variable: str | None = None
        self._moment = 0
        self._latent = int(self.table.order[0]) if latent is None else self._checked(latent)
        self.variable = variable

    @property
    def latent(self) -> int:
        """The latent looked at; setting it goes back to its strongest moment."""
        return self._latent

    @latent.setter
    def latent(self, latent: int) -> None:
        self._latent = self._checked(latent)
        self._moment = 0

    @property
    def variable(self) -> str | None:
        """The variable drawn; None without any. Set to None, each latent's own is drawn."""
        return self._chosen_variable or self.own_variable(self._latent)

    @variable.setter
    def variable(self, variable: str | None) -> None:
        if variable is not None and variable not in self.profiles.by_name:
            names = ", ".join(self.profiles.by_name) or "none"
            raise DataError(f"no variable {variable!r}; there are: {names}")
        self._chosen_variable = variable

    @property
    def follows_latent(self) -> bool:
        """Whether the variable drawn changes with the latent."""
        return self._chosen_variable is None

    @property
    def moment(self) -> int:
        """Which of the strongest moments is seen close up, from 0."""
        return self._moment

    @moment.setter
    def moment(self, moment: int) -> None:
        n = len(self.profiles.moments(self._latent))
        if not 0 <= moment < max(n, 1):
            raise DataError(f"no moment {moment}: latent {self._latent} has {n}")
        self._moment = int(moment)

    def own_variable(self, latent: int) -> str | None:
        """The variable that the table names a latent after, else the first."""
        known = self.profiles.table
        if known is not None and "variable" in known:
            named = known["variable"].iloc[latent]
            if isinstance(named, str) and named in self.profiles.by_name:
                return named
        return next(iter(self.profiles.by_name), None)

    def piece(self, name: str) -> Any:
        """One part of the profile, by its panel's name; None where it can't be."""
        profiles, latent, variable = self.profiles, self._latent, self.variable
        made: dict[str, Callable[[], Any]] = {
            "time": lambda: profiles.over_time(latent),
            "tuning": lambda: None if variable is None else profiles.tuning(latent, variable),
            "trials": lambda: profiles.over_trials(latent, variable),
            "weights": lambda: profiles.weights(latent),
            "moments": lambda: profiles.around_moments(latent),
            "closeup": lambda: profiles.closeup(latent, self._moment),
            "coactive": lambda: profiles.coactive(latent),
        }
        return made[name]()

    @property
    def description(self) -> str:
        """One sentence about the latent."""
        share = 100 * self.profiles.columns.density[self._latent]
        shown = self.profiles.shown
        if not share:
            return f"Latent {self._latent} is never active in the {shown}"
        words = f"Latent {self._latent}, active on {share:.2g} % of the {shown}"
        known = []
        for name in self.table.columns:
            value = self.table.frame[name].iloc[self._latent]
            if name in ("latent", "density") or pd.isna(value):
                continue
            if isinstance(value, bool | np.bool_):
                known.append(name if value else f"not {name}")
            else:
                number = isinstance(value, float)
                known.append(f"{name} {value:.3g}" if number else f"{name} {value}")
        return "; ".join([words, *known])

    def _checked(self, latent: int) -> int:
        n = self.profiles.columns.n_latents
        if not 0 <= latent < n:
            raise DataError(f"no latent {latent}: there are latents 0 to {n - 1}")
        return int(latent)


def words_of(name: str, piece: Any) -> str:
    """A panel in words, which screen readers get.

    Examples
    --------
    >>> words_of("tuning", None)
    'What it follows: no variable was given'
    """
    if piece is None:
        return ABSENT[name]
    return coactive_words(piece) if name == "coactive" else piece.words
