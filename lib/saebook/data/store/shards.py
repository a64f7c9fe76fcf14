"""Shards: safetensors files with one tensor "x" [rows, d_in] each.

Counts go through NumPy, so that reading spikes needs no torch; activations go through torch,
because NumPy has no bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from saebook.errors import StoreError

KEY = "x"
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
