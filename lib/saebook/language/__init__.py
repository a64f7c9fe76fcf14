"""Language models: loading, reading their activations, collecting them with their texts.

Importing this package needs no transformers; it is imported when a model is first asked for.
"""

from saebook.language.budget import DiskBudget
from saebook.language.collecting import collect_activations, unfinished
from saebook.language.holdout import DocumentSplits
from saebook.language.masking import MaskRule
from saebook.language.models import LanguageModel, load_language_model
from saebook.language.naming import language_model
from saebook.language.patches import patch_batches
from saebook.language.sites import Site, blocks, read_activations
from saebook.language.small import (
    byte_tokenizer,
    next_token_loss,
    train_small_model,
    unigram_entropy,
)
from saebook.language.small_kept import small_model, small_model_record
from saebook.language.smollm import load_smollm2
from saebook.language.splicing import Splice, constant, reconstructing, spliced, zeros
from saebook.language.texts import TextSource, load_text, text_source
from saebook.language.token_views import Excerpt, Excerpts, top_excerpts
from saebook.language.tokens import Cursor, TokenBatch, token_batches

__all__ = [
    "Cursor",
    "DiskBudget",
    "DocumentSplits",
    "Excerpt",
    "Excerpts",
    "LanguageModel",
    "MaskRule",
    "Site",
    "Splice",
    "TextSource",
    "TokenBatch",
    "blocks",
    "byte_tokenizer",
    "collect_activations",
    "constant",
    "language_model",
    "load_language_model",
    "load_smollm2",
    "load_text",
    "next_token_loss",
    "patch_batches",
    "read_activations",
    "reconstructing",
    "small_model",
    "small_model_record",
    "spliced",
    "text_source",
    "token_batches",
    "top_excerpts",
    "train_small_model",
    "unfinished",
    "unigram_entropy",
    "zeros",
]
