"""Models and batches whose steps are timed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from saebook.models import SAEConfig


@dataclass(frozen=True)
class Workload:
    """A model, its batch, and how many latents are active when the measurement begins.

    Attributes
    ----------
    d_in, d_sae, batch_size
        Sizes.
    architecture
        A name that `SAEConfig` takes.
    k
        Active latents: k of topk and batchtopk, target L0 of jumprelu.
    density
        Share of active latents that ReLU and JumpReLU begin with; None: as initialised.
    n_models
        Size of a stack of such models, each with a seed of its own; None: a single one.
    dead
        Share of latents that have long been dead, and stay so.
    """

    d_in: int
    d_sae: int
    batch_size: int
    architecture: str
    k: int
    density: float | None = None
    n_models: int | None = None
    dead: float = 0.0

    @property
    def config(self) -> SAEConfig:
        """Of its model."""
        sizes = {"d_in": self.d_in, "d_sae": self.d_sae, "architecture": self.architecture}
        if self.architecture in ("topk", "batchtopk"):
            return SAEConfig(**sizes, k=self.k)
        if self.architecture == "jumprelu":
            return SAEConfig(**sizes, target_l0=float(self.k))
        return SAEConfig(**sizes)


_WIDE = partial(Workload, d_in=256, d_sae=4096, batch_size=4096, k=32)
SMALL = Workload(128, 1024, 1024, "batchtopk", 16)
LARGE = Workload(4096, 65536, 8192, "batchtopk", 64)
# Those of a CPU; a GPU's are in :mod:`saebook.training.speed.gpu.cases`.
WORKLOADS: dict[str, Workload] = {
    "topk": _WIDE(architecture="topk"),
    "batchtopk": _WIDE(architecture="batchtopk"),
    "jumprelu": _WIDE(architecture="jumprelu"),
    "jumprelu, half active": _WIDE(architecture="jumprelu", density=0.5),
    "jumprelu, 5 % active": _WIDE(architecture="jumprelu", density=0.05),
    "jumprelu, 1 % active": _WIDE(architecture="jumprelu", density=0.01),
    "relu": _WIDE(architecture="relu"),
    "relu, 5 % active": _WIDE(architecture="relu", density=0.05),
    "relu, 1 % active": _WIDE(architecture="relu", density=0.01),
    "small batchtopk": SMALL,
    "16 small batchtopk": Workload(128, 1024, 1024, "batchtopk", 16, n_models=16),
    "wide topk": Workload(512, 16384, 2048, "topk", 32),
}
