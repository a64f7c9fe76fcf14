"""Engines: ways to get the gradients of one batch. One file each, one line in the registry."""

from saebook.training.engines.current import CurrentEngine
from saebook.training.engines.registry import ENGINES, Engine
from saebook.training.engines.result import StepResult

__all__ = ["ENGINES", "CurrentEngine", "Engine", "StepResult"]
