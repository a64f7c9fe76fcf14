"""What a store looks like on disk: file names, manifest, checksums.

::

    manifest.json                 schema version, provenance, size and sha256 of every other file
    index.parquet                 one row per example
    features.parquet              one row per column of x (units, model dimensions)
    tables/<name>.parquet         further tables (trials, quality, …)
    shard-00000.safetensors       key "x" [rows, d_in]
    partitions/<name>/            instead of shards: one store per set of units
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import ConfigError, DataError, StoreError

FORMAT = "saebook-store"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
INDEX = "index.parquet"
FEATURES = "features.parquet"
KINDS = ("counts", "activations")

GUARD = "guard"
UNASSIGNED = "unassigned"
PARTS = ("train", "validation", "test")
SPLITS = (*PARTS, GUARD, UNASSIGNED)

REWRITE = "write the store again from its source, or restore the file from a copy"

_NAME = re.compile(r"[^/\\\0.][^/\\\0]*")


def check_name(name: str, what: str) -> str:
    """Return `name` if it can be a file name as it stands, else raise ConfigError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't name a {what}: it becomes a file name, so give a non-empty string "
            "without slashes that does not start with a dot"
        )
    return name


def describe_file(folder: Path, file: str) -> dict[str, Any]:
    """Size and sha256 of one file of a store, as the manifest keeps them."""
    path = folder / file
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": file, "bytes": path.stat().st_size, "sha256": digest}


def check_present(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Path of a file of the store, once it is there with the size the manifest states."""
    path = folder / entry["file"]
    if not path.is_file():
        raise StoreError(f"{path} is missing, though the manifest lists it; {REWRITE}")
    found = path.stat().st_size
    if found != entry["bytes"]:
        raise StoreError(
            f"{path} has {found} bytes where the manifest says {entry['bytes']}: it was truncated "
            f"or replaced; {REWRITE}"
        )
    return path


def check_content(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Path of a file of the store, once its sha256 agrees with the manifest."""
    path = check_present(folder, entry)
    found = describe_file(folder, entry["file"])["sha256"]
    if found != entry["sha256"]:
        raise StoreError(
            f"{path} was altered: its sha256 is {found[:16]}… where the manifest says "
            f"{entry['sha256'][:16]}…; {REWRITE}"
        )
    return path


def write_table(folder: Path, file: str, table: pd.DataFrame) -> dict[str, Any]:
    """Write a DataFrame as Parquet and return its manifest entry."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        table.to_parquet(path, engine="pyarrow")
    except (ValueError, TypeError, ArithmeticError) as error:
        raise DataError(
            f"the table for {file} can't be written as Parquet ({error}); give every column one "
            "type of scalar, and unique text names"
        ) from error
    return describe_file(folder, file)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r}")


def plain_json(content: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return `content` as JSON would give it back; numpy scalars, arrays and paths are allowed."""
    try:
        return json.loads(json.dumps(content, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{what} can't be written as JSON ({error}); give text, finite numbers, booleans, "
            "None, and lists or dictionaries of these"
        ) from error


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json; the last file of a store, so a folder that has one is complete."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def is_store(folder: Path) -> bool:
    """Whether `folder` carries a manifest of this format, of whatever version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check manifest.json, or say what stands at `folder` instead of a store."""
    if not folder.exists():
        unfinished = list(folder.parent.glob(f"{glob.escape(folder.name)}.partial*"))
        seen = (
            f"; {unfinished[0].name} beside it is unfinished (its writer still runs or was killed)"
            if unfinished
            else ""
        )
        raise StoreError(f"there is no store at {folder}{seen}; check the path, or write it first")
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file; an example store is a folder with {MANIFEST} in it")
    path = folder / MANIFEST
    if not path.is_file():
        names = sorted(entry.name for entry in folder.iterdir())
        listing = ", ".join(names[:5]) + (", …" if len(names) > 5 else "") or "nothing"
        raise StoreError(
            f"{folder} is not an example store: it has no {MANIFEST} (found: {listing}); give the "
            "folder that prepare or StoreWriter wrote"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is not readable JSON ({error}); {REWRITE}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(
            f"{path} is not the manifest of an example store: it does not say "
            f'"format": "{FORMAT}"; give the folder that prepare or StoreWriter wrote'
        )
    version = manifest.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise StoreError(
            f"{path} states schema_version {version!r}, which never was one; {REWRITE}"
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}; this saebook reads versions up to "
            f"{SCHEMA_VERSION}: update saebook, or write the store again with this one"
        )
    wanted = ("partitions",) if "partitions" in manifest else (
        "kind", "d_in", "n_rows", "dtype", "shards", "index", "features",
    )  # fmt: skip
    missing = [key for key in (*wanted, "tables", "provenance") if key not in manifest]
    if missing:
        raise StoreError(f"{path} lacks {', '.join(missing)}; {REWRITE}")
    return manifest
