"""Decoders: how latents become a reconstruction. One file each, one line here."""

from saebook.models.decoders.base import Decoder
from saebook.models.decoders.linear import Linear
from saebook.models.decoders.mlp import MLP

DECODERS: dict[str, Decoder] = {"linear": Linear(), "mlp": MLP()}

__all__ = ["DECODERS", "Decoder"]
