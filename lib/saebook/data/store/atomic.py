"""Folders that appear complete or not at all.

A writer fills ``<path>.partial-<pid>`` and renames it at the end. A killed writer leaves only its
partial folder, which the next writer of the same path removes once it knows the owner is dead.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import shutil
import socket
from pathlib import Path

from saebook.data.store.layout import is_store
from saebook.errors import StoreError

_OWNER = "owner.json"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _birth(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, so a reused pid is told apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _abandoned(partial: Path) -> bool:
    """Whether the process that filled `partial` is certainly gone."""
    try:
        pid = int(partial.name.rpartition("-")[2])
    except ValueError:
        return False
    try:
        owner = json.loads((partial / _OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        owner = {}
    if owner.get("host", socket.gethostname()) != socket.gethostname():
        return False
    if not _alive(pid):
        return True
    return "birth" in owner and owner["birth"] is not None and owner["birth"] != _birth(pid)


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse a target that exists, or, when overwriting, one that isn't a store."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise StoreError(
            f"{path} already exists; give another path, or overwrite=True to replace the store"
        )
    if not path.is_dir() or not is_store(path):
        raise StoreError(
            f"{path} exists and is not an example store, so overwrite=True won't replace it; give "
            "another path, or remove it yourself"
        )


def begin(path: Path) -> Path:
    """Make the partial folder of a new store at `path`; clear those of dead writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for replaced in path.parent.glob(f"{glob.escape(path.name)}.replaced-*"):
        if _abandoned(replaced):
            if path.exists():
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                replaced.rename(path)
    for partial in path.parent.glob(f"{glob.escape(path.name)}.partial-*"):
        if _abandoned(partial):
            shutil.rmtree(partial, ignore_errors=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
    except FileExistsError as error:
        raise StoreError(
            f"{path} is already being written by this process ({partial.name} exists); finish that "
            "writer first"
        ) from error
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "birth": _birth(os.getpid())}
    (partial / _OWNER).write_text(json.dumps(owner), encoding="utf-8")
    return partial


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one system call where kernel and file system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return renameat2(*arguments) == 0


def finish(partial: Path, path: Path, overwrite: bool) -> None:
    """Put a finished partial folder in its place."""
    check_target(path, overwrite)
    (partial / _OWNER).unlink()
    if not path.exists() or not any(path.iterdir()):
        try:
            partial.rename(path)
        except OSError as error:
            raise StoreError(
                f"{path} could not be put in place ({error}); another writer may have finished "
                "first: open what is there, or write with overwrite=True"
            ) from error
        return
    if _exchange(partial, path):
        shutil.rmtree(partial)
        return
    replaced = path.with_name(f"{path.name}.replaced-{os.getpid()}")
    path.rename(replaced)
    try:
        partial.rename(path)
    except OSError:
        replaced.rename(path)
        raise
    shutil.rmtree(replaced)


def abort(partial: Path) -> None:
    """Remove a partial folder whose writer failed."""
    shutil.rmtree(partial, ignore_errors=True)
