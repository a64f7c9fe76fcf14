"""Activations of a model, with their documents, positions and tokens, as an example store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from saebook.data.store import ExampleStore, GrowingStore, settle, unfinished_folder
from saebook.errors import ConfigError, DataError, StoreError
from saebook.language.budget import BYTES, DiskBudget
from saebook.language.holdout import DocumentSplits
from saebook.language.masking import REASONS, MaskRule
from saebook.language.models import LanguageModel
from saebook.language.naming import language_model
from saebook.language.patches import PatchBatches, patch_batches
from saebook.language.sites import Site, read_activations
from saebook.language.texts import text_source
from saebook.language.tokens import Cursor, TokenBatch, TokenBatches, token_batches

_STORED = {"fp32": "float32", "bf16": "bfloat16"}
_SAVE_EVERY_S = 120.0


def collect_activations(
    model: LanguageModel | str | Path,
    text: Any,
    *,
    layer: int,
    out: str | Path,
    kind: Literal["residual", "mlp", "attention"] = "residual",
    n_tokens: int | None = None,
    context: int = 128,
    batch_size: int = 8,
    contexts_per_document: int | None = None,
    dtype: Literal["fp32", "bf16"] = "fp32",
    mask: MaskRule | None = None,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    prepend_bos: bool | None = None,
    on_overflow: Literal["raise", "skip"] = "raise",
    num_shards: int | None = None,
    restart: bool = False,
    progress: bool = True,
    **loading: Any,
) -> ExampleStore:
    """Run a model over texts and store what it computes at one site.

    The forward pass ends at the site. Rows come with the number of their document, their
    position in it and their token; whole documents are held out. A collection that was
    interrupted or killed goes on when the same call is made again, and ends with the same bytes;
    one that is complete is opened. Memory is one shard and one batch, however long the text.

    Parameters
    ----------
    model : LanguageModel, str or Path
        A model, or what :func:`saebook.language.language_model` loads by name.
    text : source of texts, or images
        As for :func:`saebook.language.text_source`; for a vision model images
        [n, c, h, w].
    layer : int
        Number of the block, from 0.
    out : str or Path
        Folder of the store.
    kind : {"residual", "mlp", "attention"}
        What to read there; see `Site`.
    n_tokens : int, optional
        Positions to keep; all of the text without it.
    context, batch_size : int
        Tokens per context, contexts per forward pass. Padding follows them, so rounding does too.
    contexts_per_document : int, optional
        Take the first few contexts of each document only: more documents in as many tokens.
    dtype : {"fp32", "bf16"}
        Stored type, and type of the weights of a model that is loaded here.
    mask : MaskRule, optional
        Positions to leave out; the default rule without it.
    fractions : (float, float, float)
        Shares of documents for train, validation and test.
    seed : int
        Of the hold-out.
    prepend_bos : bool, optional
        As for :func:`saebook.language.token_batches`.
    on_overflow : {"raise", "skip"}
        What to do at a position with NaN or infinity: stop, or leave it out and count it.
    num_shards : int, optional
        Divide n_tokens among so many shards; by default a shard has 256 MiB.
    restart : bool
        Throw away an unfinished collection at `out`.
    progress : bool
        Print the disk budget and show a bar with tokens/s.
    **loading
        Of a model given by name: device, device_map, revision, random_weights, gguf_file.

    Returns
    -------
    ExampleStore
        Kind "activations". Its index has the columns document, position and token beside the
        usual ones, trial is the document too, and a segment is a run of consecutive positions.
        Its provenance has the settings and, under ``counts``, what was read and left out.

    Raises
    ------
    StoreError
        If `out` holds something else (another model, layer or setting), or the disk is full.
    DataError
        If an activation isn't finite, or a text can't be read.
    SelectionError
        If no position is left.
    ConfigError, EnvironmentProblem
        If a setting is out of its range, or a model or data set can't be had.

    Examples
    --------
    >>> import tempfile
    >>> from saebook.language import train_small_model
    >>> texts = ["She sells sea shells.", "", "Peter Piper picked a peck of pickled pepper."]
    >>> lm, _ = train_small_model(
    ...     texts, vocab_size=257, d_model=32, n_layers=2, context=8, n_steps=1, progress=False
    ... )
    >>> store = collect_activations(
    ...     lm, texts, layer=1, out=f"{tempfile.mkdtemp()}/store", context=16, progress=False
    ... )
    >>> store.d_in, store.index[["document", "position", "token"]].iloc[0].tolist()
    (32, [0, 1, 72])
    >>> store.provenance["counts"]["empty"]
    1
    """
    if dtype not in BYTES:
        raise ConfigError(f"dtype={dtype!r}; activations are stored as {' or '.join(BYTES)}")
    if on_overflow not in ("raise", "skip"):
        raise ConfigError(f'on_overflow={on_overflow!r}: give "raise" or "skip"')
    for name, value in (("n_tokens", n_tokens), ("num_shards", num_shards)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ConfigError(f"{name}={value!r}: give a whole number, at least 1, or None")
    if num_shards is not None and n_tokens is None:
        raise ConfigError(f"num_shards={num_shards} needs n_tokens, to divide them")
    site, mask = Site(layer, kind), mask or MaskRule()
    splits = DocumentSplits(fractions, seed)
    if isinstance(model, LanguageModel):
        if loading:
            raise ConfigError(f"{', '.join(loading)}: for a model by name, not a loaded one")
        lm = model
    else:
        lm = language_model(model, dtype=dtype, **loading)
    site.module_in(lm.model)
    source = _images(text) if lm.tokenizer is None else text_source(text)
    budget = DiskBudget.of(n_tokens, _width(lm, site), dtype, num_shards=num_shards)
    settings = {
        "model": lm.name,
        "model_fingerprint": lm.fingerprint(),
        "model_dtype": str(lm.dtype).removeprefix("torch."),
        "layer": layer,
        "kind": kind,
        "text": source.identity(),
        "n_tokens": n_tokens,
        "context": context,
        "batch_size": batch_size,
        "contexts_per_document": contexts_per_document,
        "prepend_bos": prepend_bos,
        "mask": mask.to_dict(),
        "fractions": list(fractions),
        "seed": seed,
        "on_overflow": on_overflow,
    }
    path = Path(out).resolve()
    settle(path)
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        return _same_or_refused(path, settings, budget)
    growing = GrowingStore(
        path,
        d_in=budget.d_model,
        dtype=_STORED[dtype],
        settings=settings,
        session=source.name,
        shard_rows=budget.shard_rows,
        restart=restart,
    )
    with growing as store:
        at = _Place.of(store.progress)
        free = budget.check(path, store.n_rows)
        if progress:
            print(f"{lm.name}, {site.name}: {budget}; {free / 1e9:,.1f} GB free")
        batches: TokenBatches | PatchBatches
        if isinstance(source, _Images):
            batches = patch_batches(
                lm, source.images, batch_size=batch_size, start=at.cursor, counts=at.read
            )
        else:
            batches = token_batches(
                lm, source, context=context, batch_size=batch_size,
                contexts_per_document=contexts_per_document, prepend_bos=prepend_bos,
                start=at.cursor, counts=at.read,
            )  # fmt: skip
        collector = _Collector(lm, site, mask, splits, dtype, on_overflow, store, at)
        collector.run(batches, n_tokens, progress)
        finished = store.finish(
            features=pd.DataFrame({"dimension": np.arange(budget.d_model)}),
            provenance={"counts": {**at.read, "left_out": at.left_out}},
        )
    if progress:
        _tell_empty_splits(finished, fractions)
    return finished


@dataclass
class _Place:
    """Where a collection stands; kept with the rows that are safe."""

    cursor: Cursor | None
    read: dict[str, int]
    left_out: dict[str, int]
    segments: int

    @classmethod
    def of(cls, kept: dict[str, Any]) -> _Place:
        if not kept:
            return cls(None, {}, dict.fromkeys(REASONS, 0), 0)
        return cls(Cursor(**kept["cursor"]), kept["read"], kept["left_out"], kept["segments"])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Collector:
    """The loop: read, mask, label, store."""

    def __init__(
        self,
        lm: LanguageModel,
        site: Site,
        mask: MaskRule,
        splits: DocumentSplits,
        dtype: str,
        on_overflow: str,
        store: GrowingStore,
        at: _Place,
    ) -> None:
        self._lm, self._site, self._mask, self._splits = lm, site, mask, splits
        self._dtype = torch.float32 if dtype == "fp32" else torch.bfloat16
        self._on_overflow, self._store, self._at = on_overflow, store, at

    def run(
        self, batches: TokenBatches | PatchBatches, n_tokens: int | None, progress: bool
    ) -> None:
        store, saved = self._store, time.monotonic()
        bar = tqdm(
            total=n_tokens, initial=store.n_rows, unit="token", unit_scale=True,
            desc=f"collecting {self._site.name}", disable=not progress,
        )  # fmt: skip
        with bar:
            while n_tokens is None or store.n_rows < n_tokens:
                batch = next(batches, None)
                if batch is None:
                    break
                before = store.n_rows
                self._add(batch, batches, None if n_tokens is None else n_tokens - before)
                bar.set_postfix(documents=batches.counts["documents"], refresh=False)
                bar.update(store.n_rows - before)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    store.save()
                    saved = time.monotonic()
        self._at.read = batches.counts
        if progress and n_tokens is not None and store.n_rows < n_tokens:
            print(f"the text ended at {store.n_rows:,} of {n_tokens:,} positions")

    def _add(
        self, batch: TokenBatch, batches: TokenBatches | PatchBatches, room: int | None
    ) -> None:
        inputs = {
            name: value.to(self._lm.device, self._lm.dtype if value.is_floating_point() else None)
            for name, value in batch.inputs().items()
        }
        values = read_activations(self._lm.model, inputs, self._site)
        values = values.to(self._dtype)  # what overflows in the stored type is seen below
        reasons = self._mask.reasons(batch, values)
        self._look_for_overflow(batch, reasons["not_finite"])
        keep = ~torch.stack(list(reasons.values())).any(dim=0)  # [b, s]
        rows = values[keep][:room].cpu()
        at, keep = self._at, keep.cpu()
        document = batch.document[keep][:room].numpy()
        position = batch.position[keep][:room].numpy()
        context = torch.arange(len(keep))[:, None].expand_as(keep)[keep][:room].numpy()
        new = (np.diff(position) != 1) | (np.diff(context) != 0)
        run = np.concatenate([[0], np.cumsum(new)]) if len(rows) else np.zeros(0, np.int64)
        for reason, where in reasons.items():
            at.left_out[reason] += int(where.sum())
        at.cursor, at.read = batches.cursor, batches.counts
        first, at.segments = at.segments, at.segments + (int(run[-1]) + 1 if len(run) else 0)
        names = {number: self._splits.of(number) for number in np.unique(document).tolist()}
        self._store.add(
            rows,
            segment=first + run,
            trial=document,
            split=np.array([names[number] for number in document.tolist()], dtype="U10"),
            progress=at.as_json(),
            document=document,
            position=position.astype(np.int32),
            token=batch.input_ids[keep][:room].numpy().astype(np.int32),
        )

    def _look_for_overflow(self, batch: TokenBatch, where: Tensor) -> None:
        if self._on_overflow == "skip" or not bool(where.any()):
            return
        row, col = (int(i) for i in where.nonzero()[0])
        raise DataError(
            f"{self._site.name} of {self._lm.name} is NaN or infinite at {int(where.sum())} of "
            f"{where.numel()} positions of a batch, the first in document "
            f"{int(batch.document[row, col])} at position {int(batch.position[row, col])} (weights "
            f"{str(self._lm.dtype).removeprefix('torch.')}, stored "
            f"{str(self._dtype).removeprefix('torch.')}); load the model in a wider type (bf16 "
            'instead of fp16, or fp32), or leave such positions out with on_overflow="skip"'
        )


class _Images:
    """Images in the place of a source of texts."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.name = images, f"{len(images)} images"

    def identity(self) -> dict[str, Any]:
        import hashlib

        values = self.images.detach().cpu().float().contiguous().numpy()
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        return {"images": list(values.shape), "digest": digest}


