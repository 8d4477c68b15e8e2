"""Serves the files of `service/playground/` from memory, compressed once at startup.

Starlette's StaticFiles behind GZipMiddleware would compress on the event loop for every request, and give both codings
of a file the same strong ETag, which RFC 9110 section 8.8.1 forbids. The page uses the public API only.
"""

from __future__ import annotations

import gzip
import hashlib
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.errors import NotFound
from service.http.accept import accepts_gzip
from service.settings import Settings

FOLDER = Path(__file__).resolve().parent.parent / "playground"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page; `packed` is its gzip, unless that saves less than 10 %."""

    media_type: str
    content: bytes
    packed: bytes | None
    tag: str

    @classmethod
    def of(cls, media_type: str, content: bytes) -> Asset:
        """Compress a file and compute its ETag."""
        packed = gzip.compress(content, 9, mtime=0)
        tag = hashlib.sha256(content).hexdigest()[:24]
        return cls(media_type, content, packed if len(packed) < 0.9 * len(content) else None, tag)

    def answer(self, request: Request) -> Response:
        """Answer a request, which may be conditional (RFC 9110 section 13.1.2)."""
        packed = self.packed if accepts_gzip(request.scope) else None
        tag = f'"{self.tag}-gzip"' if packed else f'"{self.tag}"'
        headers = _HEADERS | {"ETag": tag}
        if _names(request.headers.getlist("if-none-match"), tag):
            return Response(None, 304, headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return Response(packed or self.content, 200, headers, self.media_type)


def playground_router(settings: Settings, *, needs_key: bool = False, folder: Path = FOLDER) -> APIRouter:
    """The routes of the page and its files; none if the settings disable it."""
    router = APIRouter(include_in_schema=False)
    if not settings.playground:
        return router
    assets = _read(folder) | {"config.json": Asset.of("application/json", _config(settings, needs_key))}

    @router.get("/")
    async def show_page(request: Request) -> Response:
        return assets["index.html"].answer(request)

    # Browsers request it with any page, image or text that they open.
    @router.get("/favicon.ico")
    async def show_icon(request: Request) -> Response:
        return assets["icon.svg"].answer(request)

    @router.get("/playground/{file:path}")
    async def show_file(file: str, request: Request) -> Response:
        if (asset := assets.get(file)) is None:
            raise NotFound(f"The playground has no file {file[:100]!r}; GET / is its page.")
        return asset.answer(request)

    return router


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names(fields: list[str], tag: str) -> bool:
    """Whether If-None-Match matches a tag by weak comparison (RFC 9110 section 8.8.3.2)."""
    named = {each.strip().removeprefix("W/") for each in ",".join(fields).split(",")}
    return tag in named or "*" in named


def _read(folder: Path) -> dict[str, Asset]:
    """The files of the page by relative path; files of unknown types are not served."""
    return {
        file.relative_to(folder).as_posix(): Asset.of(_TYPES[file.suffix], file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.suffix in _TYPES and file.is_file()
    }


def _config(settings: Settings, needs_key: bool) -> bytes:
    """What the page needs to know of the service at startup."""
    config: Mapping[str, Any] = {
        "version": __version__,
        "burst_allowed": settings.playground_burst or is_loopback(settings.host),
        "needs_key": needs_key,
    }
    return json.dumps(config).encode()
