"""One connection: it answers requests with known heads on hot routes itself, and leaves all others to uvicorn.

It knows nothing of routes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.budget import SMALL_BYTES, Reservation
from service.errors import Busy, Cancelled, RequestTimeout, ServiceError
from service.http.direct import DirectHeads, Exchange, KnownHead, render
from service.http.middleware import RequestCycle
from service.http.protocol import LimitedProtocol
from service.http.request_context import RequestContext
from service.settings import Settings

MAX_JOINED_BYTES = 64 * 1024
"""A larger answer is not copied to have its head before it."""
MAX_WAITING_BYTES = 64 * 1024
"""What is read ahead of a caller who sends the next request before the answer."""


class Connection(LimitedProtocol):
    """One connection; `connection_class` makes the class that uvicorn instantiates."""

    heads: DirectHeads | None
    application: ASGIApp | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app: Any = self.application or self.app
        self._exchange: Exchange | None = None  # the request being answered here
        # What was received and not yet taken: a request whose head is known and whose body is not complete, or what
        # follows the request being answered.
        self._received = bytearray()
        self._known: KnownHead | None = None
        self._needed_bytes = 0
        self._kept = Reservation(self.requests.budget)  # for that body
        self._unwanted_bytes = 0  # of a body that was refused before all of it came
        self._new_head = b""
        self._sent_bytes: int | None = None  # of an answer that comes in parts, once it has begun
        self._status = 0
        self._is_chunked = False
        self._must_close = False
        self._idle_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes | bytearray) -> None:
        """Answer a request with a known head, or leave it to uvicorn."""
        if self._unwanted_bytes and not (data := self._wanted(data)):
            return
        if self._exchange is not None or self._received:
            self._received += data
            self._go_on()
        elif self.heads is None or not self._is_between_requests:
            super().data_received(data)
        elif self.flow.write_paused:
            self._received += data
        else:
            self._take(data)

    @property
    def _is_between_requests(self) -> bool:
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and not (self._is_in_message or self._head_bytes or self._held)

    def _go_on(self) -> None:
        """Take what was received, unless a request is being answered, its body is not complete, or nobody reads."""
        if self._exchange is not None or self.flow.write_paused:
            if len(self._received) > MAX_WAITING_BYTES:
                self.flow.pause_reading()
        elif len(self._received) < self._needed_bytes:
            self._keep_body()
        elif self._received and not self.transport.is_closing():
            self.flow.resume_reading()
            received, self._received = self._received, bytearray()
            self._known, self._needed_bytes = None, 0
            self._kept.release()
            self._take(received)

    def _take(self, data: bytes | bytearray) -> None:
        assert self.heads is not None
        end = data.find(b"\r\n\r\n") + 4
        known = self.heads.find(data, end) if end >= 4 else None
        if known is not None:
            self._begin(known, end, data)
            return
        self._new_head = bytes(data[:end]) if end >= 4 else b""
        super().data_received(data)
        self._new_head = b""

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._new_head and self.heads is not None:
            self.heads.learn(self._new_head, cycle.scope)
            self._new_head = b""
        super()._start_asgi_task(cycle, app)

    # --- answering ---

    def _begin(self, known: KnownHead, end: int, data: bytes | bytearray) -> None:
        """Begin to answer a request, or wait for its body."""
        self._unset_keepalive_if_required()
        if self._timer is not None:
            self._disarm()
        total_bytes = end + known.num_bytes
        if len(data) < total_bytes:
            self._await_body(known, total_bytes, data)
            return
        self._exchange = exchange = self._open(known)
        if len(data) > total_bytes:
            self._received += memoryview(data)[total_bytes:]
        try:
            if known.num_bytes > SMALL_BYTES:
                exchange.context.reservation.grow(known.num_bytes - SMALL_BYTES, "the body")
            self.requests.admit(exchange.context, known.head.scope, known.head.need)
            known.head.direct(exchange, memoryview(data)[end:total_bytes])
        except Exception as error:
            exchange.fail(error)

    def _open(self, known: KnownHead) -> Exchange:
        scope = known.head.scope
        context = self.requests.open(known.request_id, scope["path"], (), self.address)
        context.request_bytes = known.num_bytes
        return Exchange(self, known.head, context)

    def finish(self, exchange: Exchange, status: int, lines: bytes, content: bytes) -> None:
        """Send an answer; one that had begun can only be broken off."""
        if exchange is not self._exchange:
            return
        if self._sent_bytes is not None:
            self.transport.abort()
        elif not self.transport.is_closing():
            head = self._head(exchange, status, lines)
            is_small = len(content) < MAX_JOINED_BYTES
            self.transport.writelines((head + content,) if is_small else (head, content))
        self._end(exchange, status, len(content))

    def begin_stream(self, exchange: Exchange, status: int, lines: bytes, *, is_chunked: bool) -> None:
        """Send the head of an answer that comes in parts; in chunks, unless its length is among the lines."""
        self._sent_bytes, self._status, self._is_chunked = 0, status, is_chunked
        if is_chunked:
            lines += b"transfer-encoding: chunked\r\n"
        if not self.transport.is_closing():
            self.transport.write(self._head(exchange, status, lines))

    def stream(self, exchange: Exchange, content: bytes, *, is_last: bool) -> None:
        """Send a part of an answer."""
        if exchange is not self._exchange or self._sent_bytes is None:
            return
        part = content
        if self._is_chunked:
            part = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
            part += b"0\r\n\r\n" if is_last else b""
        if part and not self.transport.is_closing():
            self.transport.write(part)
        self._sent_bytes += len(content)
        if is_last:
            self._end(exchange, self._status, self._sent_bytes)

    def _head(self, exchange: Exchange, status: int, lines: bytes) -> bytes:
        is_draining = self.requests.drain.is_draining  # then the headers of every answer say so
        always, own = render(self.server_state.default_headers), render(self.requests.headers(exchange.context))
        closing = b"connection: close\r\n" if self._must_close and not is_draining else b""
        self._must_close = self._must_close or is_draining
        return b"%b%b%b%b%b\r\n" % (STATUS_LINE[status], always, lines, own, closing)

    def _end(self, exchange: Exchange, status: int, sent_bytes: int) -> None:
        self._exchange = self._sent_bytes = None
        if self._must_close:
            self.transport.close()
        self.requests.close(exchange.head.scope["method"], exchange.head.route, exchange.context, status, sent_bytes)
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._on_idle)
        if self._received:
            self.loop.call_soon(self._go_on)

    # --- bodies that come in parts ---

    def _await_body(self, known: KnownHead, total_bytes: int, data: bytes | bytearray) -> None:
        self._received += data
        self._known, self._needed_bytes = known, total_bytes
        self._timer = self.loop.call_later(self.settings.body_timeout_seconds, self._too_late)
        self._keep_body(known.num_bytes)

    def _keep_body(self, announced_bytes: int = 0) -> None:
        """Set aside what has come of a body; refuse it as soon as there is no room for it, or for what is announced."""
        try:
            if announced_bytes > SMALL_BYTES:
                self._kept.require(announced_bytes - SMALL_BYTES, "the body")
            if (num_bytes := len(self._received) - SMALL_BYTES) > self._kept.num_bytes:
                self._kept.grow(num_bytes - self._kept.num_bytes, "the body")
        except Busy as error:
            self._unwanted_bytes = self._needed_bytes - len(self._received)
            self._give_up_body(error)

    def _wanted(self, data: bytes | bytearray) -> bytes | bytearray:
        """What comes after a body that was refused."""
        num_bytes = min(len(data), self._unwanted_bytes)
        self._unwanted_bytes -= num_bytes
        if not self._unwanted_bytes:
            self._disarm()
        return data[num_bytes:]

    def _too_late(self) -> None:
        if self._unwanted_bytes:
            self.transport.close()
        self._must_close = True
        self._give_up_body(RequestTimeout("The request did not arrive in time."))

    def _give_up_body(self, error: ServiceError) -> None:
        if self._known is not None:
            self._exchange = exchange = self._open(self._known)
            self._known, self._needed_bytes = None, 0
            self._received.clear()
            self._kept.release()
            exchange.fail(error)

    # --- the end ---

    def _on_idle(self) -> None:
        """Close where nothing came for too long; after a request that uvicorn answered, its own timer does."""
        self._idle_timer = None
        is_busy = self._exchange is not None or self._received or not self._is_between_requests
        if is_busy or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            return
        remaining_seconds = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if remaining_seconds > 0:
            self._idle_timer = self.loop.call_later(remaining_seconds, self._on_idle)
        else:
            self.transport.close()

    @property
    def is_idle(self) -> bool:
        """Whether no request has come that is not answered."""
        return self._exchange is None and not self._received and not self._unwanted_bytes and super().is_idle

    @property
    def _context(self) -> RequestContext | None:
        return super()._context if self._exchange is None else self._exchange.context

    def resume_writing(self) -> None:
        """Go on with what came while the caller did not read."""
        super().resume_writing()
        self._go_on()

    def shutdown(self) -> None:
        """Close after the request being answered."""
        if self._exchange is not None or self._known is not None:
            self._must_close = True
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request being answered: its answer has no reader."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._exchange is not None:
            self._exchange.disconnect()
        self._give_up_body(Cancelled("The caller disconnected while sending the body."))
        self._received.clear()
        super().connection_lost(exc)


def connection_class(
    settings: Settings, requests: RequestCycle, heads: DirectHeads, application: ASGIApp | None = None
) -> type[Connection]:
    """The class of connections with these settings; where requests are traced, uvicorn answers all.

    Without an application it is that of uvicorn's configuration.
    """
    direct = None if requests.is_traced else heads
    members = {"settings": settings, "requests": requests, "heads": direct, "application": application}
    return type("ConfiguredConnection", (Connection,), members)