def _images(images: Any) -> _Images:
    if not isinstance(images, Tensor) or images.ndim != 4:
        found = tuple(getattr(images, "shape", ())) or type(images).__name__
        raise DataError(
            f"the model has no tokenizer, so it is given images [n, c, h, w]; found {found}. For "
            "a model that reads text, give its tokenizer: LanguageModel(model, tokenizer, name)"
        )
    return _Images(images)


def _width(lm: LanguageModel, site: Site) -> int:
    """Columns of the activations; MLP and attention write to the residual stream, so its own."""
    site.module_in(lm.model)
    return lm.d_model


def _same_or_refused(path: Path, settings: dict[str, Any], budget: DiskBudget) -> ExampleStore:
    """Open a finished collection, once it is the one that is asked for."""
    store = ExampleStore.open(path)
    found = store.provenance.get("collection")
    wanted = {**settings, "dtype": _STORED[budget.dtype], "shard_rows": budget.shard_rows}
    if not isinstance(found, dict):
        raise StoreError(f"{path} holds a store that was not collected here; give another path")
    differ = [key for key in wanted if found.get(key) != wanted[key]]
    if differ:
        words = "; ".join(f"{k}: {found.get(k)!r} there, {wanted[k]!r} asked for" for k in differ)
        raise StoreError(
            f"{path} was collected with other settings ({words}); give another path, or remove it"
        )
    return store


def _tell_empty_splits(store: ExampleStore, fractions: Sequence[float]) -> None:
    held = store.manifest["rows_per_split"]
    parts = ("train", "validation", "test")
    missing = [part for part, share in zip(parts, fractions) if share > 0 and part not in held]
    if missing:
        print(
            f"no document fell to {' and '.join(missing)}: there are too few of them "
            f"({store.provenance['counts']['documents']}); give more, or shorter, documents"
        )


def unfinished(out: str | Path) -> bool:
    """Whether a collection was begun at this path and not ended.

    Examples
    --------
    >>> unfinished("no/such/folder")
    False
    """
    return unfinished_folder(Path(out).resolve()).exists()
