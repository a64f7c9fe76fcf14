"""Where things are in a checkout: chapters, parameter files, runs; and what they contain."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saebook.errors import EnvironmentProblem, ParameterError

CHAPTER_NAME = re.compile(r"[0-9]{2}_[a-z0-9_]+")
WHOLE_FILE_BYTES = 256 * 2**20
SAMPLED_BLOCKS = 64
BLOCK_BYTES = 2**20


def project_root() -> Path:
    """Root of the checkout: ``$SAEBOOK_ROOT``, else around the working directory, else the source.

    Returns
    -------
    Path
        Absolute path of the folder that holds ``Snakefile`` and ``notebooks/``.

    Raises
    ------
    EnvironmentProblem
        If there is no checkout in any of these places.

    Examples
    --------
    >>> (project_root() / "notebooks").is_dir()
    True
    """
    given = os.environ.get("SAEBOOK_ROOT")
    if given:
        candidates = [Path(given).resolve()]
    else:
        here = Path.cwd().resolve()
        candidates = [here, *here.parents, Path(__file__).resolve().parents[3]]
    for folder in candidates:
        if (folder / "Snakefile").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise EnvironmentProblem(
        f"no checkout of the handbook around {candidates[0]}: no folder with a Snakefile and "
        "notebooks/; run this inside the checkout or set SAEBOOK_ROOT to it"
    )


def runs_folder() -> Path:
    """Folder that holds every run: ``$SAEBOOK_RUNS``, else ``reports/runs`` of the checkout."""
    given = os.environ.get("SAEBOOK_RUNS")
    return Path(given).resolve() if given else project_root() / "reports" / "runs"


def relative(path: Path) -> str:
    """Path as shown to a reader: from the checkout's root where it lies inside it."""
    with contextlib.suppress(ValueError, EnvironmentProblem):
        return str(path.resolve().relative_to(project_root()))
    return str(path)


def chapter_sources() -> dict[str, Path]:
    """Chapters of the checkout by name, in order: the ``.ipynb``, or the ``.py`` that lacks one.

    Returns
    -------
    dict[str, Path]
        Chapter name, such as ``20_first_sae``, to the file that is executed.
    """
    folder = project_root() / "notebooks"
    found = {}
    for suffix in (".py", ".ipynb"):
        for path in folder.glob(f"[0-9][0-9]_*{suffix}"):
            if CHAPTER_NAME.fullmatch(path.stem):
                found[path.stem] = path
    return dict(sorted(found.items()))


def chapter_source(name: str) -> Path:
    """File of one chapter; accepts its name, its number or its path.

    Raises
    ------
    ParameterError
        If no chapter has that name; the message lists those there are.
    """
    sources = chapter_sources()
    wanted = Path(name).stem
    if wanted in sources:
        return sources[wanted]
    numbered = [path for stem, path in sources.items() if stem.split("_")[0] == wanted]
    if len(numbered) == 1:
        return numbered[0]
    raise ParameterError(
        f"no chapter {name!r} in {relative(project_root() / 'notebooks')}; "
        f"there are: {', '.join(sources) or 'none'}"
    )


def read_notebook(path: Path) -> Any:
    """Notebook node of an ``.ipynb`` or of a percent script, whichever the path names.

    Raises
    ------
    ParameterError
        If the file is no notebook.
    """
    if path.suffix == ".py":
        import jupytext

        return jupytext.read(path)
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except nbformat.reader.NotJSONError as error:
        raise ParameterError(
            f"{relative(path)} is no notebook: its JSON is damaged; write it again with "
            f"'jupytext --to ipynb --update {path.with_suffix('.py').name}'"
        ) from error


def notebook_cells(path: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """(cell type, source, tags) of each cell: what has to agree between the two of a pair."""
    return [
        (cell["cell_type"], str(cell["source"]).strip(), tuple(cell["metadata"].get("tags", ())))
        for cell in read_notebook(path)["cells"]
    ]


def digest(value: Any) -> str:
    """Short content hash of anything that JSON can hold.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def sources_digest(*parts: str) -> str:
    """Content hash of library sources below ``lib/saebook``, whatever their time stamps.

    Parameters
    ----------
    *parts : str
        Sub-folders to hash; without any, everything a chapter can import, which leaves out the
        command line.
    """
    package = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for folder in [package / part for part in parts] or [package]:
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(package)
            if not parts and (name.parts[0] == "commands" or name.name == "__main__.py"):
                continue
            total.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Content hash of a recording; of 64 blocks spread over it, and its size, above 256 MiB.

    Parameters
    ----------
    path : Path
        Any file.
    """
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            while block := file.read(BLOCK_BYTES):
                total.update(block)
        else:
            for i in range(SAMPLED_BLOCKS):
                file.seek(i * (size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
                total.update(file.read(BLOCK_BYTES))
    return total.hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[Any]:
    """Hold an exclusive lock; the kernel frees it however its holder ends.

    Parameters
    ----------
    path : Path
        Lock file, made where missing and left in place; its text names the holder.
    waiting : str
        Printed with the holder's words when somebody else has the lock; empty: wait in silence.

    Yields
    ------
    file
        The open lock file (a child process that inherits it keeps the lock).
    """
    import fcntl
    import socket
    import time

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if waiting:
                file.seek(0)
                holder = file.read().strip() or "another process"
                print(f"{waiting} ({holder}); waiting for it to end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")
        file.flush()
        yield file
