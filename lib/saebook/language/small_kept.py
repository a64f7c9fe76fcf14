"""The small model that chapters share at their smoke settings, trained when first asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from saebook.language import small, texts
from saebook.language.holdout import DocumentSplits
from saebook.language.kept import cache_folder, made_once, save_language_model
from saebook.language.models import LanguageModel, load_language_model

NAME = "small"
_RECORD = "training.json"


def small_model(
    *,
    dtype: str = "fp32",
    device: str = "auto",
    random_weights: bool = False,
    seed: int = 0,
    cache: str | Path | None = None,
) -> LanguageModel:
    """Load the small GPT-NeoX of the shipped texts (3 blocks, d_model 64), training it if needed.

    It is trained on the training documents of both collections, as `DocumentSplits` gives them
    out by default: their test documents are new to it.

    Parameters
    ----------
    dtype, device, random_weights
        As for :func:`saebook.language.load_language_model`.
    seed : int
        Of the random weights; the trained ones are always the same.
    cache : str or Path, optional
        Folder to keep it in; by default ``saebook`` in the user's cache folder.

    Returns
    -------
    LanguageModel
    """
    lm = load_language_model(
        _folder(cache), dtype=dtype, device=device, random_weights=random_weights, seed=seed
    )
    return replace(lm, name=f"{NAME}-random" if random_weights else NAME)


def small_model_record(cache: str | Path | None = None) -> dict[str, Any]:
    """Return how the small model was trained.

    Parameters
    ----------
    cache : str or Path, optional
        As for :func:`small_model`.

    Returns
    -------
    dict
        ``losses`` of each step, ``held_out_loss`` on the test documents and ``unigram_entropy``
        of their tokens, all in nats per token.
    """
    return json.loads((_folder(cache) / _RECORD).read_text(encoding="utf-8"))


def _folder(cache: str | Path | None) -> Path:
    total = hashlib.sha256(Path(small.__file__).read_bytes())
    for name in texts.SHIPPED:
        total.update(json.dumps(texts.text_source(name).identity()).encode())
    home = Path(cache) if cache is not None else cache_folder()
    return made_once(home / f"{NAME}-{total.hexdigest()[:12]}", _train)


def _train(folder: Path) -> None:
    splits = DocumentSplits((0.7, 0.15, 0.15))
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name in texts.SHIPPED:
        for document in texts.text_source(name).documents():
            parts[splits.of(document.number)].append(document.text)
    lm, losses = small.train_small_model(parts["train"])
    record = {
        "losses": losses,
        "held_out_loss": small.next_token_loss(lm, parts["test"][::4]),
        "unigram_entropy": small.unigram_entropy(lm.tokenizer, parts["test"]),
    }
    save_language_model(lm, folder)
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")
