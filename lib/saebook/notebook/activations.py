"""Activations that chapters share: collected once for each set of settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebook.notebook.project import digest, locked, project_root, relative

if TYPE_CHECKING:
    from saebook.data import ExampleStore
    from saebook.language import LanguageModel


def collected_activations(
    model: LanguageModel | str,
    *,
    layer: int,
    text: Any = "moby_dick",
    n_tokens: int | None = None,
    **settings: Any,
) -> ExampleStore:
    """Store of a model's activations, collected when it isn't there yet.

    Parameters
    ----------
    model : LanguageModel or str
        A model, or the name of one (``"small"``, ``"smollm2"``, a folder, a name on the hub).
    layer : int
        Number of the block, from 0.
    text : source of texts
        As for :func:`saebook.language.text_source`.
    n_tokens : int, optional
        Positions to keep; all of the text without it.
    **settings
        Further ones of :func:`saebook.language.collect_activations`.

    Returns
    -------
    ExampleStore
        In ``data/activations/``, or below ``$SAEBOOK_ACTIVATIONS``. Whoever asks for the same
        one meanwhile waits for it; one that was interrupted goes on.
    """
    from saebook.language import (
        LanguageModel,
        MaskRule,
        collect_activations,
        language_model,
        text_source,
    )

    loading = ("device", "device_map", "revision", "random_weights", "gguf_file")
    given = {name: settings.pop(name) for name in loading if name in settings}
    if not isinstance(model, LanguageModel):
        model = language_model(model, dtype=settings.get("dtype", "fp32"), **given)
    source = text_source(text) if model.tokenizer is not None else text
    identity = {
        "model": model.fingerprint(),
        "dtype": str(model.dtype),
        "layer": layer,
        "n_tokens": n_tokens,
        "text": source.identity() if hasattr(source, "identity") else list(text.shape),
        **{
            name: value.to_dict() if isinstance(value, MaskRule) else value
            for name, value in settings.items()
            if name != "progress"
        },
    }
    label = "".join(c if c.isalnum() else "-" for c in Path(model.name).name)
    path = activations_folder() / f"{label}-layer{layer}-{digest(identity)}"
    with locked(path.with_name(f".{path.name}.lock"), f"{relative(path)} is being collected"):
        return collect_activations(
            model, source, layer=layer, out=path, n_tokens=n_tokens, **settings
        )


def activations_folder() -> Path:
    """Folder of collected activations: ``$SAEBOOK_ACTIVATIONS``, else ``data/activations``."""
    given = os.environ.get("SAEBOOK_ACTIVATIONS")
    return Path(given).resolve() if given else project_root() / "data" / "activations"
