"""Public recordings by name: what ``data/registry.yaml`` lists, and ``dandi:…`` references."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from saebook.errors import ConfigError, RecordingError

REFERENCE = re.compile(r"dandi:(?P<id>\d{6})(?:@(?P<version>[\w.]+))?(?:/(?P<path>.*))?")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PublicRecording:
    """Where a public recording is, and what is known of it.

    Attributes
    ----------
    name
        Short name, or the reference it was made from.
    id, version, path
        Of the data set, its published version (empty: the latest), and the file in it.
    size
        Bytes; None where not known.
    sha256
        Of the whole file; None where not known.
    title, licence, citation
        For people.
    checked
        Whether size and checksum have been compared with the archive.

    Examples
    --------
    >>> find_recording("dandi:000140@0.220113.0408/sub-Jenkins/a.nwb").reference
    'dandi:000140@0.220113.0408/sub-Jenkins/a.nwb'
    """

    name: str
    id: str
    path: str
    version: str = ""
    size: int | None = None
    sha256: str | None = None
    title: str = ""
    licence: str = ""
    citation: str = ""
    checked: bool = False

    @property
    def reference(self) -> str:
        """What `read_recording` takes: ``dandi:ID@VERSION/PATH``."""
        version = f"@{self.version}" if self.version else ""
        return f"dandi:{self.id}{version}/{self.path}"


def data_folder() -> Path:
    """Folder for recordings: ``$SAEBOOK_DATA``, else ``data/`` of the checkout.

    Raises
    ------
    ConfigError
        There is no checkout around the working folder or the library.
    """
    given = os.environ.get("SAEBOOK_DATA")
    return Path(given).expanduser().resolve() if given else registry_path().parent


def registry_path() -> Path:
    """Path of ``data/registry.yaml``: of ``$SAEBOOK_ROOT``, around here, or beside the library.

    Raises
    ------
    ConfigError
        It is in none of these places.
    """
    given = os.environ.get("SAEBOOK_ROOT")
    here = Path.cwd().resolve()
    roots = [Path(given).resolve()] if given else [here, *here.parents, Path(__file__).parents[4]]
    for root in roots:
        path = root / "data" / "registry.yaml"
        if path.is_file():
            return path
    raise ConfigError(
        f"no data/registry.yaml around {roots[0]}: run this inside the checkout, or set "
        "SAEBOOK_ROOT to it"
    )


def read_registry(path: Path | None = None) -> dict[str, PublicRecording]:
    """Read the list of public recordings.

    Parameters
    ----------
    path
        YAML file; by default the checkout's ``data/registry.yaml``.

    Returns
    -------
    dict
        Each recording by its short name, in the file's order.

    Raises
    ------
    ConfigError
        The file is no such list; the message names the entry and field.

    Examples
    --------
    >>> read_registry()["mc_maze_small"].id
    '000140'
    """
    import yaml

    path = registry_path() if path is None else Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no entries: give each recording a name and its fields")
    return {str(name): _entry(str(name), fields, path) for name, fields in content.items()}


def find_recording(name: str) -> PublicRecording:
    """Find a public recording by its name, or by a reference ``dandi:ID[@VERSION]/PATH``.

    Raises
    ------
    RecordingError
        No such name in the registry, or the reference has another form.

    Examples
    --------
    >>> find_recording("mc_maze_smal")
    Traceback (most recent call last):
    ...
    saebook.errors.RecordingError: no public recording 'mc_maze_smal'; do you mean mc_maze_small ...
    """
    if is_reference(name):
        match = REFERENCE.fullmatch(name)
        path = PurePosixPath((match["path"] or "") if match else "")
        if match is None or path.is_absolute() or ".." in path.parts:
            raise RecordingError(
                f"{name!r} is no reference to a file on DANDI: give dandi:ID/PATH, six digits and "
                "the path inside the set, such as dandi:000140/sub-Jenkins/….nwb"
            )
        text = "" if str(path) == "." else str(path)
        for entry in read_registry().values():
            # The list's checksum also guards a file named by its reference.
            if (entry.id, entry.path) == (match["id"], text) and match["version"] in (
                entry.version,
                None,
            ):
                return entry
        return PublicRecording(name, match["id"], text, match["version"] or "")
    registry = read_registry()
    if name in registry:
        return registry[name]
    close = difflib.get_close_matches(name, registry, n=3)
    hint = f"do you mean {' or '.join(close)}?" if close else f"there are {', '.join(registry)}."
    raise RecordingError(
        f"no public recording {name!r}; {hint} Any other file on DANDI is dandi:ID/PATH."
    )


def is_reference(source: object) -> bool:
    """Whether a source names a file of an archive and not one here.

    Examples
    --------
    >>> is_reference("dandi:000140/a.nwb"), is_reference("a.nwb")
    (True, False)
    """
    return isinstance(source, str) and source.startswith("dandi:")


def _entry(name: str, fields: Any, path: Path) -> PublicRecording:
    def refuse(what: str) -> ConfigError:
        return ConfigError(f"{path}, {name}: {what}")

    if not isinstance(fields, dict):
        raise refuse("give it fields (archive, id, version, path, …)")
    fields = dict(fields)
    archive = fields.pop("archive", "dandi")
    if archive != "dandi":
        raise refuse(f"archive {archive!r} isn't known; the only one is dandi")
    known = set(PublicRecording.__dataclass_fields__) - {"name"}
    unknown, missing = sorted(set(fields) - known), sorted({"id", "path"} - set(fields))
    if unknown or missing:
        raise refuse(
            f"unknown fields {', '.join(unknown) or 'none'}, "
            f"missing fields {', '.join(missing) or 'none'}"
        )
    for field in ("id", "version", "path"):
        if not isinstance(fields.get(field, ""), str):
            raise refuse(f"{field} {fields[field]!r} must be text: put it in quotes")
    size, sha256 = fields.get("size"), fields.get("sha256")
    if size is not None and (not isinstance(size, int) or size <= 0):
        raise refuse(f"size {size!r} must be a number of bytes, or null")
    if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        raise refuse(f"sha256 {sha256!r} must be 64 hexadecimal digits, or null")
    return PublicRecording(name=name, **fields)
