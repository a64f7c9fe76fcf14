"""Reading only the units of a remote NWB file into a small file here.

A recording of many gigabytes is mostly voltage, video or behaviour. What is copied lies in some
megabytes of it, found through HDF5's own index and fetched by range requests. The copy is an NWB
file like any other, so that every command takes it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm.auto import tqdm

from saebook.data.archive.requesting import Requester
from saebook.errors import EnvironmentProblem, RecordingError

# Columns of several values per unit that reading a recording needs.
RAGGED_UNIT_COLUMNS = ("spike_times", "obs_intervals", "electrodes")
# Groups that an NWB file has, whether or not anything is in them.
NWB_GROUPS = (
    "acquisition",
    "analysis",
    "processing",
    "stimulus/presentation",
    "stimulus/templates",
)


def stream_units(
    url: str,
    out: Path,
    *,
    requester: Requester,
    size: int | None = None,
    behavior: bool = False,
    progress: bool = True,
) -> list[str]:
    """Copy units, electrodes, trials and other intervals of a remote NWB file; name what is left.

    Parameters
    ----------
    url
        Where the file is; the server has to answer range requests.
    out
        NWB file to write; it appears complete or not at all.
    requester
        What asks whether ranges can be had.
    size
        Bytes that the file must have; None: what the server says.
    behavior
        Copy the processing modules too, such as position and velocity.
    progress
        Show what was read, of how much.

    Returns
    -------
    list of str
        What was left in the remote file.

    Raises
    ------
    EnvironmentProblem
        Package remfile is missing, the server can't be reached, or doesn't serve ranges.
    RecordingError
        The file is no HDF5 file, has no units, or isn't the one that was expected.
    """
    try:
        import remfile
    except ImportError as error:
        raise EnvironmentProblem(
            "streaming needs the package remfile. Install the extra: pip install "
            "'saebook[archive]', or download the whole file without --stream."
        ) from error
    total, place = _ranges(url, size, requester)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    bar = tqdm(
        desc=out.name, total=total, unit="B", unit_scale=True, disable=not progress, leave=True
    )
    try:
        # Told its size, remfile doesn't ask for the whole file and hang up to learn it.
        remote = RemoteFile(remfile.File(place, _size=total), total, bar)
        with bar, h5py.File(remote, "r") as source, h5py.File(partial, "w") as target:
            if not isinstance(source.get("units"), h5py.Group):
                raise RecordingError(
                    f"{url}: it has no units table, so there is nothing to stream. Choose a file "
                    "with sorted units."
                )
            left_out = _Copy(source, target).run(behavior)
        os.replace(partial, out)
    except RecordingError:
        raise
    except Exception as error:
        # remfile raises whatever its last try met, and HDF5 passes on what it makes of that.
        if isinstance(error, OSError) and "file signature not found" in str(error):
            raise RecordingError(
                f"{url}: not an HDF5 file, so its units can't be streamed. Give an NWB file."
            ) from error
        raise EnvironmentProblem(
            f"{url}: streaming stopped ({error}). Try again, or download the whole file without "
            "--stream, which goes on where it broke off."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return left_out


class RemoteFile(io.RawIOBase):
    """A remote file as HDF5 reads it: positions, no short reads, and a bar of what was asked.

    Parameters
    ----------
    file
        Anything with ``seek`` and ``read(size)``.
    size
        Bytes of the file.
    bar
        Counts the bytes that were read.

    Examples
    --------
    >>> with tqdm(disable=True) as bar:
    ...     RemoteFile(io.BytesIO(b"abcdef"), 6, bar).read(3)
    b'abc'
    """

    def __init__(self, file: Any, size: int, bar: Any) -> None:
        super().__init__()
        self._file, self._size, self._bar = file, size, bar
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which may be past the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; less only at the end of the file."""
        n = max(0, min(len(buffer), self._size - self._position))
        if n:
            self._file.seek(self._position)
            content = self._file.read(n)
            if len(content) != n:
                raise OSError(f"{len(content)} of {n} bytes came from byte {self._position:,} on")
            buffer[:n] = content
            self._position += n
            self._bar.update(n)
        return n


def _ranges(url: str, size: int | None, requester: Requester) -> tuple[int, str]:
    """Return a remote file's size, and the address behind redirects that serves its ranges."""
    with requester.get(url, headers={"Range": "bytes=0-7"}, stream=True) as response:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if response.status_code != 206 or not total.isdigit():
            raise EnvironmentProblem(
                f"{url}: the server doesn't serve parts of files, so nothing can be streamed. "
                "Download the whole file without --stream."
            )
        place = str(response.url)
    if size is not None and int(total) != size:
        raise RecordingError(
            f"{url}: the server has {int(total):,} bytes where {size:,} were expected, so the "
            "file changed. Fetch it again; correct data/registry.yaml if it persists."
        )
    return int(total), place


