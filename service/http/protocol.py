"""uvicorn's HTTP/1.1 protocol with the limits that it lacks: number of connections, head size, one Host header, times.

Slow, oversized and ambiguous requests are refused before a handler sees them. A request whose caller disconnects is
cancelled, and who does not read his answer is disconnected. No upgrade is served: one that is offered is ignored
(RFC 9110 section 7.8). It knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from time import perf_counter
from typing import Any, Literal, cast

import httptools
from starlette.types import ASGIApp, Message, Receive, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.budget import Reservation
from service.engine.transport.coalescing import CoalescingTransport
from service.errors import (
    Cancelled,
    DeadlineExceeded,
    HeadTooLarge,
    MalformedRequest,
    RequestTimeout,
    ServiceError,
)
from service.http.middleware import RequestCycle
from service.http.problems import error_response
from service.http.request_context import RequestContext, Scope, context_of, fail
from service.settings import Settings

Phase = Literal["head", "body"]
MIN_TAKEN_BYTES = 16 * 1024
"""Who takes less of his answer in the time for a write does not read."""
MIN_WRITE_SECONDS = 0.5
"""A caller has this time to read on also at his deadline."""
TIMER_SECONDS = 0.01
"""A timer may fire so much too early: uvloop's count milliseconds."""
MAX_PIPELINED = 16
"""Requests that wait for the answers to those before them on their connection; what follows is not parsed yet."""
HEADS_BYTES = 8 * 1024
"""What is parsed at once where heads come: a parsed one takes many times its bytes."""
IDLE_SECONDS = 5.0
"""A connection without a request for longer than this makes room for another one when there are too many."""
DRAIN_WRITE_SECONDS = 2.0
"""The time for a write while the service waits for it to end."""
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class OrderlyFlow(FlowControl):
    """Reads no further requests while there are some that wait for the answers to those before."""

    def __init__(self, transport: asyncio.Transport, is_behind: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._is_behind = is_behind

    def resume_reading(self) -> None:
        """Read on, unless requests wait."""
        if self.read_paused and not self._is_behind():
            super().resume_reading()


class LimitedProtocol(HttpToolsProtocol):
    """One connection, within limits."""

    settings: Settings
    requests: RequestCycle

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0  # of the head, and, after content, of what follows it and is none: trailers
        self._whole_head_bytes = 0  # of the head of the request whose body is being received
        self._content_bytes = 0  # of that body
        self._framing_bytes = 0  # of all that came with that body and is no content
        self._is_in_head = True
        self._is_upgrade_offered = False
        self._is_in_message = False
        self._num_messages = 0
        self._began_at = perf_counter()
        self._rejected: ServiceError | None = None
        self._answering: Any = None  # the cycle being answered; `cycle` is the one received last
        self._timer: asyncio.TimerHandle | None = None
        self._timed: tuple[int, Phase] | None = None
        self._held = bytearray()  # received, and not parsed before the answers to what came before it
        self._unsent = Reservation(self.requests.budget)
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head; refuse a connection over the limit."""
        transport.set_write_buffer_limits(0)  # so that `pause_writing` tells of all that could not be sent
        # Sends the head and the body of an answer in one write.
        super().connection_made(cast(asyncio.Transport, CoalescingTransport(transport, self.loop)))
        self.flow = OrderlyFlow(self.transport, self._is_behind)
        self.address = self.client[0] if self.client else ""
        self._idle_since = self.loop.time()
        self.requests.connections.inc()
        if len(self.connections) <= self.settings.max_connections or self._close_idle():
            self._expect("head")
        else:
            self.requests.refuse_connection(self.address)
            self.transport.write(_FULL)
            self.transport.close()

    def _close_idle(self) -> bool:
        """Close the connections that have been idle for long, at most once a second; return whether there were any."""
        now = self.loop.time()
        if not self.requests.may_sweep(now):
            return False
        others = cast(set[LimitedProtocol], self.connections)
        idle = [other for other in others if other.is_idle and now - other._idle_since > IDLE_SECONDS]
        for other in idle:
            other.transport.close()
        return bool(idle)

    @property
    def is_idle(self) -> bool:
        """Whether no request has come that is not answered."""
        is_in_body = self._is_in_message and not self._is_in_head
        return not is_in_body and (self.cycle is None or self.cycle.response_complete)

    def on_response_complete(self) -> None:
        """Note when the connection became idle, and go on with the requests that came meanwhile."""
        self._idle_since = self.loop.time()
        super().on_response_complete()
        if self._held:
            self.loop.call_soon(self._take_held)
        else:
            self.flow.resume_reading()

    def _is_behind(self) -> bool:
        return bool(self.pipeline or self._held)

    def data_received(self, data: bytes | bytearray) -> None:
        """Parse what came, as far as few requests wait for their answers; the rest waits as it is."""
        if self._held:
            self._held += data
        else:
            self._take_some(data)

    def _take_held(self) -> None:
        held, self._held = self._held, bytearray()
        self._take_some(held)
        self.flow.resume_reading()

    def _take_some(self, data: bytes | bytearray) -> None:
        start = 0
        while start < len(data) and not self.transport.is_closing():
            if len(self.pipeline) >= MAX_PIPELINED:
                self._held += memoryview(data)[start:]
                self.flow.pause_reading()
                return
            is_in_body = self._is_in_message and not self._is_in_head
            end = len(data) if is_in_body else start + HEADS_BYTES
            self._take_part(memoryview(data)[start:end])
            start = end

    def _take_part(self, data: memoryview) -> None:
        """Parse, refuse a head over the limit, and time whatever is still incomplete."""
        # The data may contain a body too; a head over the limit can then pass in the first read only.
        self._head_bytes += len(data)
        self._framing_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse()
        if self.transport.is_closing():
            self._disarm()
        elif self._head_bytes > self.settings.max_header_bytes or self._is_mostly_framing():
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
        self._head_bytes = self._whole_head_bytes
        self._content_bytes = self._framing_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take content."""
        self._head_bytes = self._whole_head_bytes
        self._content_bytes += len(body)
        self._framing_bytes -= len(body)
        super().on_body(body)

    def _is_mostly_framing(self) -> bool:
        """Whether the sizes and extensions of chunks are more than the content and a head may be together."""
        self._framing_bytes = max(self._framing_bytes, 0)  # what came with the head was not counted, but its content
        return not self._is_in_head and self._framing_bytes > self._content_bytes + self.settings.max_header_bytes

    def on_message_complete(self) -> None:
        """Wait for the next head."""
        if self._is_upgrade_offered:
            return
        self._num_messages += 1
        self._is_in_message = False
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        if cycle.scope["http_version"] == "1.0":
            app = _to_http_1_0(cycle, app)
        super()._start_asgi_task(cycle, app)

    def _check_head(self) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url)
        self._whole_head_bytes = size
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
        what = "head exceeds" if self._is_in_head else "head with its trailers, or the framing of its chunks, exceeds"
        return HeadTooLarge(f"The request {what} the limit of {self.settings.max_header_bytes} bytes.")

    def _refuse(self) -> None:
        """Answer a request that cannot be parsed or that a check refused."""
        rejected, self._rejected = self._rejected, None
        self._answer(rejected or MalformedRequest("The request is not valid HTTP/1.1."))

    def _answer(self, error: ServiceError) -> None:
        """Answer the request being received and close; earlier requests still get their own answers."""
        cycle, is_in_body = self.cycle, self._is_in_message and not self._is_in_head
        if cycle is None or cycle.response_complete:
            if is_in_body:
                self.transport.close()  # its answer was sent before all of it came
            else:
                self._refuse_unrouted(error)
        elif not is_in_body:
            cycle.keep_alive = False  # the connection closes after the last pending answer
        else:
            fail(cast(Scope, cycle.scope), error)
            if cycle.response_started or self.pipeline:
                self.transport.abort()  # an answer is pending or under way: anything but a reset would be ambiguous
            else:
                self._send_refusal(
                    error, context_of(cycle.scope) or RequestContext(secrets.token_hex(8), self._began_at)
                )

    def _refuse_unrouted(self, error: ServiceError) -> None:
        """Answer a request that has no route yet, and record it; who sends nothing at all makes no request."""
        if not self._head_bytes:
            self._send_refusal(error, RequestContext(secrets.token_hex(8), self._began_at))
            return
        context = self.requests.open(None, "", (), self.address)
        context.started_at = self._began_at
        status, sent_bytes = self._send_refusal(error, context)
        method = self.parser.get_method().decode("latin-1") if self._is_in_message else ""
        self.requests.refused(method, context, status, sent_bytes)

    def _send_refusal(self, error: ServiceError, context: RequestContext) -> tuple[int, int]:
        """Send an error and close; return its status and the length of its content."""
        # The path, as far as it was received, decides the form of the error; between requests there is none.
        path = self.url.partition(b"?")[0].decode("latin-1") if self._is_in_message else ""
        response = error_response(path, error)
        timing = f"total;dur={(perf_counter() - context.started_at) * 1e3:.3f}"
        response.headers.update({"connection": "close", "x-request-id": context.request_id, "server-timing": timing})
        is_head = self._is_in_message and self.parser.get_method() == b"HEAD"
        content = b"" if is_head else bytes(response.body)
        lines = [STATUS_LINE[response.status_code].rstrip(), *(b"%b: %b" % header for header in response.raw_headers)]
        if not self.transport.is_closing():
            self.transport.write(b"\r\n".join([*lines, b"", content]))
            self.transport.close()
        return response.status_code, len(content)

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
        self._answer(RequestTimeout("The request did not arrive in time."))

    # --- writing ---

    def pause_writing(self) -> None:
        """Count what could not be sent, and watch whether it can be."""
        super().pause_writing()
        self._unsent.hold(self.transport.get_write_buffer_size())
        self._watch_writes()

    def resume_writing(self) -> None:
        """Stop watching: everything is sent."""
        super().resume_writing()
        self._unsent.release()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _watch_writes(self) -> None:
        seconds, context = self.settings.write_timeout_seconds, self._context
        if self.requests.drain.is_refusing:
            seconds = min(seconds, DRAIN_WRITE_SECONDS)
        if context is not None:
            left_seconds = context.deadline - self.loop.time()
            if left_seconds > 0 or context.is_streamed:
                seconds = min(seconds, max(left_seconds, MIN_WRITE_SECONDS))
        self._write_timer = self.loop.call_later(seconds, self._check_writes)

    def _check_writes(self) -> None:
        """Disconnect a caller who does not read on, or whose stream is past its deadline."""
        unsent_bytes, context = self.transport.get_write_buffer_size(), self._context
        is_late = context is not None and context.is_streamed and self.loop.time() + TIMER_SECONDS >= context.deadline
        if unsent_bytes + MIN_TAKEN_BYTES <= self._unsent.num_bytes and not is_late:
            self._unsent.hold(unsent_bytes)
            self._watch_writes()
            return
        if context is not None:
            context.failure_status = (DeadlineExceeded if is_late else Cancelled).status
        self.transport.abort()

    def hurry(self) -> None:
        """Wait less for a caller who does not read: the service is about to end."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._watch_writes()

    @property
    def _context(self) -> RequestContext | None:
        """The context of the request being answered."""
        cycle = self._answering
        return None if cycle is None or cycle.response_complete else context_of(cycle.scope)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the running request: its answer has no reader."""
        self._disarm()
        self.requests.connections.dec()
        context = self._context
        self._held.clear()
        super().connection_lost(exc)
        self.resume_writing()
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
