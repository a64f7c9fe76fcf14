"""Downloading one file: resumed where it broke off, checked, and complete or not there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tqdm.auto import tqdm

from saebook.data.archive.requesting import Dropped, Requester
from saebook.errors import EnvironmentProblem, RecordingError

BLOCK_BYTES = 2**20
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def download(
    url: str,
    out: Path,
    *,
    requester: Requester,
    size: int | None = None,
    sha256: str | None = None,
    etag: str | None = None,
    progress: bool = True,
) -> str:
    """Download a file, going on from what an earlier try left, and return its SHA-256.

    The bytes gather in ``<out>.part``; only a complete file whose size and checksum agree gets
    its name. A part stays when a download breaks off, and is removed when its content is wrong.

    Parameters
    ----------
    url
        Where the file is.
    out
        Where it goes; missing folders are made, a file that is there is replaced.
    requester
        What asks, and how patiently.
    size
        Bytes that the file must have; None: what the server says.
    sha256
        Checksum that it must have.
    etag
        DANDI's checksum over parts, compared where `sha256` is None.
    progress
        Show a bar with rate and remaining time.

    Raises
    ------
    EnvironmentProblem
        The server can't be reached, or broke off too often without any progress; the disk is
        too small; another process is downloading the same file.
    RecordingError
        The server's file isn't the one that was asked for, by size or checksum.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    with _alone(part) as file:
        transfer = _Transfer(url, file, requester, size, _content_name(size, sha256, etag))
        transfer.resume(part)
        _check_room(part, transfer)
        with tqdm(
            desc=out.name,
            total=size,
            initial=transfer.offset,
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar:
            transfer.run(bar)
        file.flush()
        os.fsync(file.fileno())
        found = transfer.digest.hexdigest()
        wrong = _wrong(part, found, sha256, etag)
        if wrong:
            part.unlink()
            raise RecordingError(
                f"{url}: {wrong}. The bytes were damaged on their way or the archive's file "
                "changed; what came was removed. Fetch it again."
            )
        os.replace(part, out)
        _about(part).unlink(missing_ok=True)
    return found


@dataclass
class _Transfer:
    """Bytes of one file as they come, over as many connections as it takes."""

    url: str
    file: BinaryIO
    requester: Requester
    size: int | None
    content: str
    offset: int = 0
    version: str = ""  # the server's own mark of the content (ETag)
    digest: Any = field(default_factory=hashlib.sha256)

    def resume(self, part: Path) -> None:
        """Take over what an earlier process left of the same content; start anew otherwise."""
        about = _about(part)
        if not self.content or not about.is_file() or about.read_text() != self.content:
            self.restart()
            about.write_text(self.content)
            return
        self.file.seek(0)
        while block := self.file.read(BLOCK_BYTES):
            self.digest.update(block)
            self.offset += len(block)
        if self.size is not None and self.offset > self.size:
            self.restart()

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.offset, self.digest = 0, hashlib.sha256()

    def run(self, bar: Any) -> None:
        """Fetch until every byte is there, trying again as long as there is progress."""
        furthest, failures = self.offset, 0
        while self.size is None or self.offset < self.size:
            try:
                self._connect(bar)
                if self.size is None or self.offset >= self.size:
                    break
                raise Dropped(f"the connection ended at {self.offset:,} of {self.size:,} bytes")
            except Dropped as dropped:
                failures = 0 if self.offset > furthest else failures + 1
                furthest = max(furthest, self.offset)
                if failures >= self.requester.tries:
                    raise EnvironmentProblem(
                        f"{self.url}: {dropped}, {failures} times without any progress. What came "
                        "is kept: the same command goes on from there."
                    ) from dropped
                self.requester.sleep(self.requester.pause(failures, None))

    def _connect(self, bar: Any) -> None:
        import urllib3

        headers = {"Range": f"bytes={self.offset}-"} if self.offset else {}
        if self.offset and self.version:
            headers["If-Range"] = self.version
        with self.requester.get(self.url, headers=headers, stream=True) as response:
            self._align(response, bar)
            try:
                # As it comes: a reader that fills whole blocks loses the last one at a break.
                while block := response.raw.read1(BLOCK_BYTES):
                    if self.size is not None and self.offset + len(block) > self.size:
                        raise RecordingError(
                            f"{self.url}: the server sends more than the {self.size:,} bytes that "
                            "the file has. Try again later."
                        )
                    self.file.write(block)
                    self.digest.update(block)
                    self.offset += len(block)
                    bar.update(len(block))
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise Dropped(f"the connection broke at {self.offset:,} bytes") from error

    def _align(self, response: Any, bar: Any) -> None:
        """Make sure that the answer begins where our bytes end, and belongs to the same file."""
        given = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if response.status_code == 206:
            if given is None or int(given[1]) != self.offset:
                raise Dropped(f"the server sent another range than from byte {self.offset:,}")
            total = None if given[3] == "*" else int(given[3])
        elif response.status_code == 416:
            # It has fewer bytes than we have: ours are of another file.
            self._restart(bar)
            raise Dropped("the server has fewer bytes than were here")
        else:
            # The whole file: ranges are ignored there, or the file has changed.
            self._restart(bar)
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
        mark = response.headers.get("ETag", "")
        # A weak mark doesn't promise equal bytes.
        self.version = "" if mark.startswith("W/") else mark
        if self.size is None:
            self.size = bar.total = total
        elif total is not None and total != self.size:
            raise RecordingError(
                f"{self.url}: the server has {total:,} bytes where {self.size:,} were expected, "
                "so the file changed. Fetch it again; correct data/registry.yaml if it persists."
            )

    def _restart(self, bar: Any) -> None:
        self.restart()
        bar.reset(total=self.size)


@contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """Open the part for reading and writing, unless another process has it."""
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, the other process may have renamed it.
            free = part.stat().st_ino == os.fstat(file.fileno()).st_ino
        except OSError:
            free = False
        if not free:
            raise EnvironmentProblem(
                f"{part.with_suffix('').name} is being downloaded by another process. "
                "Wait for it to end."
            )
        yield file


def _about(part: Path) -> Path:
    return part.with_name(f"{part.name}.of")


def _content_name(size: int | None, sha256: str | None, etag: str | None) -> str:
    """Name of the content that a part belongs to; empty where nothing tells it from another's."""
    return f"{size} {sha256 or etag}\n" if sha256 or etag else ""


def _check_room(part: Path, transfer: _Transfer) -> None:
    if transfer.size is None:
        return
    free, needed = shutil.disk_usage(part.parent).free, transfer.size - transfer.offset
    if needed > free:
        raise EnvironmentProblem(
            f"{part.parent} has {free / 1e9:,.2f} GB free, and {needed / 1e9:,.2f} GB are to come. "
            "Make room, name another folder with --out, or read only the units with --stream."
        )


def _wrong(part: Path, found: str, sha256: str | None, etag: str | None) -> str:
    """Say which checksum disagrees, or nothing."""
    if sha256 is not None:
        return "" if found == sha256 else f"its sha256 is {found} and should be {sha256}"
    if etag is None:
        return ""
    computed = _dandi_etag(part)
    return "" if computed == etag else f"its dandi-etag is {computed} and should be {etag}"


def _dandi_etag(path: Path) -> str:
    try:
        from dandischema.digests.dandietag import DandiETag
    except ImportError as error:
        raise EnvironmentProblem(
            f"{path.name}: the archive gives only a dandi-etag as checksum, and the package dandi, "
            "which computes it, is missing. Install the extra: pip install 'saebook[archive]'."
        ) from error
    return DandiETag.from_file(path).as_str()
