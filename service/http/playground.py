"""Serves the files of `service/playground/` and `service/documentation/` from memory, compressed once at startup.

Starlette's StaticFiles behind GZipMiddleware would compress on the event loop for every request, and give both codings
of a file the same strong ETag, which RFC 9110 section 8.8.1 forbids. The pages use the public API only.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send

from service import __version__
from service.errors import NotFound
from service.http.accept import accepts_gzip
from service.http.request_context import Scope
from service.http.routing import Route, json_handler
from service.security import is_loopback
from service.settings import Settings

FOLDER = Path(__file__).resolve().parent.parent / "playground"
DOCUMENTATION = FOLDER.parent / "documentation"

_SHARED = ("css/base.css", "js/dom.js")
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self.answer(Request(scope))(scope, receive, send)

    def answer(self, request: Request) -> Response:
        """The answer to a request, which may be conditional (RFC 9110 section 13.1.2)."""
        packed = self.packed if accepts_gzip(request.scope) else None
        tag = f'"{self.tag}-gzip"' if packed else f'"{self.tag}"'
        headers = _HEADERS | {"ETag": tag}
        if _names(request.headers.getlist("if-none-match"), tag):
            return Response(None, 304, headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return Response(packed or self.content, 200, headers, self.media_type)


def playground_routes(settings: Settings, *, needs_key: bool = False, folder: Path = FOLDER) -> list[Route]:
    """The routes of the page and its files; none if the settings disable it."""
    if not settings.playground:
        return []
    assets = _read(folder) | {"config.json": Asset.of("application/json", _config(settings, needs_key))}
    return [
        Route("GET", "/", assets["index.html"], None, access="public"),
        # Browsers request it with any page, image or text that they open.
        Route("GET", "/favicon.ico", assets["icon.svg"], None, access="public"),
        Route("GET", "/playground/{file:path}", _files(assets, "playground"), None, access="public"),
    ]


def documentation_routes(openapi: Callable[[], Any]) -> list[Route]:
    """The routes of the OpenAPI document, and of the page that shows it; it lends what looks and elements are made of.

    That page is there without the playground too, so it serves what both share at its own address.
    """
    shared = _read(FOLDER)
    assets = _read(DOCUMENTATION) | {name: shared[name] for name in _SHARED}

    async def document(_scope: Scope) -> Any:
        return openapi()

    return [
        Route("GET", "/docs", assets["index.html"], None, access="public"),
        Route("GET", "/docs/{file:path}", _files(assets, "documentation"), None, access="public"),
        Route("GET", "/openapi.json", json_handler(document), None, access="public"),
    ]


def _files(assets: Mapping[str, Asset], name: str) -> ASGIApp:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        file = scope["path_params"]["file"]
        if (asset := assets.get(file)) is None:
            raise NotFound(f"The {name} has no file {file[:100]!r}.")
        await asset(scope, receive, send)

    return handle


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
