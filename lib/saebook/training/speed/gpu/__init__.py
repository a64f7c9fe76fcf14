"""What a GPU does in a training step, measured in one go beside what was asked of it."""

from saebook.training.speed.gpu.cases import CASES, Case
from saebook.training.speed.gpu.table import Row, measure_all, summary

__all__ = ["CASES", "Case", "Row", "measure_all", "summary"]
