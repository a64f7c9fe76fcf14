"""Texts in files: paragraphs, JSON lines and Parquet, read piece by piece."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from saebook.errors import DataError

REPLACED = "\N{REPLACEMENT CHARACTER}"
# A text file without blank lines would be one document, and one document is held in memory.
LONGEST = 2**20


def text_of(record: Mapping[str, Any], fields: Sequence[str], where: str) -> Any:
    """Return the text of a record, str or bytes: of the first field that it has.

    Raises
    ------
    DataError
        If it has none of them, or something that is no text stands there.

    Examples
    --------
    >>> text_of({"content": "words", "id": 3}, ("text", "content"), "a record")
    'words'
    """
    for name in fields:
        value = record.get(name)
        if isinstance(value, str | bytes):
            return value
        if value is not None:
            raise DataError(f"{name} of {where} is a {type(value).__name__}; texts are str")
    empty = [name for name in fields if name in record]
    if empty:
        return ""
    raise DataError(
        f"{where} has none of the fields {', '.join(fields)} (it has: "
        f"{', '.join(map(str, record)) or 'nothing'}); name its text with fields=(…)"
    )


def json_lines(path: Path, fields: Sequence[str], start: int) -> Iterator[str | bytes]:
    """Texts of a file with one JSON object a line, from record `start` on."""
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rb") as file:
        lines = (pair for pair in enumerate(file, 1) if pair[1].strip())
        for number, line in islice(lines, start, None):
            where = f"line {number} of {path.name}"
            text = line.decode("utf-8", "replace")
            try:
                record = json.loads(text)
            except ValueError as error:
                raise DataError(f"{where} is no JSON ({error}); repair or remove it") from error
            if not isinstance(record, dict):
                raise DataError(f"{where} is a {type(record).__name__}; give one object a line")
            found = text_of(record, fields, where)
            # The text goes on as bytes only if the file's own bytes were at fault.
            yield found if REPLACED not in text else _as_bytes(found, line)


def _as_bytes(text: str, line: bytes) -> str | bytes:
    """Return a text whose line held bytes that are no UTF-8 as bytes that are none either."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return text.encode("utf-8").replace(REPLACED.encode("utf-8"), b"\xff")
    return text


def paragraphs(path: Path) -> Iterator[bytes]:
    """Documents of a text file: what stands between two or more blank lines."""
    held: list[bytes] = []
    size = blank = 0
    with path.open("rb") as file:
        for line in _lines(file):
            if line.strip():
                if held and (blank >= 2 or size + len(line) > LONGEST):
                    yield b"".join(held).strip()
                    held, size = [], 0
                blank = 0
            else:
                blank += 1
            if held or line.strip():
                held.append(line)
                size += len(line)
    if held:
        yield b"".join(held).strip()


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file, and parts of those that are longer than a document may be."""
    rest = b""
    while line := rest + file.readline(LONGEST):
        rest = b""
        if len(line) >= LONGEST and not line.endswith(b"\n"):
            # Whole characters: those cut in two would look like broken UTF-8.
            end = len(line)
            while end > len(line) - 4 and line[end - 1] & 0xC0 == 0x80:
                end -= 1
            if line[end - 1] >= 0xC0:
                line, rest = line[: end - 1], line[end - 1 :]
        yield line


def parquet_texts(path: Path, fields: Sequence[str], start: int) -> Iterator[Any]:
    """Texts of a Parquet file, from row `start` on; bytes, as Arrow does not look at them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not readable as Parquet ({error})") from error
    present = [name for name in fields if name in file.schema_arrow.names]
    if not present:
        text_of(dict.fromkeys(file.schema_arrow.names), fields, path.name)
    row = 0
    with file:
        for group in range(file.num_row_groups):
            n = file.metadata.row_group(group).num_rows
            if row + n > start:
                for batch in file.iter_batches(1024, row_groups=[group], columns=present):
                    # As bytes: Arrow doesn't look whether its strings are UTF-8.
                    columns = [_as_binary(batch.column(name)).to_pylist() for name in present]
                    for values in zip(*columns, strict=True):
                        if row >= start:
                            record = dict(zip(present, values, strict=True))
                            yield text_of(record, fields, f"row {row} of {path.name}")
                        row += 1
            else:
                row += n


def _as_binary(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return column.cast(pa.binary())
    return column.cast(pa.large_binary()) if pa.types.is_large_string(column.type) else column
