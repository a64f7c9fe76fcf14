"""Models that are made once and kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from saebook.language.models import LanguageModel


def cache_folder() -> Path:
    """Folder for what is made once per user: ``saebook`` in $XDG_CACHE_HOME, else ~/.cache."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "saebook"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` fills, once, whoever asks for it at the same time.

    Parameters
    ----------
    folder : Path
        Appears complete or not at all.
    make : callable
        Given the empty folder to fill.

    Returns
    -------
    Path
        The folder.
    """
    if folder.is_dir():
        return folder
    import fcntl

    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


def save_language_model(lm: LanguageModel, folder: Path) -> None:
    """Write a model and its tokenizer as transformers reads them."""
    lm.model.save_pretrained(folder)  # type: ignore[operator]
    if lm.tokenizer is not None:
        lm.tokenizer.save_pretrained(folder)
