"""Documents cut into contexts, and contexts into batches, from any point on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saebook.errors import ConfigError, DataError, StoreError
from saebook.language.models import LanguageModel
from saebook.language.texts import Document, TextSource, text_source

_COUNTED = (
    "documents",
    "empty",
    "shorter_than_context",
    "cut",
    "shortened",
    "broken_utf8",
    "contexts",
    "tokens",
)


@dataclass
class TokenBatch:
    """Contexts side by side; each holds tokens of one document, with padding at its end.

    Attributes
    ----------
    input_ids : Tensor [b, s] of int64
        Tokens; of images -1 throughout.
    attention_mask : Tensor [b, s] of int64
        1 for a token, 0 for padding.
    document : Tensor [b, s] of int64
        Number of the document in its source, counting empty ones; -1 for padding.
    position : Tensor [b, s] of int64
        Number of the token in its document, going on from context to context; -1 for padding
        and for a start token that was put in front.
    special : Tensor [b, s] of bool
        Start, end and other special tokens; of an image its class and register tokens.
    pixel_values : Tensor [b, c, h, w], optional
        Images, for a vision model: patches are its tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    document: Tensor
    position: Tensor
    special: Tensor
    pixel_values: Tensor | None = None

    @classmethod
    def of(
        cls,
        contexts: Sequence[Sequence[int]],
        *,
        documents: Sequence[int] | None = None,
        starts: Sequence[int] | None = None,
        special_ids: Iterable[int] = (),
        pad_id: int = 0,
    ) -> TokenBatch:
        """Make a batch of token ids.

        Parameters
        ----------
        contexts : list of list of int
            Tokens of each context; padded to the longest.
        documents : list of int, optional
            Document of each; one of its own by default.
        starts : list of int, optional
            Position of the first token of each in its document; 0 by default.
        special_ids : iterable of int
            Tokens that carry no text.
        pad_id : int
            Token that stands for padding.

        Raises
        ------
        DataError
            If there is no context, or one without a token.

        Examples
        --------
        >>> batch = TokenBatch.of([[7, 8, 9], [4]], starts=[128, 0])
        >>> batch.position.tolist()
        [[128, 129, 130], [0, -1, -1]]
        """
        if not contexts or not all(len(context) for context in contexts):
            raise DataError(f"{len(contexts)} contexts, one of them empty; give at least one token")
        size = (len(contexts), max(len(context) for context in contexts))
        ids = torch.full(size, pad_id, dtype=torch.int64)
        mask = torch.zeros(size, dtype=torch.int64)
        document, position = torch.full_like(ids, -1), torch.full_like(ids, -1)
        for row, tokens in enumerate(contexts):
            n = len(tokens)
            ids[row, :n] = torch.as_tensor(tokens)
            mask[row, :n] = 1
            document[row, :n] = row if documents is None else documents[row]
            first = 0 if starts is None else starts[row]
            position[row, :n] = torch.arange(first, first + n)
        known = torch.tensor(sorted(set(special_ids)), dtype=torch.int64)
        return cls(ids, mask, document, position, torch.isin(ids, known) & mask.bool())

    def inputs(self) -> dict[str, Tensor]:
        """What the model's forward takes."""
        if self.pixel_values is not None:
            return {"pixel_values": self.pixel_values}
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}

    def to(self, device: torch.device | str) -> TokenBatch:
        """Return the batch on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Cursor:
    """The place in a source from which the next batch is taken.

    Attributes
    ----------
    document : int
        Number of the document that the last context came from; behind the last of all, at the
        end of the source.
    contexts : int
        How many of its contexts were taken.
    digest : str
        Hash of its text, to tell a changed source.
    """

    document: int = 0
    contexts: int = 0
    digest: str = ""


class TokenBatches(Iterator[TokenBatch]):
    """Batches of contexts of a source; see :func:`token_batches`.

    Attributes
    ----------
    cursor : Cursor
        Behind the last batch that was given out; ``start`` of an iterator that goes on.
    counts : dict of str to int
        Since the beginning of the source: documents, empty ones, ones shorter than a context,
        ones cut into several, ones of which the end was left out, ones with broken UTF-8,
        contexts, and tokens.
    """

    def __init__(
        self,
        lm: LanguageModel,
        source: TextSource,
        context: int,
        batch_size: int,
        contexts_per_document: int | None,
        prepend_bos: bool | None,
        start: Cursor | None,
        counts: dict[str, int] | None,
    ) -> None:
        most = contexts_per_document
        sizes = [("context", context, 2), ("batch_size", batch_size, 1)]
        sizes += [] if most is None else [("contexts_per_document", most, 1)]
        for name, value, least in sizes:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name}={value!r}: give a whole number, at least {least}")
        tokenizer = lm.tokenizer
        if tokenizer is None:
            raise ConfigError(
                f"{lm.name} has no tokenizer, so it can't read text; give a model with one, or "
                "images to a vision model (patch_batches)"
            )
        longest = getattr(lm.config, "max_position_embeddings", None)
        if isinstance(longest, int) and context > longest:
            raise ConfigError(
                f"context={context}, but {lm.name} reads at most {longest} tokens; give a shorter "
                "context"
            )
        self._tokenizer, self._source = tokenizer, source
        self._size = batch_size
        self._special = tuple(tokenizer.all_special_ids)
        self._pad = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t), 0)
        self._bos = _start_token(tokenizer, prepend_bos)
        self._text_tokens = context - len(self._bos)
        self._most_tokens = None if most is None else most * self._text_tokens
        self.cursor = start or Cursor()
        self.counts: dict[str, int] = dict.fromkeys(_COUNTED, 0)
        self.counts.update(counts or {})
        self._n_seen = self.cursor.document
        self._contexts = self._all_contexts(self.cursor)

    def _all_contexts(self, start: Cursor) -> Iterator[tuple[int, int, str, list[int]]]:
        """Document, number within it, digest of its text, and tokens of every context."""
        for document in self._source.documents(start.document):
            self._n_seen = document.number + 1
            if start.contexts and document.number == start.document:
                yield from self._rest(document, start)
                continue
            tokens = self._encode(document)
            if tokens:
                digest = text_digest(document.text)
                for number, at in enumerate(range(0, len(tokens), self._text_tokens)):
                    yield document.number, number, digest, tokens[at : at + self._text_tokens]

    def _rest(self, document: Document, start: Cursor) -> Iterator[tuple[int, int, str, list[int]]]:
        """Contexts after the cursor's, of the document that it stands in."""
        digest = text_digest(document.text)
        if digest != start.digest:
            raise StoreError(
                f"document {document.number} of {self._source.name} is another text than when the "
                "collection was begun; restore the source, or begin anew in another folder"
            )
        tokens = self._ids(document.text)[: self._most_tokens]
        for number, at in enumerate(range(0, len(tokens), self._text_tokens)):
            if number >= start.contexts:
                yield document.number, number, digest, tokens[at : at + self._text_tokens]

    def _ids(self, text: str) -> list[int]:
        # A tokenizer warns of texts longer than its model's context: here they are cut.
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _encode(self, document: Document) -> list[int]:
        """Tokens of a document seen for the first time, counting what it is."""
        counts = self.counts
        counts["documents"] += 1
        counts["broken_utf8"] += document.broken_utf8
        tokens = self._ids(document.text) if document.text.strip() else []
        counts["empty"] += not tokens
        counts["shorter_than_context"] += 0 < len(tokens) < self._text_tokens
        counts["cut"] += len(tokens) > self._text_tokens
        counts["shortened"] += len(tokens[: self._most_tokens]) < len(tokens)
        return tokens[: self._most_tokens]

    def __next__(self) -> TokenBatch:
        taken: list[tuple[int, int, str, list[int]]] = []
        while len(taken) < self._size:
            found = next(self._contexts, None)
            if found is None:
                break
            taken.append(found)
        ended = len(taken) < self._size
        if not taken:
            self.cursor = Cursor(self._n_seen)
            raise StopIteration
        batch = TokenBatch.of(
            [[*self._bos, *tokens] for _, _, _, tokens in taken],
            documents=[document for document, _, _, _ in taken],
            starts=[number * self._text_tokens - len(self._bos) for _, number, _, _ in taken],
            special_ids=self._special,
            pad_id=self._pad,
        )
        if self._bos:
            batch.position[:, 0] = -1
            batch.special[:, 0] = True
        # Empty documents behind the last context were counted, so the cursor stands behind them.
        last = Cursor(taken[-1][0], taken[-1][1] + 1, taken[-1][2])
        self.cursor = Cursor(self._n_seen) if ended else last
        self.counts["contexts"] += len(taken)
        self.counts["tokens"] += sum(len(tokens) for _, _, _, tokens in taken)
        return batch


