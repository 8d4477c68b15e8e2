"""uvicorn's HTTP/1.1 protocol with the limits that it lacks: head size, time for head and body, one Host header.

Slow, oversized and ambiguous requests are refused before a handler sees them, and a request whose caller disconnects
is cancelled. No upgrade is served: one that is offered is ignored (RFC 9110 section 7.8). It knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import secrets
from http import HTTPStatus
from time import perf_counter
from typing import Any, Literal, cast

import httptools
from starlette.types import ASGIApp, Message, Receive, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.engine.transport.coalescing import CoalescingTransport
from service.errors import HeadTooLarge, MalformedRequest, RequestTimeout, ServiceError
from service.http.problems import error_response
from service.http.request_context import Scope, context_of
from service.settings import Settings

Phase = Literal["head", "body"]


class LimitedProtocol(HttpToolsProtocol):
    """One connection, within limits."""

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0  # of the head, or, within a body, of what has come since and is no content: its trailers
        self._is_in_head = True
        self._is_upgrade_offered = False
        self._is_in_message = False
        self._num_messages = 0
        self._began_at = perf_counter()
        self._rejected: ServiceError | None = None
        self._answering: Any = None  # the cycle being answered; `cycle` is the one received last
        self._timer: asyncio.TimerHandle | None = None
        self._timed: tuple[int, Phase] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        # Sends the head and the body of an answer in one write.
        super().connection_made(cast(asyncio.Transport, CoalescingTransport(transport, self.loop)))
        self._expect("head")

    def data_received(self, data: bytes | bytearray) -> None:
        """Parse, refuse a head over the limit, and time whatever is still incomplete."""
        # The data may contain a body too; a head over the limit can then pass in the first read only.
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            self._refuse()
        if self.transport.is_closing():
            self._disarm()
        elif self._head_bytes > self.settings.max_header_bytes:
            self._answer(self._head_too_large())
        else:
            self._expect(self._awaited_phase())

    def _parse(self, data: memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stop:
                # The parser takes all that follows for another protocol and forgets the body. So a new parser gets the
                # same head without the offer, and then what follows.
                data = data[stop.args[0] :]
                self._parse_head_again()

    def _parse_head_again(self) -> None:
        version = self.parser.get_http_version().encode("ascii")
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self._is_upgrade_offered = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn: what follows is dropped
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def on_message_begin(self) -> None:
        """Start a request."""
        self._is_in_message = True
        self._began_at = perf_counter()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are dropped, as they come after the checks."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse a head that proxies and servers may parse differently; otherwise start the request."""
        try:
            self._check_head()
        except ServiceError as error:
            self._rejected = error
            raise
        if self.parser.should_upgrade():
            self._is_upgrade_offered = True
            return
        self._is_in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take content."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next head."""
        if self._is_upgrade_offered:
            return
        self._num_messages += 1
        self._is_in_message = False
        self._is_in_head = True
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        if cycle.scope["http_version"] == "1.0":
            app = _to_http_1_0(cycle, app)
        super()._start_asgi_task(cycle, app)

    def _check_head(self) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url)
        if size > self.settings.max_header_bytes:
            raise self._head_too_large()
        if (version := self.parser.get_http_version()) not in ("1.0", "1.1"):
            raise MalformedRequest(f"The HTTP version is {version!r}; it must be 1.1 or 1.0.")
        if not self.url.startswith((b"/", b"*")) or self.parser.get_method() == b"CONNECT":
            raise MalformedRequest("The request target must be a path; this is no proxy.")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):
            raise MalformedRequest("The Transfer-Encoding of a request must be chunked and nothing else, in HTTP/1.1.")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and version != "1.0"):
            raise MalformedRequest(f"The request has {len(hosts)} Host headers; it must have exactly one.")
        if hosts and any(character in hosts[0] for character in b"/?#@\\ "):
            raise MalformedRequest("The Host header is not a valid host.")
        try:
            httptools.parse_url(self.url).path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError) as error:
            raise MalformedRequest("The request target is not a valid path.") from error

    def _head_too_large(self) -> ServiceError:
        what = "head exceeds" if self._is_in_head else "trailers or chunk extensions exceed"
        return HeadTooLarge(f"The request {what} the limit of {self.settings.max_header_bytes} bytes.")

    def _refuse(self) -> None:
        """Answer a request that cannot be parsed or that a check refused."""
        rejected, self._rejected = self._rejected, None
        self._answer(rejected or MalformedRequest("The request is not valid HTTP/1.1."))

    def _answer(self, error: ServiceError) -> None:
        """Answer the request being received and close; earlier requests still get their own answers."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._is_in_head:
                self.cycle.keep_alive = False  # the connection closes after the last pending answer
                return
            if self.cycle.response_started or self.pipeline:
                self.transport.abort()  # an answer is pending or under way: anything but a reset would be ambiguous
                return
        if not self.transport.is_closing():
            self.transport.write(self._rendered(error))
            self.transport.close()

    def _rendered(self, error: ServiceError) -> bytes:
        # The path, as far as it was received, decides the form of the error; between requests there is none.
        path = self.url.partition(b"?")[0].decode("latin-1") if self._is_in_message else ""
        response = error_response(path, error)
        timing = f"total;dur={(perf_counter() - self._began_at) * 1e3:.3f}"
        response.headers.update(
            {"connection": "close", "x-request-id": secrets.token_hex(8), "server-timing": timing},
        )
        lines = [b"HTTP/1.1 %d %s" % (response.status_code, HTTPStatus(response.status_code).phrase.encode())]
        lines += [name + b": " + value for name, value in response.raw_headers]
        is_head = self._is_in_message and self.parser.get_method() == b"HEAD"
        return b"\r\n".join([*lines, b"", b"" if is_head else bytes(response.body)])

    def _awaited_phase(self) -> Phase | None:
        if self._is_in_message:
            return "head" if self._is_in_head else "body"
        # Stray line ends between requests: they stopped uvicorn's keep-alive timer, but no request began.
        return "head" if self.cycle is None or self.cycle.response_complete else None

    def _expect(self, phase: Phase | None) -> None:
        """Start the timer of a phase; each head and each body has one timer, however slowly it arrives."""
        timed = None if phase is None else (self._num_messages, phase)
        if timed == self._timed:
            return
        self._disarm()
        self._timed = timed
        if phase is not None:
            is_head = phase == "head"
            seconds = self.settings.header_timeout_seconds if is_head else self.settings.body_timeout_seconds
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        self._timed = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._disarm()
        if self._is_in_message and not self._is_in_head and self.cycle is not None and self.cycle.response_complete:
            self.transport.close()
        else:
            self._answer(RequestTimeout("The request did not arrive in time."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the running request: its answer has no reader."""
        self._disarm()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            context = context_of(self._answering.scope)
            if context is not None:
                context.disconnect()


def _to_http_1_0(cycle: Any, app: ASGIApp) -> Any:
    """Answer without chunks and without 100 (Continue), which HTTP/1.0 does not know; the connection ends the body."""
    cycle.waiting_for_100_continue = False

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        ends_with_connection = False

        async def send_unchunked(message: Message) -> None:
            nonlocal ends_with_connection
            if message["type"] == "http.response.start":
                ends_with_connection = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                if ends_with_connection:
                    cycle.chunked_encoding = False
            elif ends_with_connection:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return answer
