"""uvicorn's HTTP/1.1 protocol with the limits that it lacks: head size, time for head and body, one Host.

It ends slow, oversized and ambiguous requests before any handler sees them, and tells a running exchange that its caller
left. It knows nothing of routes. Facts it rests on: uvicorn bounds none of these itself with httptools.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.exchange import exchange_of
from service.settings import Settings


class HeadRejected(Exception):
    """The request's head breaks a rule of ours; carries status and reason."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class LimitedProtocol(HttpToolsProtocol):
    """One connection; use `limited(settings)` to make the class that uvicorn instantiates."""

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._is_in_head = True
        self._is_in_message = False
        self._rejected: HeadRejected | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a whole head within the time for one."""
        super().connection_made(transport)
        self._arm(self.settings.header_timeout_seconds)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the head grows too large; start a timer only for what is still incomplete."""
        if self._is_in_head:
            # A chunk may also hold a body; one larger than the limit is then let in with its first chunk only.
            self._head_bytes += len(data)
        self._disarm()
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head and self._head_bytes > self.settings.max_header_bytes:
            limit = self.settings.max_header_bytes
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The head of a request may have {limit} bytes.")
        elif self._is_in_message:
            in_head = self._is_in_head
            self._arm(self.settings.header_timeout_seconds if in_head else self.settings.body_timeout_seconds)

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        self._is_in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Refuse what proxies and applications may read in two ways, else start the request."""
        self._is_in_head = False
        self._head_bytes = 0
        try:
            self._check_head()
        except HeadRejected as error:
            self._rejected = error
            raise
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next head."""
        self._is_in_message = False
        self._is_in_head = True
        super().on_message_complete()

    def _check_head(self) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url)
        if size > self.settings.max_header_bytes:
            limit = self.settings.max_header_bytes
            raise HeadRejected(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The head of a request may have {limit} bytes."
            )
        if not self.url.startswith((b"/", b"*")):
            raise HeadRejected(HTTPStatus.BAD_REQUEST, "The request target must be a path.")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            raise HeadRejected(HTTPStatus.BAD_REQUEST, f"A request needs one Host header; this one has {len(hosts)}.")
        if hosts and any(character in hosts[0] for character in b"/?#@\\ "):
            raise HeadRejected(HTTPStatus.BAD_REQUEST, "The Host header is not a host.")
        try:
            httptools.parse_url(self.url).path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError) as error:
            raise HeadRejected(HTTPStatus.BAD_REQUEST, "The request target is not a valid path.") from error

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, or what our own checks refused."""
        rejected, self._rejected = self._rejected, None
        if rejected is not None:
            self._answer(rejected.status, rejected.detail)
        else:
            self._answer(HTTPStatus.BAD_REQUEST, "The bytes received are not a valid HTTP/1.1 request.")

    def _answer(self, status: HTTPStatus, detail: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # in the middle of another answer: only an end is unambiguous
            return
        problem = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
        body = json.dumps(problem).encode()
        head = (
            f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            self.transport.close()

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._is_in_message and not self._is_in_head and self.cycle is not None and self.cycle.response_complete:
            self.transport.close()
        else:
            self._answer(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the running exchange that nobody reads its answer."""
        self._disarm()
        cycle = self.cycle
        super().connection_lost(exc)
        if cycle is not None and not cycle.response_complete:
            exchange = exchange_of(cycle.scope)
            if exchange is not None:
                exchange.disconnect()


def limited(settings: Settings) -> type[LimitedProtocol]:
    """The protocol class with these settings."""
    return type("ConfiguredProtocol", (LimitedProtocol,), {"settings": settings})