def token_batches(
    lm: LanguageModel,
    texts: Any,
    *,
    context: int = 128,
    batch_size: int = 8,
    contexts_per_document: int | None = None,
    prepend_bos: bool | None = None,
    start: Cursor | None = None,
    counts: dict[str, int] | None = None,
) -> TokenBatches:
    """Cut documents into contexts of one document each, and give them out in batches.

    Nothing is held but one document and one batch, so a source may be as long as it likes. A
    document longer than a context is cut into several; the last may be short. Batches are padded
    to their longest context.

    Parameters
    ----------
    lm : LanguageModel
        Whose tokenizer is used.
    texts : source of texts
        As for :func:`saebook.language.text_source`: list of str, file, stream, name.
    context : int
        Tokens per context, a start token included.
    batch_size : int
        Contexts per batch.
    contexts_per_document : int, optional
        Take the first few contexts of each document only: more documents in as many tokens.
    prepend_bos : bool, optional
        Begin every context with the start token; by default where the tokenizer does so itself.
    start : Cursor, optional
        Go on behind an earlier iterator's ``cursor``: the same batches as if it had gone on.
    counts : dict, optional
        Its ``counts``.

    Returns
    -------
    iterator of TokenBatch

    Raises
    ------
    ConfigError
        If a setting is out of its range, or the model has no tokenizer.
    StoreError
        While going on, if the source changed.

    Examples
    --------
    >>> from saebook.language import train_small_model
    >>> lm, _ = train_small_model(
    ...     ["abcd" * 9], vocab_size=257, d_model=32, n_layers=1, context=8, n_steps=1,
    ...     progress=False,
    ... )
    >>> batch = next(token_batches(lm, ["one", "", "a longer one"], context=8))
    >>> batch.document[:, 0].tolist(), batch.position[:, 0].tolist()
    ([0, 2, 2], [0, 0, 8])
    """
    source = text_source(texts)
    return TokenBatches(
        lm, source, context, batch_size, contexts_per_document, prepend_bos, start, counts
    )


def text_digest(text: str) -> str:
    """Short hash of a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _start_token(tokenizer: Any, wanted: bool | None) -> list[int]:
    bos: Any = tokenizer.bos_token_id
    if wanted is None:
        first = tokenizer("a", verbose=False)["input_ids"][:1]
        wanted = bos is not None and first == [bos]
    if wanted and bos is None:
        raise ConfigError(
            "prepend_bos=True, but the tokenizer has no start token; leave it out, or give False"
        )
    return [bos] if wanted and bos is not None else []
