"""Finding a file on DANDI: the few questions to its web interface that a download needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from saebook.data.archive.registry import PublicRecording
from saebook.data.archive.requesting import Requester
from saebook.errors import EnvironmentProblem, RecordingError

API = "https://api.dandiarchive.org/api"
PAGES = 20


@dataclass(frozen=True)
class Asset:
    """A file on DANDI, as the archive describes it.

    Attributes
    ----------
    id, version, path
        Data set, its version, and the file in it.
    size
        Bytes.
    sha256
        Of the whole file; None while the archive hasn't computed it.
    etag
        Checksum over parts, which the archive always has.
    url
        Download address at the archive, which redirects to where the bytes are.
    blob_url
        Where the bytes are, without a redirect for every request.

    Examples
    --------
    >>> Asset("000140", "draft", "a.nwb", 8, None, None, "https://x/download/", "").direct_url
    'https://x/download/'
    """

    id: str
    version: str
    path: str
    size: int
    sha256: str | None
    etag: str | None
    url: str
    blob_url: str

    @property
    def direct_url(self) -> str:
        """Address for many small requests."""
        return self.blob_url or self.url


def api_address() -> str:
    """Address of DANDI's web interface: ``$SAEBOOK_DANDI_API``, else the public one."""
    return os.environ.get("SAEBOOK_DANDI_API", API).rstrip("/")


def find_asset(recording: PublicRecording, requester: Requester) -> Asset:
    """Ask DANDI about a recording.

    Parameters
    ----------
    recording
        From `find_recording`.
    requester
        What asks.

    Raises
    ------
    RecordingError
        The set has no such file (the message lists files it has), or the archive states another
        size or checksum than the registry.
    EnvironmentProblem
        The archive can't be reached, or answers what can't be understood.
    """
    root = f"{api_address()}/dandisets/{recording.id}"
    try:
        version = recording.version or _latest_version(requester, f"{root}/")
        assets = f"{root}/versions/{version}/assets/"
        listed = _find_path(requester, assets, recording, version)
        asset = _asset(requester, f"{assets}{listed['asset_id']}/", recording, version, listed)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, RecordingError):
            raise
        raise EnvironmentProblem(
            f"{root}: its answer isn't what DANDI's interface gives ({type(error).__name__}: "
            f"{error}). Try again later, or set SAEBOOK_DANDI_API to the right address."
        ) from error
    for name in ("size", "sha256"):
        known, stated = getattr(recording, name), getattr(asset, name)
        if known is not None and stated is not None and known != stated:
            raise RecordingError(
                f"{recording.name}: the archive states {name} {stated} and data/registry.yaml "
                f"{known}. One of the two is wrong or has changed: compare the file's page in the "
                "archive, and correct the registry."
            )
    return asset


def _latest_version(requester: Requester, url: str) -> str:
    content = requester.get(url).json()
    version = content.get("most_recent_published_version") or content["draft_version"]
    return str(version["version"])


def _find_path(
    requester: Requester, assets: str, recording: PublicRecording, version: str
) -> dict[str, Any]:
    """Return the listed file of exactly this path; a path left empty stands for an only file."""
    found = _list(requester, assets, recording.path)
    exact = [entry for entry in found if entry["path"] == recording.path]
    if exact:
        return exact[0]
    if not recording.path:
        found = [entry for entry in found if str(entry["path"]).endswith(".nwb")]
        if len(found) == 1:
            return found[0]
    else:
        folder = recording.path.rpartition("/")[0]
        found = found or _list(requester, assets, f"{folder}/" if folder else "")
        found = found or _list(requester, assets, "")
    paths = sorted(str(entry["path"]) for entry in found)
    some = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
    missing = f"has no {recording.path}" if recording.path else "holds several files or none"
    raise RecordingError(
        f"dandi:{recording.id}@{version} {missing}; it has {some or 'nothing'}. "
        f"Name one of them: dandi:{recording.id}/PATH."
    )


def _list(requester: Requester, assets: str, start: str) -> list[dict[str, Any]]:
    """Files whose paths begin with `start`, from as many pages as there are, up to a bound."""
    found: list[dict[str, Any]] = []
    url, params = assets, {"path": start, "page_size": "100"}
    for _ in range(PAGES):
        content = requester.get(url, params=params).json()
        found += content["results"]
        if not content.get("next") or any(entry["path"] == start for entry in found):
            break
        url, params = urljoin(url, content["next"]), {}
    return found


def _asset(
    requester: Requester,
    url: str,
    recording: PublicRecording,
    version: str,
    listed: dict[str, Any],
) -> Asset:
    metadata = requester.get(url).json()
    digest = metadata.get("digest") or {}
    addresses = [str(address) for address in metadata["contentUrl"]]
    host = urlsplit(api_address()).netloc
    blobs = [address for address in addresses if urlsplit(address).netloc != host]
    return Asset(
        id=recording.id,
        version=version,
        path=str(listed["path"]),
        size=int(metadata.get("contentSize") or listed["size"]),
        sha256=digest.get("dandi:sha2-256"),
        etag=digest.get("dandi:dandi-etag"),
        url=next((a for a in addresses if "/download" in urlsplit(a).path), addresses[0]),
        blob_url=blobs[0] if blobs else "",
    )
