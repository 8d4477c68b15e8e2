"""The answers of handlers and how they are sent: JSON, files, server-sent events.

The head of an event stream is sent with the first event, so an error before it can still set the status.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Send

encode_json = msgspec.json.Encoder().encode
_EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """A stream of server-sent events; writes of one iteration of the event loop are sent together."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_open = False

    async def send(self, data: bytes, event: bytes = b"") -> None:
        """Send one event; `data` is one line."""
        if not self.is_open:
            self.is_open = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(_EVENT_HEADERS)})
        name = b"event: %b\n" % event if event else b""
        await self._send({"type": "http.response.body", "body": b"%bdata: %b\n\n" % (name, data), "more_body": True})

    async def close(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b""})


class EventAnswer(ABC):
    """An answer sent as server-sent events."""

    @abstractmethod
    async def write(self, events: EventStream) -> None:
        """Send every event and close the stream.

        Raises: ServiceError, only before anything is sent.
        """


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


async def send_answer(answer: Any, send: Send) -> None:
    """Send an answer: a file, events, or anything else as JSON.

    Raises: ServiceError, only before anything is sent.
    """
    if isinstance(answer, EventAnswer):
        await answer.write(EventStream(send))
        return
    if isinstance(answer, BinaryAnswer):
        await answer.write(send)
        return
    body = encode_json(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
