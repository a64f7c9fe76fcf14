"""Language models: loading, reading their activations, collecting them with their texts.

Importing this package needs no transformers; it is imported when a model is first asked for.
"""

from saebook.language.masking import MaskRule
from saebook.language.models import LanguageModel, load_language_model
from saebook.language.sites import Site, blocks, read_activations
from saebook.language.small import (
    byte_tokenizer,
    next_token_loss,
    train_small_model,
    unigram_entropy,
)
from saebook.language.texts import TextSource, load_text, text_source
from saebook.language.tokens import Cursor, TokenBatch, patch_batches, token_batches

__all__ = [
    "Cursor",
    "LanguageModel",
    "MaskRule",
    "Site",
    "TextSource",
    "TokenBatch",
    "blocks",
    "byte_tokenizer",
    "load_language_model",
    "load_text",
    "next_token_loss",
    "patch_batches",
    "read_activations",
    "text_source",
    "token_batches",
    "train_small_model",
    "unigram_entropy",
]
