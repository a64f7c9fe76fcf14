"""Selection rules: how pre-activations become latents. One file each, one line here."""

from saebook.models.architectures.base import Architecture
from saebook.models.architectures.batchtopk import BatchTopK, calibrate_threshold
from saebook.models.architectures.gated import Gated
from saebook.models.architectures.jumprelu import JumpReLU
from saebook.models.architectures.relu import LeakyReLU, ReLU
from saebook.models.architectures.topk import TopK

ARCHITECTURES: dict[str, Architecture] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "topk": TopK(),
    "batchtopk": BatchTopK(),
    "jumprelu": JumpReLU(),
    "gated": Gated(),
}

__all__ = ["ARCHITECTURES", "Architecture", "calibrate_threshold"]
