"""Shards: safetensors files with one tensor "x" [rows, d_in] each.

Counts go through NumPy, so that reading spikes needs no torch; activations go through torch,
because NumPy has no bfloat16.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from saebook.errors import StoreError

KEY = "x"
_NAMES = {
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BF16": "bfloat16",
    "F32": "float32",
}
# Narrow to wide; a store never mixes the two families.
_WIDTH = ("uint8", "uint16", "uint32", "uint64", "bfloat16", "float32")


def dtype_name(values: Any) -> str:
    """Name of the dtype of an array or tensor, without its library."""
    return str(values.dtype).removeprefix("torch.")


def is_count_type(dtype: str) -> bool:
    """Whether a stored dtype is one of the unsigned integers."""
    return dtype.startswith("uint")


def widest(dtypes: Sequence[str]) -> str:
    """Return the first dtype that holds the values of all given ones."""
    return max(dtypes, key=_WIDTH.index)


def cast(values: Any, dtype: str) -> Any:
    """Return an array or tensor in the stored dtype named `dtype`."""
    if dtype_name(values) == dtype:
        return values
    if is_count_type(dtype):
        return values.astype(dtype)
    import torch

    return values.to(getattr(torch, dtype))


def empty(n: int, d_in: int, dtype: str) -> Any:
    """Return an uninitialised array or tensor [n, d_in]."""
    if is_count_type(dtype):
        return np.empty((n, d_in), dtype)
    import torch

    return torch.empty((n, d_in), dtype=getattr(torch, dtype))


def write(path: Path, parts: Sequence[Any]) -> str:
    """Write the rows of all parts as one shard in their widest dtype, and return that."""
    dtype = widest([dtype_name(part) for part in parts])
    x = empty(sum(len(part) for part in parts), parts[0].shape[1], dtype)
    start = 0
    for part in parts:
        x[start : start + len(part)] = cast(part, dtype)
        start += len(part)
    _save(path, x)
    return dtype


def widen(path: Path, dtype: str) -> None:
    """Rewrite a shard in a wider dtype."""
    _save(path, cast(read(path, is_count_type(dtype)), dtype))


def _save(path: Path, x: Any) -> None:
    if isinstance(x, np.ndarray):
        from safetensors.numpy import save_file as save_array

        save_array({KEY: x}, path)
    else:
        from safetensors.torch import save_file as save_tensor

        save_tensor({KEY: x}, path)


def read(path: Path, counts: bool) -> Any:
    """Return the rows of a shard: an array for counts, a CPU tensor for activations."""
    try:
        with safe_open(path, framework="numpy" if counts else "pt") as file:
            return file.get_tensor(KEY)
    except (SafetensorError, OSError, KeyError) as error:
        raise StoreError(
            f"{path} is not a readable shard ({error}); write the store again from its source"
        ) from error


class OpenShard:
    """A shard to read some rows of, into memory that is there already.

    Plain reads, not a memory map: what was read does not stay in the process, and a file that is
    cut short while it is open gives an error instead of ending the process.

    Parameters
    ----------
    path : Path
        The shard.

    Attributes
    ----------
    dtype : str
        Stored type of its values.
    shape : tuple of int
        (rows, d_in).

    Raises
    ------
    StoreError
        If it is no shard.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            # safetensors: the length of the header (8 bytes), the header (JSON), the values.
            length = int.from_bytes(self._file.read(8), "little")
            entry = json.loads(self._file.read(min(length, os.fstat(self._file.fileno()).st_size)))
            self.dtype = _NAMES[entry[KEY]["dtype"]]
            self.shape = tuple(entry[KEY]["shape"])
            self._start = 8 + length + entry[KEY]["data_offsets"][0]
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._file.close()
            raise self._unreadable(error) from error

    def _unreadable(self, found: object) -> StoreError:
        return StoreError(
            f"{self._path} is not a readable shard ({found}); write the store again from its source"
        )

    def read_into(self, row: int, out: np.ndarray) -> None:
        """Fill bytes [n, bytes per row] with the n rows from `row` on.

        Raises
        ------
        StoreError
            If the file ends before them, or can't be read.
        """
        left = out.reshape(-1).data
        try:
            self._file.seek(self._start + row * out.shape[1])
            while left:
                n = self._file.readinto(left)
                if not n:
                    raise StoreError(
                        f"{self._path} ends before row {row + len(out) - 1}: it was cut short while "
                        "it was being read; write the store again from its source, or restore the "
                        "file from a copy"
                    )
                left = left[n:]
        except OSError as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
