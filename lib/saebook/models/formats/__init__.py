"""Other libraries' checkpoints: one file per library, one line here.

Reading gives a model that computes what the original library computes; what can't be
represented is refused by name. No pickle is ever executed. SAEBench has no files of its own: it
takes models as objects, which :func:`for_sae_bench` makes.
"""

from __future__ import annotations

from pathlib import Path

import torch

from saebook.errors import CheckpointError, ConfigError
from saebook.models.config import SAEConfig
from saebook.models.formats.base import (
    ForeignFormat,
    Settings,
    Tensors,
    check_tensors,
    complete_folder,
)
from saebook.models.formats.dictionary_learning import DictionaryLearning
from saebook.models.formats.sae_bench import SAEBenchSAE, SAEBenchSettings, for_sae_bench
from saebook.models.formats.sae_lens import SAELens
from saebook.models.formats.sparsify import Sparsify
from saebook.models.sae import SAE
from saebook.models.settings import check_choice

FORMATS: dict[str, ForeignFormat] = {
    "sae_lens": SAELens(),
    "dictionary_learning": DictionaryLearning(),
    "sparsify": Sparsify(),
}

__all__ = [
    "FORMATS",
    "ForeignFormat",
    "SAEBenchSAE",
    "SAEBenchSettings",
    "detect_format",
    "for_sae_bench",
    "load_foreign",
    "read_foreign",
    "save_foreign",
]


def detect_format(path: str | Path) -> str:
    """Which library saved a folder, as a key of ``FORMATS``.

    Parameters
    ----------
    path
        The folder, told by the name of its weights: ``sae_weights.safetensors`` (SAELens),
        ``ae.pt`` (dictionary_learning) or ``sae.safetensors`` (sparsify).

    Raises
    ------
    CheckpointError
        No such folder, or none of these files is in it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "ae.pt").touch()
    ...     detect_format(folder)
    'dictionary_learning'
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give the folder of a saved SAE")
    for name, foreign in FORMATS.items():
        if (path / foreign.weights_file).is_file():
            return name
    wanted = ", ".join(f"{f.weights_file} ({f.library})" for f in FORMATS.values())
    raise CheckpointError(f"{path}: none of the weights that can be read is there: {wanted}")


def read_foreign(path: str | Path) -> tuple[Settings, Tensors]:
    """Settings and weights of another library's SAE, in the names of this one.

    Parameters
    ----------
    path
        The folder that the library saved.

    Returns
    -------
    settings
        What :class:`~saebook.models.SAEConfig` takes.
    tensors
        Entries of the model's state dictionary: all weights, and buffers that the file decides.

    Raises
    ------
    CheckpointError
        A file is missing, damaged, would run code, or doesn't fit the others; or it holds a
        setting that changes outputs and can't be represented here. The message names it.
    """
    return FORMATS[detect_format(path)].read(Path(path))


def load_foreign(path: str | Path, device: str | torch.device = "cpu") -> SAE:
    """Read an SAE that SAELens, dictionary_learning or sparsify saved, in eval mode.

    Parameters
    ----------
    path
        The folder that the library saved.
    device
        Where its weights go.

    Returns
    -------
    SAE
        With the latents and reconstructions of the original library, to 1e-5 in float32.

    Raises
    ------
    CheckpointError
        As for :func:`read_foreign`.

    Examples
    --------
    >>> import tempfile
    >>> sae = SAE(SAEConfig(d_in=4, d_sae=8, architecture="topk", k=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     same = load_foreign(save_foreign(sae, folder + "/sae", "sae_lens"))
    >>> same.config.architecture, same.config.k, same.training
    ('topk', 2, False)
    """
    settings, tensors = read_foreign(path)
    try:
        sae = SAE(SAEConfig(**settings))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    sae = sae.to(tensors["W_dec"].dtype)
    state = sae.state_dict()
    # A lone threshold may be kept without an axis.
    tensors = {k: v.reshape(state[k].shape) if v.ndim == 0 else v for k, v in tensors.items()}
    given = {name: tuple(state[name].shape) for name in tensors}
    check_tensors(tensors, given | _shapes_of_parameters(sae), Path(path))
    sae.load_state_dict({**state, **tensors})
    # The weights are trained ones: fitting anything to inputs would overwrite them.
    sae.scaling.n_rows.fill_(1)
    sae.target_scaling.n_rows.fill_(1)
    return sae.to(device).eval()


def _shapes_of_parameters(sae: SAE) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sae.named_parameters()}


def save_foreign(sae: SAE, path: str | Path, library: str) -> Path:
    """Write an SAE as a folder that another library reads.

    Latents and reconstructions stay the same, up to rounding: the input scaling is folded into
    the weights first, where the library does not apply it itself.

    Parameters
    ----------
    sae
        Of architecture relu, topk, batchtopk, jumprelu or gated; it is not changed.
    path
        The folder. One that is there already is replaced, whole.
    library
        ``"sae_lens"``, for its ``SAE.load_from_disk``, or ``"dictionary_learning"``, for its
        ``load_dictionary``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ConfigError
        The library has nothing that computes the same: the message names the setting.

    Examples
    --------
    >>> import tempfile
    >>> sae = SAE(SAEConfig(d_in=4, d_sae=8, architecture="topk", k=2, reconstruction="mse"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = save_foreign(sae, folder + "/sae", "dictionary_learning")
    ...     same = load_foreign(written)
    >>> x = torch.tensor([[1.0, 2.0, 0.0, 3.0]])
    >>> torch.allclose(same(x)[0], sae(x)[0])
    True
    """
    check_choice("library", library, tuple(FORMATS))
    path = Path(path)
    with complete_folder(path) as folder:
        FORMATS[library].write(sae, folder)
    return path
