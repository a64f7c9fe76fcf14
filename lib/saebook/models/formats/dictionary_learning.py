"""Checkpoints of dictionary_learning: ``config.json`` and ``ae.pt``, a pickle never executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from saebook.errors import CheckpointError
from saebook.models.formats.base import (
    ForeignFormat,
    Settings,
    Tensors,
    check_tensors,
    fold_decoder_norm,
    inference_settings,
    read_settings,
    whole_number,
    write_settings,
)
from saebook.models.formats.exporting import move_b_dec, plain_sae
from saebook.models.sae import SAE

UNIT_NORM_TOLERANCE = 1e-5
UNSET = -1.0  # a threshold that the library has not fitted


class DictionaryLearning(ForeignFormat):
    """Dictionaries of dictionary_learning, as its ``load_dictionary`` returns them.

    That function brings the decoder of an ``AutoEncoder`` to unit norm, so the same is done
    here. ``AutoEncoderNew`` and ``JumpReluAutoEncoder`` don't subtract the decoder's bias from
    the input; the others do. For the first reason a relu SAE whose decoder has not unit norm is
    written as an ``AutoEncoderNew``.
    """

    library = "dictionary_learning"
    settings_file = "config.json"
    weights_file = "ae.pt"

    def read(self, folder: Path) -> tuple[Settings, Tensors]:
        """Settings of an :class:`~saebook.models.SAEConfig`, and its state dictionary."""
        file = folder / self.settings_file
        trainer = read_settings(file).get("trainer")
        if not isinstance(trainer, dict):
            raise CheckpointError(f"{file}: no settings under 'trainer', where they belong")
        kind = str(trainer.get("dict_class"))
        if kind not in READERS:
            raise CheckpointError(
                f"{file}: dict_class = {kind} can't be read; those that can: {', '.join(READERS)}"
            )
        tensors = read_tensors(folder / self.weights_file)
        encoder = tensors.get("encoder.weight")
        if encoder is None:
            encoder = tensors.get("W_enc", torch.empty(0, 0)).T
        d_sae, d_in = encoder.shape if encoder.ndim == 2 else (0, 0)
        for name, found in (("activation_dim", d_in), ("dict_size", d_sae)):
            if name in trainer and whole_number(trainer, name, file) != found:
                raise CheckpointError(
                    f"{file}: {name} = {trainer[name]}, but the encoder of {self.weights_file} "
                    f"is for {found}; settings and weights must come from the same save"
                )
        check_tensors(tensors, SHAPES[kind](d_in, d_sae, tensors), folder / self.weights_file)
        if "k" in tensors and whole_number(trainer, "k", file) != int(tensors["k"]):
            raise CheckpointError(
                f"{file}: k = {trainer['k']}, but {self.weights_file} says {int(tensors['k'])}; "
                "settings and weights must come from the same save"
            )
        settings, state = READERS[kind](tensors)
        settings = inference_settings(d_in=d_in, d_sae=d_sae, **settings)
        # The library's modules are float32, whatever the file holds.
        return settings, {name: value.float() for name, value in state.items()}

    def write(self, sae: SAE, folder: Path) -> None:
        """Write relu, topk, batchtopk (with prefixes: Matryoshka), jumprelu or gated."""
        plain = plain_sae(sae, self.library, tuple(WRITERS)).float()
        with torch.no_grad():
            kind, tensors = WRITERS[sae.config.architecture](plain)
        trainer = {
            "dict_class": kind,
            "activation_dim": sae.config.d_in,
            "dict_size": sae.config.d_sae,
        }
        if sae.config.k is not None:
            trainer["k"] = sae.config.k
        tensors = {name: value.detach().contiguous() for name, value in tensors.items()}
        torch.save(tensors, folder / self.weights_file)
        write_settings({"trainer": trainer}, folder / self.settings_file)


def read_tensors(file: Path) -> Tensors:
    """The tensors of a torch file, read without running any code that it holds.

    Raises
    ------
    CheckpointError
        No such file, it holds anything but tensors by name, or it is damaged.
    """
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: no {file.name} there; copy the whole folder")
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a hostile or broken file raises is not documented
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"{file}: not a plain file of tensors ({reason}). It is damaged, or a pickle that "
            "would run code, which is never done here: where you trust it, load it with the "
            "library that wrote it and save its state_dict()"
        ) from error
    plain = isinstance(tensors, dict) and all(isinstance(v, Tensor) for v in tensors.values())
    if not plain:
        raise CheckpointError(
            f"{file}: holds a {type(tensors).__name__}, not tensors by name; save the "
            "dictionary's state_dict()"
        )
    return tensors


def _linear_shapes(d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    return {"encoder.weight": (d_sae, d_in), "decoder.weight": (d_in, d_sae)}


def _topk_shapes(d_in: int, d_sae: int, tensors: Tensors) -> dict[str, tuple[int, ...]]:
    biases = {"encoder.bias": (d_sae,), "b_dec": (d_in,), "k": (), "threshold": ()}
    return _linear_shapes(d_in, d_sae) | biases


def _matrix_shapes(d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    return {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}


SHAPES: dict[str, Callable[[int, int, Tensors], dict[str, tuple[int, ...]]]] = {
    "AutoEncoder": lambda d_in, d_sae, tensors: (
        _linear_shapes(d_in, d_sae) | {"encoder.bias": (d_sae,), "bias": (d_in,)}
    ),
    "AutoEncoderNew": lambda d_in, d_sae, tensors: (
        _linear_shapes(d_in, d_sae) | {"encoder.bias": (d_sae,), "decoder.bias": (d_in,)}
    ),
    "GatedAutoEncoder": lambda d_in, d_sae, tensors: (
        _linear_shapes(d_in, d_sae)
        | {"decoder_bias": (d_in,)}
        | dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (d_sae,))
    ),
    "AutoEncoderTopK": _topk_shapes,
    "BatchTopKSAE": _topk_shapes,
    "MatryoshkaBatchTopKSAE": lambda d_in, d_sae, tensors: (
        _matrix_shapes(d_in, d_sae)
        | {"k": (), "threshold": ()}
        | {"group_sizes": (tensors["group_sizes"].numel() if "group_sizes" in tensors else 1,)}
    ),
    "JumpReluAutoEncoder": lambda d_in, d_sae, tensors: (
        _matrix_shapes(d_in, d_sae) | {"threshold": (d_sae,)}
    ),
}


def _from_linear(tensors: Tensors, b_enc: str, b_dec: str) -> Tensors:
    return {
        "encoder_rows": tensors["encoder.weight"],
        "b_enc": tensors[b_enc],
        "W_dec": tensors["decoder.weight"].T,
        "b_dec": tensors[b_dec],
    }


def _from_matrices(tensors: Tensors) -> Tensors:
    state = {name: tensors[name] for name in ("b_enc", "W_dec", "b_dec", "threshold")}
    return {"encoder_rows": tensors["W_enc"].T, **state}


def _read_auto_encoder(tensors: Tensors) -> tuple[Settings, Tensors]:
    state = _from_linear(tensors, "encoder.bias", "bias")
    if not has_unit_norm(state["W_dec"]):
        fold_decoder_norm(state)
    return {"architecture": "relu"}, state


def _read_auto_encoder_new(tensors: Tensors) -> tuple[Settings, Tensors]:
    settings = {"architecture": "relu", "apply_b_dec_to_input": False}
    return settings, _from_linear(tensors, "encoder.bias", "decoder.bias")


def _read_gated(tensors: Tensors) -> tuple[Settings, Tensors]:
    state = _from_linear(tensors, "gate_bias", "decoder_bias")
    state |= {"r_mag": tensors["r_mag"], "b_mag": tensors["mag_bias"]}
    return {"architecture": "gated"}, state


def _read_topk(tensors: Tensors) -> tuple[Settings, Tensors]:
    # Its threshold is an option of the library's encoder, off unless asked for.
    settings = {"architecture": "topk", "k": int(tensors["k"])}
    return settings, _from_linear(tensors, "encoder.bias", "b_dec")


def _read_batchtopk(tensors: Tensors) -> tuple[Settings, Tensors]:
    settings = {"architecture": "batchtopk", "k": int(tensors["k"])}
    state = _from_linear(tensors, "encoder.bias", "b_dec")
    return settings, state | {"threshold": tensors["threshold"]}


def _read_matryoshka(tensors: Tensors) -> tuple[Settings, Tensors]:
    prefixes = tuple(tensors["group_sizes"].cumsum(0).tolist())
    settings = {"architecture": "batchtopk", "k": int(tensors["k"]), "prefixes": prefixes}
    return settings, _from_matrices(tensors)


def _read_jumprelu(tensors: Tensors) -> tuple[Settings, Tensors]:
    state = _from_matrices(tensors)
    # The library rectifies what passes the threshold, so one below zero acts as zero.
    state["threshold"] = state["threshold"].clamp_min(0)
    return {"architecture": "jumprelu", "apply_b_dec_to_input": False}, state


READERS: dict[str, Callable[[Tensors], tuple[Settings, Tensors]]] = {
    "AutoEncoder": _read_auto_encoder,
    "AutoEncoderNew": _read_auto_encoder_new,
    "GatedAutoEncoder": _read_gated,
    "AutoEncoderTopK": _read_topk,
    "BatchTopKSAE": _read_batchtopk,
    "MatryoshkaBatchTopKSAE": _read_matryoshka,
    "JumpReluAutoEncoder": _read_jumprelu,
}


def has_unit_norm(W_dec: Tensor) -> bool:
    """Whether all rows have norm 1, by the tolerance of dictionary_learning."""
    norm = W_dec.norm(dim=1)
    return torch.allclose(norm, torch.ones_like(norm), rtol=UNIT_NORM_TOLERANCE, atol=1e-8)


def _to_linear(sae: SAE, b_enc: str, b_dec: str) -> Tensors:
    return {
        "encoder.weight": sae.encoder_rows,
        b_enc: sae.b_enc,
        "decoder.weight": sae.W_dec.T,
        b_dec: sae.b_dec,
    }


def _to_matrices(sae: SAE) -> Tensors:
    return {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}


def _write_relu(sae: SAE) -> tuple[str, Tensors]:
    if has_unit_norm(sae.W_dec):
        move_b_dec(sae, subtracted=True)
        return "AutoEncoder", _to_linear(sae, "encoder.bias", "bias")
    move_b_dec(sae, subtracted=False)
    return "AutoEncoderNew", _to_linear(sae, "encoder.bias", "decoder.bias")


def _write_gated(sae: SAE) -> tuple[str, Tensors]:
    move_b_dec(sae, subtracted=True)
    tensors = _to_linear(sae, "gate_bias", "decoder_bias")
    return "GatedAutoEncoder", tensors | {"r_mag": sae.r_mag, "mag_bias": sae.b_mag}


def _write_topk(sae: SAE) -> tuple[str, Tensors]:
    move_b_dec(sae, subtracted=True)
    tensors = _to_linear(sae, "encoder.bias", "b_dec")
    return "AutoEncoderTopK", tensors | _selection(sae, torch.tensor(UNSET))


def _write_batchtopk(sae: SAE) -> tuple[str, Tensors]:
    move_b_dec(sae, subtracted=True)
    selection = _selection(sae, sae.threshold[-1])
    if not sae.config.prefixes:
        return "BatchTopKSAE", _to_linear(sae, "encoder.bias", "b_dec") | selection
    sizes = torch.tensor((0, *sae.config.prefixes)).diff()
    return "MatryoshkaBatchTopKSAE", _to_matrices(sae) | selection | {"group_sizes": sizes}


def _selection(sae: SAE, threshold: Tensor) -> Tensors:
    return {"k": torch.tensor(sae.config.k, dtype=torch.int), "threshold": threshold}


def _write_jumprelu(sae: SAE) -> tuple[str, Tensors]:
    move_b_dec(sae, subtracted=False)
    return "JumpReluAutoEncoder", _to_matrices(sae) | {"threshold": sae.threshold}


WRITERS: dict[str, Callable[[SAE], tuple[str, Tensors]]] = {
    "relu": _write_relu,
    "gated": _write_gated,
    "topk": _write_topk,
    "batchtopk": _write_batchtopk,
    "jumprelu": _write_jumprelu,
}
