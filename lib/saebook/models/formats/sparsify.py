"""Checkpoints of sparsify (``eai-sparsify``): ``cfg.json`` and ``sae.safetensors``."""

from __future__ import annotations

from pathlib import Path

from saebook.errors import CheckpointError
from saebook.models.formats.base import (
    ForeignFormat,
    Settings,
    Tensors,
    check_tensors,
    inference_settings,
    read_safetensors,
    read_settings,
    refuse,
    whole_number,
    yes_or_no,
)

# multi_topk and normalize_decoder act in training alone.
KNOWN = {
    "activation",
    "d_in",
    "expansion_factor",
    "k",
    "multi_topk",
    "normalize_decoder",
    "num_latents",
    "signed",
    "skip_connection",
    "transcode",
}
DEFAULT_EXPANSION = 32
DEFAULT_K = 32


class Sparsify(ForeignFormat):
    """TopK SAEs and transcoders of sparsify: ``f = TopK(ReLU((x - b_dec) W_encᵀ + b_enc))``.

    A transcoder (``transcode``) does not subtract ``b_dec`` and reconstructs other data of the
    same width.
    """

    library = "sparsify"
    settings_file = "cfg.json"
    weights_file = "sae.safetensors"

    def read(self, folder: Path) -> tuple[Settings, Tensors]:
        """Settings of an :class:`~saebook.models.SAEConfig`, and its state dictionary."""
        file = folder / self.settings_file
        found = read_settings(file)
        self._refuse_what_differs(found, file)
        d_in = whole_number(found, "d_in", file)
        if found.get("num_latents"):
            d_sae = whole_number(found, "num_latents", file)
        else:
            expansion = {"expansion_factor": DEFAULT_EXPANSION} | found
            d_sae = d_in * whole_number(expansion, "expansion_factor", file)
        transcode = yes_or_no(found, "transcode", False, file)
        settings = inference_settings(
            d_in=d_in,
            d_sae=d_sae,
            architecture="topk",
            k=whole_number({"k": DEFAULT_K} | found, "k", file),
            apply_b_dec_to_input=not transcode,
            d_out=d_in if transcode else None,
        )
        tensors = read_safetensors(folder / self.weights_file)
        expected = {
            "encoder.weight": (d_sae, d_in),
            "encoder.bias": (d_sae,),
            "W_dec": (d_sae, d_in),
            "b_dec": (d_in,),
        }
        check_tensors(tensors, expected, folder / self.weights_file)
        return settings, {
            "encoder_rows": tensors["encoder.weight"],
            "b_enc": tensors["encoder.bias"],
            "W_dec": tensors["W_dec"],
            "b_dec": tensors["b_dec"],
        }

    @staticmethod
    def _refuse_what_differs(found: Settings, file: Path) -> None:
        for name in found:
            if name not in KNOWN:
                raise CheckpointError(
                    f"{file}: the setting {name} = {found[name]!r} is not known here, and may "
                    "change what the weights mean; remove it if it doesn't"
                )
        activation = found.get("activation", "topk")
        if activation != "topk":
            raise refuse(
                file,
                "activation",
                activation,
                "it takes the largest latent of each group; train with activation='topk'",
            )
        if yes_or_no(found, "signed", False, file):
            raise refuse(
                file, "signed", True, "latents here are not negative; train without signed"
            )
        if yes_or_no(found, "skip_connection", False, file):
            raise refuse(
                file,
                "skip_connection",
                True,
                "there is no linear path from input to output; train without it",
            )
