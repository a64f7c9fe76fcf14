"""What the readers and writers of other libraries' files share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saebook.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from saebook.models.sae import SAE

Settings = dict[str, Any]
Tensors = dict[str, Tensor]


class ForeignFormat:
    """One library's way to keep an SAE in a folder; holds no state of its own."""

    library: str = ""
    settings_file: str = ""
    weights_file: str = ""

    def read(self, folder: Path) -> tuple[Settings, Tensors]:
        """Settings of an :class:`~saebook.models.SAEConfig`, and its state dictionary."""
        raise TypeError(f"{type(self).__name__} doesn't say how it reads")

    def write(self, sae: SAE, folder: Path) -> None:
        """Fill an empty folder with what the library itself can read."""
        raise ConfigError(
            f"{self.library}: its files are read here, not written; choose another library"
        )


def read_settings(file: Path) -> Settings:
    """A JSON object from a file.

    Raises
    ------
    CheckpointError
        No such file, or what it holds is not a JSON object.
    """
    if not file.is_file():
        raise CheckpointError(
            f"{file.parent}: no {file.name} there, which says what the weights mean; give the "
            "whole folder that the other library saved"
        )
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); copy the file again") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file}: holds a {type(settings).__name__}, not settings by name")
    return settings


def write_settings(settings: Settings, file: Path) -> None:
    """Write settings as JSON."""
    file.write_text(json.dumps(settings, indent=2) + "\n")


def read_safetensors(file: Path) -> Tensors:
    """Every tensor of a safetensors file.

    Raises
    ------
    CheckpointError
        No such file, or it is damaged.
    """
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: no {file.name} there; copy the whole folder")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: damaged or truncated ({error}); copy the file again"
        ) from error


def check_tensors(tensors: Tensors, expected: dict[str, tuple[int, ...]], file: Path) -> None:
    """Refuse tensors that are missing, unexpected, or of another shape than the settings say."""
    wrong = [
        f"{name}: {list(tensors[name].shape) if name in tensors else 'missing'}, "
        f"expected {list(shape)}"
        for name, shape in expected.items()
        if name not in tensors or tuple(tensors[name].shape) != shape
    ]
    wrong += [
        f"{name}: {list(value.shape)}, which this architecture doesn't have"
        for name, value in tensors.items()
        if name not in expected
    ]
    if wrong:
        raise CheckpointError(
            f"{file} does not fit its settings: {'; '.join(wrong)}. Settings and weights must "
            "come from the same save"
        )


def whole_number(settings: Settings, name: str, file: Path) -> int:
    """A setting that must be there and be a whole number of at least 1."""
    value = settings.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        found = repr(value) if name in settings else "missing"
        raise CheckpointError(f"{file}: {name} is {found}; it must be a whole number, at least 1")
    return value


def yes_or_no(settings: Settings, name: str, default: bool, file: Path) -> bool:
    """A setting that is True or False."""
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: {name} is {value!r}; it must be true or false")
    return value


def refuse(file: Path, setting: str, value: Any, remedy: str) -> CheckpointError:
    """The error for a setting that changes outputs and can't be represented here."""
    return CheckpointError(f"{file}: {setting} = {value!r} can't be represented here: {remedy}")


def inference_settings(**settings: Any) -> Settings:
    """Settings common to all foreign models, whose weights are complete as they are.

    Weights carry their own norms, and reconstructions are compared by squared error, so that
    nothing about the outputs is left to a default of this library.
    """
    return {
        "input_scaling": "none",
        "apply_b_dec_to_input": True,
        "decoder_norm": "free",
        "reconstruction": "mse",
        "output": "none",
        **settings,
    }


def fold_decoder_norm(tensors: Tensors) -> None:
    """Move the norms of ``W_dec``'s rows into the encoder, in place: ``f ← f‖d‖, d ← d/‖d‖``.

    Exact where latents are positively homogeneous in the pre-activation: relu, and selections
    by ``h‖d‖`` such as SAELens' ``rescale_acts_by_decoder_norm``.
    """
    norm = tensors["W_dec"].norm(dim=1)
    norm = norm.where(norm > 0, norm.new_ones(()))  # a latent without direction stays as it is
    tensors["encoder_rows"] = tensors["encoder_rows"] * norm[:, None]
    tensors["b_enc"] = tensors["b_enc"] * norm
    tensors["W_dec"] = tensors["W_dec"] / norm[:, None]


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``path`` once it is complete."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
