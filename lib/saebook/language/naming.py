"""Models by the short names that need no hub."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from saebook.errors import ConfigError
from saebook.language.models import LanguageModel, load_language_model
from saebook.language.small_kept import small_model
from saebook.language.smollm import load_smollm2


def language_model(name: str | Path, **loading: Any) -> LanguageModel:
    """Load a model by name: ``"small"``, ``"smollm2"``, else from a folder or the hub.

    Parameters
    ----------
    name : str or Path
        ``"small"``: trained here on the shipped texts when first asked for. ``"smollm2"``: from
        its package. Else a folder, or a name on the Hugging Face hub.
    **loading
        As for :func:`saebook.language.load_language_model`.

    Returns
    -------
    LanguageModel

    Raises
    ------
    EnvironmentProblem
        If it can't be had; the message says what to install, or which setting to change.
    """
    known = {"small": small_model, "smollm2": load_smollm2}.get(str(name))
    if known is None:
        return load_language_model(name, **loading)
    allowed = set(inspect.signature(known).parameters)
    unknown = sorted(key for key in loading.keys() - allowed if loading[key] is not None)
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: not for the model {name!r}; leave it out")
    return known(**{key: value for key, value in loading.items() if key in allowed})
