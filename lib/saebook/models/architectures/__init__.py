"""Selection rules: how pre-activations become latents. One file each, one line here."""

from saebook.models.architectures.base import Architecture
from saebook.models.architectures.batchtopk import BatchTopK, calibrate_threshold
from saebook.models.architectures.relu import ReLU
from saebook.models.architectures.topk import TopK

ARCHITECTURES: dict[str, Architecture] = {
    "relu": ReLU(),
    "topk": TopK(),
    "batchtopk": BatchTopK(),
}

__all__ = ["ARCHITECTURES", "Architecture", "BatchTopK", "ReLU", "TopK", "calibrate_threshold"]
