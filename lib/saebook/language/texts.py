"""Where texts come from: lists, files, streams of `datasets`, and two shipped collections."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from saebook.errors import ConfigError, DataError, EnvironmentProblem
from saebook.language.text_files import (
    LONGEST,
    json_lines,
    paragraphs,
    parquet_texts,
    text_of,
)

FIELDS = ("text", "content")
SHIPPED = ("moby_dick", "state_of_the_union")
FILE_KINDS = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
_DOMAINS = Path(__file__).parent / "domains"


@dataclass(frozen=True)
class Document:
    """One text of a source.

    Attributes
    ----------
    number : int
        Its place in the source, counting every document before it.
    text : str
        What it says; empty documents are given out too, to be counted.
    broken_utf8 : bool
        Whether bytes that are no UTF-8 were replaced by U+FFFD.
    """

    number: int
    text: str
    broken_utf8: bool = False


class TextSource(ABC):
    """Documents in a fixed order, from any of them on.

    Attributes
    ----------
    name : str
        How the source is called in texts and records.
    """

    name: str

    @abstractmethod
    def texts(self, start: int) -> Iterator[str | bytes]:
        """Texts from document `start` on; bytes where they were read from a file."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this source from another, as JSON holds it."""

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Documents from number `start` on."""
        for number, text in enumerate(self.texts(start), start):
            if isinstance(text, str):
                yield Document(number, text)
                continue
            try:
                yield Document(number, text.decode("utf-8"))
            except UnicodeDecodeError:
                yield Document(number, text.decode("utf-8", "replace"), broken_utf8=True)


def text_source(texts: Any, *, fields: Sequence[str] = FIELDS) -> TextSource:
    """Return the source that something stands for.

    Parameters
    ----------
    texts : list of str, str, Path, or data set
        A list of documents; a .txt, .jsonl, .jsonl.gz or .parquet file, or a folder of them; a
        ``datasets`` data set or stream; the name of a shipped collection (``"moby_dick"``,
        ``"state_of_the_union"``) or of a data set on the Hugging Face hub
        (``"cerebras/SlimPajama-627B"``, streamed, split train).
    fields : sequence of str
        Where records hold their text: the first of these that a record has.

    Returns
    -------
    TextSource

    Raises
    ------
    ConfigError
        If it stands for no source.
    DataError
        While reading: if a record has none of the fields, or a line is no JSON.
    EnvironmentProblem
        If a data set is asked for that can't be had.

    Examples
    --------
    >>> [document.text for document in text_source(["one", "", "three"]).documents(1)]
    ['', 'three']
    """
    if isinstance(texts, TextSource):
        return texts
    if isinstance(texts, str) and texts in SHIPPED:
        return _File(_DOMAINS / f"{texts}.jsonl.gz", texts, fields)
    if isinstance(texts, str | Path):
        path = Path(texts).expanduser()
        if path.is_dir():
            return _Folder(path, fields)
        if path.is_file():
            return _File(path, path.name, fields)
        if isinstance(texts, str) and _looks_like_hub(texts):
            return _Records(_hub_stream(texts), texts, fields)
        raise ConfigError(
            f"text={str(texts)[:80]!r} is no file or folder here, and no shipped collection "
            f"({', '.join(SHIPPED)}); give a path, a name such as 'cerebras/SlimPajama-627B', or "
            "a list of documents"
        )
    if hasattr(texts, "features") and hasattr(texts, "skip"):
        return _Records(texts, _data_set_name(texts), fields)
    if isinstance(texts, Sequence):
        return _List(texts)
    raise ConfigError(
        f"text is a {type(texts).__name__}; give a list of str, a file, or a data set of "
        "`datasets` (an iterator can't be read twice, which going on after an interruption needs)"
    )


def load_text(name: str) -> list[str]:
    """Documents of a shipped public-domain collection.

    Parameters
    ----------
    name : {"moby_dick", "state_of_the_union"}
        Chapters of Melville's novel, or addresses of presidents of the United States.

    Returns
    -------
    list of str

    Raises
    ------
    ConfigError
        If there is none of that name.

    Examples
    --------
    >>> chapters = load_text("moby_dick")
    >>> len(chapters), chapters[0][:16]
    (136, 'Call me Ishmael.')
    """
    if name not in SHIPPED:
        raise ConfigError(f"no shipped text {name!r}; there are {', '.join(SHIPPED)}")
    return [document.text for document in text_source(name).documents()]


class _List(TextSource):
    def __init__(self, texts: Sequence[Any]) -> None:
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"document {number} is a {type(text).__name__}; give str")
        self.name, self._texts = f"list of {len(texts)} texts", texts

    def texts(self, start: int) -> Iterator[str]:
        for i in range(start, len(self._texts)):
            yield self._texts[i]

    def identity(self) -> dict[str, Any]:
        total = hashlib.sha256()
        for text in self._texts:
            total.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return {"list": total.hexdigest()}


class _File(TextSource):
    def __init__(self, path: Path, name: str, fields: Sequence[str]) -> None:
        if _kind_of(path) is None:
            raise ConfigError(
                f"{path} is none of {', '.join(FILE_KINDS)}; convert it, or give its documents as "
                "a list of str"
            )
        self.name, self._path, self._fields = name, path, fields

    def texts(self, start: int) -> Iterator[str | bytes]:
        kind = _kind_of(self._path)
        if kind == ".txt":
            yield from islice(paragraphs(self._path), start, None)
        elif kind == ".parquet":
            yield from parquet_texts(self._path, self._fields, start)
        else:
            yield from json_lines(self._path, self._fields, start)

    def identity(self) -> dict[str, Any]:
        with self._path.open("rb") as file:
            first = hashlib.sha256(file.read(LONGEST)).hexdigest()
        size = self._path.stat().st_size
        return {"file": self.name, "bytes": size, "begins": first, "fields": list(self._fields)}


class _Folder(TextSource):
    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and _kind_of(p)]
        if not files:
            raise ConfigError(f"the folder {path} holds no {', '.join(FILE_KINDS)}")
        self.name = path.name
        self._files = [_File(p, str(p.relative_to(path)), fields) for p in files]

    def texts(self, start: int) -> Iterator[str | bytes]:
        every = (text for file in self._files for text in file.texts(0))
        return islice(every, start, None)

    def identity(self) -> dict[str, Any]:
        return {"folder": [file.identity() for file in self._files]}


class _Records(TextSource):
    """A data set or stream of `datasets`."""

    def __init__(self, records: Any, name: str, fields: Sequence[str]) -> None:
        self.name, self._records, self._fields = name, records, fields

    def texts(self, start: int) -> Iterator[str]:
        held = len(self._records) if hasattr(self._records, "__len__") else None
        if held is not None and start >= held:
            return
        rest: Iterable[Any] = self._records.skip(start) if start else self._records
        for number, record in enumerate(rest, start):
            yield text_of(record, self._fields, f"record {number} of {self.name}")

    def identity(self) -> dict[str, Any]:
        info = getattr(self._records, "info", None)
        return {
            "data_set": self.name,
            "split": str(getattr(self._records, "split", None)),
            "config": getattr(info, "config_name", None),
            "fields": list(self._fields),
        }


def _kind_of(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for kind in FILE_KINDS if name.endswith(kind)), None)


def _looks_like_hub(name: str) -> bool:
    owner, slash, rest = name.partition("/")
    return bool(slash and owner and rest) and not any(c.isspace() or c == "/" for c in owner + rest)


def _hub_stream(name: str) -> Any:
    """Stream the training split of a data set on the hub."""
    from saebook.language.models import hub_reachable

    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise EnvironmentProblem(
            f"text={name!r} needs datasets ({error}); install the extra: pip install 'saebook[lm]'"
        ) from error
    if not hub_reachable():
        raise EnvironmentProblem(
            f"text={name!r} is no file here, and the Hugging Face hub can't be reached; give a "
            f"text file, or a shipped collection: {', '.join(SHIPPED)}"
        )
    try:
        return datasets.load_dataset(name, streaming=True, split="train")
    except (OSError, ValueError, DatasetsError) as error:
        raise EnvironmentProblem(
            f"the data set {name!r} could not be opened ({str(error).splitlines()[0]}); check its "
            "name, or open it yourself with datasets.load_dataset and give the stream"
        ) from error


def _data_set_name(records: Any) -> str:
    info = getattr(records, "info", None)
    return str(getattr(info, "dataset_name", None) or "data set")
