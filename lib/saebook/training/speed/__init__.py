"""How fast a training step is: beside its matrix products, and, on a GPU, beside what was asked."""

from saebook.training.speed.measuring import Speed, dense_products, measure
from saebook.training.speed.steps import begin_at_density, examples, full_step
from saebook.training.speed.workloads import WORKLOADS, Workload

__all__ = [
    "WORKLOADS",
    "Speed",
    "Workload",
    "begin_at_density",
    "dense_products",
    "examples",
    "full_step",
    "measure",
]
