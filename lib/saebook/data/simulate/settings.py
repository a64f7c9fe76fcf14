"""Checks of what simulators are given."""

from __future__ import annotations

import math

import numpy as np

from saebook.errors import ConfigError


def check_whole_numbers(least: int, **numbers: int) -> None:
    """Raise ConfigError unless every value is a whole number of at least ``least``."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ConfigError(f"{name}={value!r}. Give a whole number of at least {least}.")


def check_amounts(**amounts: float) -> None:
    """Raise ConfigError unless every amount is a finite number of at least 0."""
    for name, value in amounts.items():
        is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            raise ConfigError(f"{name}={value!r}. Give a finite number of at least 0.")
