"""Downloads a file once: resumable, verified by SHA-256, with a progress bar.

It owns the partial file (`<name>.part`) and its move into place, and knows no data set.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.data.formats import DataError

_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Resource:
    """A file on the web and the SHA-256 it must have."""

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def fetch(resource: Resource, folder: Path) -> Path:
    """Return the verified local copy of `resource` in `folder`, downloading or continuing as needed.

    Raises: DataError when the server cannot be reached or the content is not what was published.
    """
    target = folder / resource.file_name
    if target.is_file():
        _verify(target, resource)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # A file under its own name is whole and verified; whatever is not, has another name.
    partial = target.with_name(target.name + ".part")
    try:
        _download(resource.url, partial)
    except (urllib.error.URLError, OSError, TimeoutError) as error:
        text = f"{resource.url} could not be downloaded: {error}; run again to continue, or use --data."
        raise DataError(text) from error
    _verify(partial, resource)
    partial.replace(target)
    return target


def _verify(path: Path, resource: Resource) -> None:
    """Compare the checksum; a file that fails is removed, so that the next run starts afresh."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != resource.sha256:
        path.unlink()
        raise DataError(f"{resource.url} has SHA-256 {actual}; published is {resource.sha256}. The copy was removed.")


def _download(url: str, partial: Path) -> None:
    """Append what is missing to `partial`, asking for the rest with a Range header."""
    offset = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to send: the partial file is whole, and its checksum will tell
            return
        raise
    with response:
        # Asked for a part, a server may ignore the question and send the whole file with status 200.
        if response.status != 206:  # the server ignores ranges and sends the whole file
            offset = 0
        _receive(response, partial, offset)


def _receive(response: Any, partial: Path, offset: int) -> None:
    expected = response.headers.get("Content-Length")
    total = offset + int(expected) if expected else None
    bar = tqdm(total=total, initial=offset, unit="B", unit_scale=True, desc=partial.stem)
    with bar, partial.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and partial.stat().st_size < total:
        raise OSError(f"the connection ended after {partial.stat().st_size} of {total} bytes")
