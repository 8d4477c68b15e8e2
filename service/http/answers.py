"""The answers of handlers and how they are sent: JSON, files, server-sent events.

The head of an event stream is sent with the first event, so an error before it can still set the status.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Message, Send

from service.budget import SMALL_BYTES
from service.errors import ServiceError
from service.http.request_context import RequestContext

encode_json = msgspec.json.Encoder().encode
_EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """A stream of server-sent events; writes of one iteration of the event loop are sent together."""

    def __init__(self, send: Send, context: RequestContext) -> None:
        self._send = send
        self.context = context

    async def send(self, data: bytes, event: bytes = b"") -> None:
        """Send one event; `data` is one line."""
        if not self.context.is_streamed:
            self.context.is_streamed = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(_EVENT_HEADERS)})
        name = b"event: %b\n" % event if event else b""
        await self._send({"type": "http.response.body", "body": b"%bdata: %b\n\n" % (name, data), "more_body": True})

    async def close(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b""})


class EventAnswer(ABC):
    """An answer sent as server-sent events."""

    async def write(self, events: EventStream) -> None:
        """Send every event and close the stream; an error after the first event is an event too.

        Raises: ServiceError, only before anything is sent.
        """
        try:
            await self.send_events(events)
        except ServiceError as error:
            if not events.context.is_streamed:
                raise
            events.context.failure_status = events.context.failure_status or error.status  # what came first
            await events.send(*self.error_event(error))
        await events.close()

    @abstractmethod
    async def send_events(self, events: EventStream) -> None:
        """Send every event.

        Raises: ServiceError.
        """

    @abstractmethod
    def error_event(self, error: ServiceError) -> tuple[bytes, bytes]:
        """The data and the name of the event that says what ended the stream."""


@dataclass(frozen=True, slots=True)
class BinaryAnswer:
    """A file, sent in chunks: a slow client applies backpressure between them."""

    media_type: str
    chunks: Sequence[bytes]
    headers: Sequence[tuple[bytes, bytes]] = ()

    async def write(self, send: Send) -> None:
        """Send the file."""
        num_bytes = sum(map(len, self.chunks))
        headers = [(b"content-type", self.media_type.encode("ascii")), (b"content-length", b"%d" % num_bytes)]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, *self.headers]})
        for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def send_answer(answer: Any, send: Send, context: RequestContext) -> None:
    """Send an answer: a file, events, or anything else as JSON.

    Raises: ServiceError, only before anything is sent.
    """
    if isinstance(answer, EventAnswer):
        await answer.write(EventStream(send, context))
        return
    if isinstance(answer, BinaryAnswer):
        await answer.write(send)
        return
    body = encode_json(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def reserve_answer(context: RequestContext, start: Message) -> None:
    """Set aside what an answer will take until its caller has read it, if its head says how much that is.

    Raises: Busy.
    """
    for name, value in start.get("headers", ()):
        if name == b"content-length" and int(value) > SMALL_BYTES:
            context.reservation.grow(int(value), "the answer")
