"""Engines: ways to get the gradients of one batch. One file each, one line here."""

from collections.abc import Callable

from saebook.training.engines.dense import dense
from saebook.training.engines.result import StepResult

ENGINES: dict[str, Callable[..., StepResult]] = {"dense": dense}

__all__ = ["ENGINES", "StepResult"]
