"""Input scaling: one object per model, fitted once on training rows and saved with it."""

from saebook.models.scaling.base import Context, ScalingMode
from saebook.models.scaling.scaling import SCALINGS, InputScaling

__all__ = ["SCALINGS", "Context", "InputScaling", "ScalingMode"]
