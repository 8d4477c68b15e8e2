"""Several pictures in one reply: a multipart/mixed body or a zip file. It knows names and bytes, not what they show."""

from __future__ import annotations

import re
import secrets
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import quote

from service.http.accept import preferred_type
from service.http.request_context import Scope

ZIP_TYPE = "application/zip"
_UNSAFE = re.compile(r"[^\w.-]+")
_MAX_STEM = 80
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


@dataclass(frozen=True, slots=True)
class PictureFile:
    """One picture of a reply; `format` as Pillow calls it."""

    name: str
    format: str
    content: bytes

    @property
    def media_type(self) -> str:
        """Its media type."""
        return f"image/{self.format.lower()}"


def wants_zip(scope: Scope) -> bool:
    """Whether the caller names zip files among what he accepts; `*/*` does not."""
    return preferred_type(scope, (ZIP_TYPE,)) is not None


def safe_names(given: Sequence[str], formats: Sequence[str]) -> list[str]:
    """File names that may be unpacked anywhere: the callers' own without folders, odd characters and twins."""
    names: list[str] = []
    taken: set[str] = set()
    for index, (name, kind) in enumerate(zip(given, formats, strict=True), 1):
        base = re.split(r"[/\\]", name)[-1]
        stem = _UNSAFE.sub("_", base.rpartition(".")[0] or base).strip("._-")[:_MAX_STEM] or f"picture-{index}"
        suffix = _SUFFIXES[kind]
        unique, count = f"{stem}{suffix}", 1
        while unique.casefold() in taken:
            count += 1
            unique = f"{stem}-{count}{suffix}"
        taken.add(unique.casefold())
        names.append(unique)
    return names


def as_zip(files: Sequence[PictureFile]) -> bytes:
    """The files as one zip file; stored, for pictures are compressed already."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(file.name), file.content)
    return buffer.getvalue()


def as_multipart(files: Sequence[PictureFile]) -> tuple[str, list[bytes]]:
    """The media type and the pieces of a multipart/mixed body (RFC 2046 section 5.1)."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for file in files:
        shown = f'filename="{file.name}"' if file.name.isascii() else f"filename*=UTF-8''{quote(file.name)}"
        head = (
            f"--{boundary}\r\nContent-Type: {file.media_type}\r\nContent-Length: {len(file.content)}\r\n"
            f"Content-Disposition: attachment; {shown}\r\n\r\n"
        )
        pieces += [head.encode("ascii"), file.content, b"\r\n"]
    return f"multipart/mixed; boundary={boundary}", [*pieces, f"--{boundary}--\r\n".encode("ascii")]
