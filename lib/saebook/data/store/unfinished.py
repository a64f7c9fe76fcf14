"""The folder of a store that is written over hours: its lock, its state, a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from saebook.data.store import layout
from saebook.errors import StoreError

PROGRESS = "progress.json"
PARTIAL = ".partial"


def unfinished_folder(path: Path) -> Path:
    """Folder in which the store of this path grows."""
    return path.with_name(path.name + PARTIAL)


def index_part(number: int) -> str:
    """File of the rows of the index that belong to one shard."""
    return f"index-{number:05d}.parquet"


def index_rows(
    columns: Mapping[str, np.ndarray], session: str, first: int, shard: int
) -> pd.DataFrame:
    """Rows of the index of one shard, columns in the order in which `StoreWriter` has them."""
    n = len(columns["trial"])
    frame: dict[str, Any] = {
        "row": np.arange(first, first + n, dtype=np.int64),
        "session": pd.Categorical.from_codes(
            np.zeros(n, np.int8), categories=pd.Index([session], dtype="str")
        ),
        "segment": columns["segment"],
        "trial": columns["trial"],
        "time": np.full(n, np.nan),
        "split": pd.Categorical.from_codes(
            columns["split"], categories=pd.Index(layout.SPLITS, dtype="str")
        ),
        "shard": np.full(n, shard, np.int32),
        "shard_row": np.arange(n, dtype=np.int32),
    }
    own = frame.keys()
    return pd.DataFrame(frame | {name: v for name, v in columns.items() if name not in own})


def lock(folder: Path) -> int:
    """Hold the folder for this process, and return the descriptor that holds it."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreError(
            f"{folder} is being written by another process; wait for it, or give another path"
        ) from error
    return handle


def read_state(folder: Path) -> dict[str, Any] | None:
    """Content of progress.json, None where there is none."""
    path = folder / PROGRESS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(
            f"{path} is not readable JSON ({error}); remove {folder} and begin again"
        ) from error


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace progress.json, so that a reader finds the old one or the new."""
    partial = folder / f"{PROGRESS}.tmp"
    partial.write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
    os.replace(partial, folder / PROGRESS)


def remove_others(folder: Path, state: Mapping[str, Any] | None) -> None:
    """Remove what the state doesn't name: a killed writer was at work on it."""
    named = {PROGRESS}
    if state is not None:
        named |= {entry["file"] for entry in [*state["shards"], *state["rest"]]}
        named |= {index_part(i) for i in range(len(state["shards"]))}
    for entry in folder.iterdir():
        if entry.name not in named:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def settle(path: Path) -> None:
    """Give a store its name if its writer was killed when only that was left to do."""
    folder = unfinished_folder(path)
    if path.exists() or (folder / PROGRESS).exists() or not layout.is_store(folder):
        return
    for part in [*folder.glob("index-*.parquet"), *folder.glob("rest-*")]:
        part.unlink()
    folder.rename(path)


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a store of other settings, naming each that differs."""
    if found == wanted:
        return
    differ = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    words = "; ".join(
        f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} asked for" for key in differ
    )
    raise StoreError(
        f"{folder.name} was begun with other settings ({words}); give another path, the same "
        f"settings, or restart=True to throw it away (in {folder.parent})"
    )


@contextmanager
def room_for(folder: Path, what: str, n_safe: int) -> Iterator[None]:
    """Say what is safe, and what to do, when the disk gives out while `what` is written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)
        for partial in folder.glob("*.tmp"):
            partial.unlink(missing_ok=True)
        raise StoreError(
            f"{'the disk is full' if full else f'writing failed ({error})'} at {what} in {folder}; "
            f"{n_safe} rows are safe there: make room and run the same again to go on behind them"
        ) from error
