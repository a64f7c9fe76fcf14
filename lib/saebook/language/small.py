"""A small model that is trained where it is needed: English in seconds, without a hub."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from saebook.errors import ConfigError
from saebook.language.models import LanguageModel, import_transformers

END = "<|end|>"


def byte_tokenizer() -> Any:
    """Tokenizer of 256 bytes and an end token, which is also its padding.

    Returns
    -------
    transformers.PreTrainedTokenizerFast

    Examples
    --------
    >>> byte_tokenizer()("Ab")["input_ids"] == bpe_tokenizer(["…"], 257)("Ab")["input_ids"]
    True
    """
    return bpe_tokenizer([], 257)


def bpe_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """Byte-level BPE tokenizer learnt from texts, with one special token, the end of a text.

    Parameters
    ----------
    texts : list of str
        What the merges are learnt from.
    vocab_size : int
        Tokens, at least 257: 256 bytes and the end. Merges fill up the rest.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        Puts no token in front of a text.

    Raises
    ------
    ConfigError
        If the vocabulary is smaller than that.
    """
    if vocab_size < 257:
        raise ConfigError(f"vocab_size={vocab_size}: bytes alone are 256 tokens; give at least 257")
    transformers = import_transformers()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END
    )


def train_small_model(
    texts: Sequence[str],
    *,
    vocab_size: int = 512,
    d_model: int = 64,
    n_layers: int = 3,
    context: int = 64,
    batch_size: int = 16,
    n_steps: int = 150,
    learning_rate: float = 1e-2,
    seed: int = 0,
    progress: bool = True,
) -> tuple[LanguageModel, list[float]]:
    """Train a GPT-NeoX on texts: small, but with blocks, attention and a residual stream as any.

    Parameters
    ----------
    texts : list of str
        Training documents. Hold some back to measure the loss on (:func:`next_token_loss`).
    vocab_size : int
        Of the byte-level BPE tokenizer that is learnt from them; 257 for bytes alone.
    d_model, n_layers, context : int
        Width, blocks, tokens per context. Heads are 32 wide, MLPs four times the width.
    batch_size, n_steps : int
        Contexts per step; steps.
    learning_rate : float
        Peak of a schedule that rises for a tenth of the steps and then falls to a tenth.
    seed : int
        Draws weights and batches.
    progress : bool
        Show a bar with the loss.

    Returns
    -------
    model : LanguageModel
        On the CPU, in eval mode.
    losses : list of float [n_steps]
        Training loss in nats per token.

    Raises
    ------
    ConfigError
        If there are fewer tokens than a context.
    """
    transformers = import_transformers()
    tokenizer = bpe_tokenizer(texts, vocab_size)
    ids = _one_row(tokenizer, texts)
    if len(ids) <= context:
        raise ConfigError(f"{len(ids)} tokens of text for contexts of {context}; give more text")
    config = transformers.GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=max(1, d_model // 32),
        intermediate_size=4 * d_model,
        max_position_embeddings=max(512, context),
        rotary_pct=0.25,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.GPTNeoXForCausalLM(config)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    losses = []
    bar = tqdm(range(n_steps), desc="small model", unit="step", disable=not progress)
    for step in bar:
        rise, fall = (step + 1) / (0.1 * n_steps), 0.5 * (1 + math.cos(math.pi * step / n_steps))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, rise) * (0.1 + 0.9 * fall)
        starts = rng.integers(0, len(ids) - context, batch_size)
        batch = torch.stack([ids[at : at + context + 1] for at in starts.tolist()])
        logits = model(input_ids=batch[:, :-1]).logits  # [batch, context, vocabulary]
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        bar.set_postfix(nats_per_token=f"{losses[-1]:.2f}", refresh=False)
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, "small"), losses


@torch.no_grad()
def next_token_loss(lm: LanguageModel, texts: Sequence[str], *, context: int = 64) -> float:
    """Mean loss of next-token prediction, in nats per token.

    Parameters
    ----------
    lm : LanguageModel
        Any causal model.
    texts : list of str
        Held-out documents.
    context : int
        Tokens per context.

    Returns
    -------
    float
        Over every token but the first of each context.
    """
    total, n = 0.0, 0
    for rows in _contexts(_one_row(lm.tokenizer, texts), context):
        rows = rows.to(lm.device)
        logits = lm.model(input_ids=rows[:, :-1]).logits.float()
        total += F.cross_entropy(
            logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"
        ).item()
        n += rows[:, 1:].numel()
    return total / n


def unigram_entropy(tokenizer: Any, texts: Sequence[str]) -> float:
    """Entropy of single tokens in nats: the loss of the best guess that ignores the context.

    Examples
    --------
    >>> round(unigram_entropy(byte_tokenizer(), ["abab"]), 3)  # a, b twice each, one end
    1.055
    """
    counts = np.bincount(_one_row(tokenizer, texts).numpy()).astype(np.float64)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _one_row(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """All tokens in one row, each text followed by the end token."""
    rows = [
        [*tokenizer(text, verbose=False)["input_ids"], tokenizer.eos_token_id] for text in texts
    ]
    return torch.tensor([token for row in rows for token in row], dtype=torch.int64)


def _contexts(ids: torch.Tensor, context: int) -> Iterator[torch.Tensor]:
    """Batches [32, context + 1] of successive contexts; what is left at the end is dropped."""
    n = (len(ids) - 1) // context
    rows = ids[: n * context + 1].unfold(0, context + 1, context)
    yield from rows.split(32)
