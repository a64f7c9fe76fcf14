"""Checkpoints of SAELens: ``cfg.json`` and ``sae_weights.safetensors``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from saebook.errors import CheckpointError
from saebook.models.formats.base import (
    ForeignFormat,
    Settings,
    Tensors,
    check_tensors,
    fold_decoder_norm,
    inference_settings,
    read_safetensors,
    read_settings,
    refuse,
    whole_number,
    write_settings,
    yes_or_no,
)
from saebook.models.formats.exporting import plain_sae
from saebook.models.formats.sae_lens_settings import check_known, modernised
from saebook.models.sae import SAE

WRITTEN_VERSION = "6.54.12"
SCALER_FILE = "activation_scaler.json"
WHITENING_FILE = "activation_whitening.safetensors"
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")}
# Applied by SAELens at run time, and by the same formula here.
PER_EXAMPLE = ("layer_norm", "constant_norm_rescale")


class SAELens(ForeignFormat):
    """SAEs and transcoders of SAELens: inference files, and checkpoints of a training run.

    BatchTopK models are read as SAELens saves them for inference: by their threshold, not by
    the batch. An SAE with ``reshape_activations="hook_z"`` takes inputs whose heads are already
    flattened, [..., n_heads · d_head].
    """

    library = "SAELens"
    settings_file = "cfg.json"
    weights_file = "sae_weights.safetensors"

    def read(self, folder: Path) -> tuple[Settings, Tensors]:
        """Settings of an :class:`~saebook.models.SAEConfig`, and its state dictionary."""
        file, weights = folder / self.settings_file, folder / self.weights_file
        found = read_settings(file)
        if "format" in found:
            raise CheckpointError(
                f"{file}: its format is {found['format']!r}, not that of SAELens; read it with "
                "saebook.models.load_sae"
            )
        found = modernised(found, file)
        check_known(found, READERS, file)
        d_in, d_sae = (whole_number(found, name, file) for name in ("d_in", "d_sae"))
        architecture = found["architecture"]
        tensors = _without_unit_factors(read_safetensors(weights), weights)
        d_out = whole_number(found, "d_out", file) if "transcoder" in architecture else d_in
        check_tensors(tensors, _shapes(architecture, d_in, d_sae, d_out), weights)
        dtype = str(found.get("dtype", "float32")).removeprefix("torch.")
        if dtype not in DTYPES:
            raise refuse(file, "dtype", found["dtype"], f"choose one of {', '.join(DTYPES)}")
        tensors = {name: value.to(DTYPES[dtype]) for name, value in tensors.items()}
        settings, state = READERS[architecture](found, tensors, file)
        settings = {
            "apply_b_dec_to_input": yes_or_no(found, "apply_b_dec_to_input", True, file),
            **settings,
        }
        settings["input_scaling"], fitted = self._scaling(found, d_in, folder)
        if settings["input_scaling"] != "none" and "d_out" in settings:
            raise refuse(
                file,
                "normalize_activations",
                found["normalize_activations"],
                "a transcoder's output is not brought back to scale; fold it into the weights",
            )
        state |= {name: value.to(DTYPES[dtype]) for name, value in fitted.items()}
        return inference_settings(d_in=d_in, d_sae=d_sae, **settings), state

    def write(self, sae: SAE, folder: Path) -> None:
        """Write relu, topk, batchtopk, jumprelu or gated; transcoders of all but topk and gated.

        BatchTopK becomes a JumpReLU with one threshold for all latents, as in SAELens' own
        inference files; the two scalings that SAELens applies per example stay settings.
        """
        config = sae.config
        plain = plain_sae(sae, self.library, tuple(WRITTEN_AS), PER_EXAMPLE, TRANSCODERS)
        architecture = WRITTEN_AS[config.architecture]
        if config.is_transcoder:
            standard = architecture == "standard"
            architecture = "transcoder" if standard else f"{architecture}_transcoder"
        scaling = config.input_scaling if config.input_scaling in PER_EXAMPLE else "none"
        settings = {
            "architecture": architecture,
            "d_in": config.d_in,
            "d_sae": config.d_sae,
            "dtype": str(plain.W_dec.dtype).removeprefix("torch."),
            "device": "cpu",
            "apply_b_dec_to_input": config.apply_b_dec_to_input,
            "normalize_activations": scaling,
            "reshape_activations": "none",
            "metadata": {"sae_lens_version": WRITTEN_VERSION, "written_by": "saebook"},
        }
        if config.is_transcoder:
            settings["d_out"] = config.d_out
        if architecture == "topk":
            settings |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
        save_file(_written_tensors(plain), folder / self.weights_file)
        write_settings(settings, folder / self.settings_file)

    def _scaling(self, found: Settings, d_in: int, folder: Path) -> tuple[str, Tensors]:
        """Mode of input scaling, and what it fitted, where SAELens keeps that in the folder."""
        file = folder / self.settings_file
        mode = found.get("normalize_activations", "none")
        if mode in ("none", *PER_EXAMPLE):
            return mode, {}
        if mode not in ("expected_average_only_in", "covariance_whitening"):
            raise refuse(file, "normalize_activations", mode, "no scaling here has that name")
        scaler_file = folder / SCALER_FILE
        scaler = read_settings(scaler_file) if scaler_file.is_file() else {}
        factor = scaler.get("scaling_factor")
        if mode == "expected_average_only_in" and isinstance(factor, float) and factor > 0:
            return "scale_mean_norm", {"scaling.gain": torch.full((d_in,), factor)}
        if mode == "covariance_whitening" and scaler.get("has_whitening"):
            whitening = folder / WHITENING_FILE
            tensors = read_safetensors(whitening)
            square = (d_in, d_in)
            expected = {"mean": (d_in,), "matrix": square, "inverse_matrix": square}
            check_tensors(tensors, expected, whitening)
            return "whiten", {
                "scaling.shift": tensors["mean"],
                "scaling.whitening": tensors["matrix"],
                "scaling.colouring": tensors["inverse_matrix"],
            }
        raise CheckpointError(
            f"{file}: normalize_activations = {mode!r}, so the weights are for inputs at another "
            f"scale, and what brings them there is not in this folder ({SCALER_FILE}); in SAELens, "
            "fold it into the weights (fold_activation_norm_scaling_factor or "
            "fold_activation_whitening) and save again"
        )


def _without_unit_factors(tensors: Tensors, file: Path) -> Tensors:
    """Drop the ``scaling_factor`` of old files where it is 1, and refuse it elsewhere."""
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
        raise CheckpointError(
            f"{file}: a scaling_factor per latent (finetuning_scaling_factor), which can't be "
            "represented here: multiply it into the rows of W_dec, and remove it"
        )
    return tensors


def _shapes(architecture: str, d_in: int, d_sae: int, d_out: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_out),
        "b_dec": (d_out,),
    }
    if architecture == "gated":
        return shapes | dict.fromkeys(("b_gate", "b_mag", "r_mag"), (d_sae,))
    shapes["b_enc"] = (d_sae,)
    if architecture in ("jumprelu", "jumprelu_transcoder"):
        shapes["threshold"] = (d_sae,)
    if architecture in ("batchtopk", "matryoshka_batchtopk"):
        shapes["topk_threshold"] = ()
    return shapes


def _plain(tensors: Tensors, b_enc: str = "b_enc") -> Tensors:
    return {
        "encoder_rows": tensors["W_enc"].T,
        "b_enc": tensors[b_enc],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }


def _read_standard(found: Settings, tensors: Tensors, file: Path) -> tuple[Settings, Tensors]:
    return {"architecture": "relu"}, _plain(tensors)


def _read_gated(found: Settings, tensors: Tensors, file: Path) -> tuple[Settings, Tensors]:
    state = _plain(tensors, "b_gate") | {name: tensors[name] for name in ("r_mag", "b_mag")}
    return {"architecture": "gated"}, state


def _read_jumprelu(found: Settings, tensors: Tensors, file: Path) -> tuple[Settings, Tensors]:
    # SAELens rectifies what passes the threshold, so one below zero acts as zero.
    threshold = tensors["threshold"].clamp_min(0)
    return {"architecture": "jumprelu"}, _plain(tensors) | {"threshold": threshold}


def _read_topk(found: Settings, tensors: Tensors, file: Path) -> tuple[Settings, Tensors]:
    state = _plain(tensors)
    if yes_or_no(found, "rescale_acts_by_decoder_norm", False, file):
        fold_decoder_norm(state)
    return {"architecture": "topk", "k": whole_number(found, "k", file)}, state


def _read_batchtopk(found: Settings, tensors: Tensors, file: Path) -> tuple[Settings, Tensors]:
    if "rescale_acts_by_decoder_norm" not in found:
        raise CheckpointError(
            f"{file}: rescale_acts_by_decoder_norm is missing, and its meaning changed between "
            "versions of SAELens; save with save_inference_model, or add it"
        )
    settings, state = _read_topk(found, tensors, file)
    settings["architecture"] = "batchtopk"
    widths = found.get("matryoshka_widths")
    if isinstance(widths, list) and widths:
        # SAELens adds the whole dictionary where it is left out.
        rest = [] if widths[-1] == found["d_sae"] else [found["d_sae"]]
        settings["prefixes"] = [*widths, *rest]
    return settings, state | {"threshold": tensors["topk_threshold"]}


def _transcoder(read: Callable) -> Callable[[Settings, Tensors, Path], tuple[Settings, Tensors]]:
    def read_transcoder(found: Settings, tensors: Tensors, file: Path) -> tuple[Settings, Tensors]:
        settings, state = read(found, tensors, file)
        return settings | {"d_out": found["d_out"], "apply_b_dec_to_input": False}, state

    return read_transcoder


READERS: dict[str, Callable[[Settings, Tensors, Path], tuple[Settings, Tensors]]] = {
    "standard": _read_standard,
    "gated": _read_gated,
    "topk": _read_topk,
    "jumprelu": _read_jumprelu,
    "batchtopk": _read_batchtopk,
    "matryoshka_batchtopk": _read_batchtopk,
    "transcoder": _transcoder(_read_standard),
    "jumprelu_transcoder": _transcoder(_read_jumprelu),
}


WRITTEN_AS = {
    "relu": "standard",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
TRANSCODERS = ("relu", "batchtopk", "jumprelu")


def _written_tensors(sae: SAE) -> Tensors:
    architecture = sae.config.architecture
    tensors: Tensors = {
        "W_enc": sae.W_enc,
        "b_gate" if architecture == "gated" else "b_enc": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    if architecture == "gated":
        tensors |= {"r_mag": sae.r_mag, "b_mag": sae.b_mag}
    if architecture == "jumprelu":
        tensors["threshold"] = sae.threshold
    if architecture == "batchtopk":
        tensors["threshold"] = sae.threshold[-1].expand_as(sae.b_enc)
    return {name: value.detach().contiguous() for name, value in tensors.items()}