class _Copy:
    """Copying parts of one NWB file into another, with pointers that point into the copy."""

    def __init__(self, source: Any, target: Any) -> None:
        self.source, self.target = source, target
        self.links: list[tuple[str, str]] = []
        self.left_out: list[str] = []

    def run(self, behavior: bool) -> list[str]:
        """Copy all that is wanted; return the names of what is left."""
        wanted = {"general", "intervals", "specifications", "units"}
        if behavior:
            wanted.add("processing")
        self._attributes(self.source, self.target)
        for name in self.source:
            member = self.source.get(name)
            if isinstance(member, h5py.Dataset) or name in wanted:
                self._member(self.source, self.target, name)
            elif isinstance(member, h5py.Group):
                held = [inner for inner in map(str, member) if _holds(member, inner)]
                self.left_out += [f"{name}/{inner}" for inner in held]
        for name in NWB_GROUPS:
            self.target.require_group(name)
        for place, path in self.links:
            if path in self.target:
                self.target[place] = h5py.SoftLink(path)
        self._point("/", self.target)
        self.target.visititems(self._point)
        return self.left_out

    def _member(self, source: Any, target: Any, name: str) -> None:
        link = source.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink):
            path = link.path if link.path.startswith("/") else f"{source.name}/{link.path}"
            self.links.append((f"{target.name}/{name}".replace("//", "/"), path))
            return
        member = source.get(name)
        if isinstance(link, h5py.ExternalLink) or member is None:
            self.left_out.append(f"{source.name}/{name} (in another file)".lstrip("/"))
        elif isinstance(member, h5py.Group):
            made = target.create_group(name)
            self._attributes(member, made)
            for inner in _columns(member, self.left_out):
                self._member(member, made, inner)
        else:
            source.copy(member, target, name)

    def _attributes(self, source: Any, target: Any) -> None:
        for name in source.attrs:
            value, kind = source.attrs[name], source.attrs.get_id(name).dtype
            if name == "colnames":
                kept = set(_columns(source, []))
                value = np.array([c for c in value if _text(c) in kept], dtype=object)
            if h5py.check_ref_dtype(kind) is None:
                target.attrs.create(name, value, dtype=kind)
            else:
                # Given its value once everything is in its place.
                target.attrs.create(name, h5py.Reference(), dtype=h5py.ref_dtype)

    def _point(self, name: str, member: Any) -> None:
        """Set the references of one object of the copy."""
        origin = self.source[name]
        for key in origin.attrs:
            kind = origin.attrs.get_id(key).dtype
            if h5py.check_ref_dtype(kind) is h5py.Reference and np.shape(origin.attrs[key]) == ():
                member.attrs.create(key, self._moved(origin.attrs[key]), dtype=h5py.ref_dtype)
        if (
            isinstance(member, h5py.Dataset)
            and h5py.check_ref_dtype(member.dtype) is h5py.Reference
        ):
            moved = np.empty(origin.shape, dtype=h5py.ref_dtype)
            for place, reference in np.ndenumerate(np.asarray(origin[()], dtype=object)):
                moved[place] = self._moved(reference)
            member[()] = moved[()]

    def _moved(self, reference: Any) -> Any:
        path = self.source[reference].name if reference else None
        return self.target[path].ref if path and path in self.target else h5py.Reference()


def _columns(group: Any, left_out: list[str]) -> Iterator[str]:
    """Members of a group to copy; of a table, the columns that reading a recording needs.

    Values per spike and waveforms would be most of a units table. Pointers from intervals into
    series point at what isn't copied.
    """
    is_table = "colnames" in group.attrs
    is_units = group.name == "/units"
    for name in group:
        member = group.get(name)
        if not is_table or not isinstance(member, h5py.Dataset):
            yield name
            continue
        column = name.removesuffix("_index").removesuffix("_index")
        values = group.get(column)
        ragged = f"{column}_index" in group
        wide = isinstance(values, h5py.Dataset) and values.ndim > 1
        heavy = is_units and (ragged or wide) and column not in RAGGED_UNIT_COLUMNS
        pointers = isinstance(values, h5py.Dataset) and values.dtype.names is not None
        if heavy or pointers:
            if name == column:
                left_out.append(f"{group.name}/{name}".lstrip("/"))
            continue
        yield name


def _holds(group: Any, name: str) -> bool:
    member = group.get(name)
    return member is not None and not (isinstance(member, h5py.Group) and not len(member))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
