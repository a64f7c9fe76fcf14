"""Saving and loading an SAE: safetensors for the weights, JSON for the settings."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saebook.errors import CheckpointError, ConfigError
from saebook.models.config import SAEConfig
from saebook.models.formats import load_foreign
from saebook.models.sae import SAE

FORMAT = "saebook-sae"
FORMAT_VERSION = 2
WEIGHTS = "sae_weights.safetensors"
SETTINGS = "cfg.json"


def save_sae(sae: SAE, path: str | Path) -> Path:
    """Write an SAE to a folder: ``cfg.json`` and ``sae_weights.safetensors``.

    Parameters
    ----------
    sae
        The model; weights are saved in their own dtype, ``W_enc`` as [d_in, d_sae].
    path
        The folder. One that holds an SAE already is replaced, whole.

    Returns
    -------
    Path
        The folder.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in sae.state_dict().items()}
    tensors["W_enc"] = tensors.pop("encoder_rows").T.contiguous()
    save_file(tensors, partial / WEIGHTS)
    settings = {"format": FORMAT, "format_version": FORMAT_VERSION, **sae.config.to_dict()}
    (partial / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)
    return path


def _is_own(path: Path) -> bool:
    """Whether a folder holds a file of ours, whole or damaged."""
    settings_file = path / SETTINGS
    if not settings_file.is_file():
        return (path / WEIGHTS).is_file()
    return f'"{FORMAT}"' in settings_file.read_text(errors="replace")


def load_sae(path: str | Path, device: str | torch.device = "cpu") -> SAE:
    """Read an SAE written by :func:`save_sae`, or by another library, in eval mode.

    Folders of SAELens, dictionary_learning and sparsify are recognised by their files (see
    :mod:`saebook.models.formats`).

    Parameters
    ----------
    path
        The folder.
    device
        Where its weights go.

    Raises
    ------
    CheckpointError
        No such folder, a missing or damaged file, a newer format, or settings and weights
        that don't fit each other.

    Examples
    --------
    >>> import tempfile, torch
    >>> sae = SAE(SAEConfig(d_in=4, d_sae=8, architecture="topk", k=2)).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     same = load_sae(save_sae(sae, folder + "/sae"))
    >>> torch.equal(same.W_enc, sae.W_enc), same.training
    (True, False)
    """
    path = Path(path)
    if path.is_dir() and not _is_own(path):
        return load_foreign(path, str(device))
    settings_file, weights_file = path / SETTINGS, path / WEIGHTS
    for file in (settings_file, weights_file):
        if not file.is_file():
            raise CheckpointError(f"{path}: no {file.name} there; give the folder of a saved SAE")
    try:
        settings = json.loads(settings_file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{settings_file}: not valid JSON ({error})") from error
    if not isinstance(settings, dict) or settings.pop("format", None) != FORMAT:
        raise CheckpointError(f"{settings_file}: its format is not {FORMAT!r}")
    version = settings.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{settings_file}: format version {version}, this library reads {FORMAT_VERSION}; "
            "update saebook, or save the SAE again with this version"
        )
    try:
        sae = SAE(SAEConfig.from_dict(settings))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{settings_file}: {error}") from error
    try:
        tensors = load_file(weights_file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights_file}: damaged or truncated ({error})") from error
    if "W_enc" in tensors:
        tensors["encoder_rows"] = tensors.pop("W_enc").T.contiguous()
    expected = sae.state_dict()
    wrong = [
        f"{name}: {tuple(tensors[name].shape) if name in tensors else 'missing'}, "
        f"expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name not in tensors or tensors[name].shape != value.shape
    ] + [f"{name}: unexpected" for name in tensors if name not in expected]
    if wrong:
        raise CheckpointError(f"{weights_file} does not fit {SETTINGS}: {'; '.join(wrong)}")
    sae = sae.to(tensors["W_dec"].dtype)
    sae.load_state_dict(tensors)
    return sae.to(device).eval()
