"""Answers of handlers, and how they are sent: JSON, files, server-sent events.

The head of an event stream leaves with the first event, so that an error before it still has a status of its own.
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
    """One answer of events; each `send` is one write, and those of one iteration of the event loop leave together."""

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
        """End the answer."""
        await self._send({"type": "http.response.body", "body": b""})


class EventAnswer(ABC):
    """An answer that comes in pieces."""

    @abstractmethod
    async def write(self, events: EventStream) -> None:
        """Send every event and close the stream.

        Raises: ServiceError, only as long as nothing was sent.
        """


@dataclass(frozen=True, slots=True)
class BinaryAnswer:
    """An answer that is not JSON, in pieces; the caller may catch up between two of them."""

    media_type: str
    pieces: Sequence[bytes]
    headers: Sequence[tuple[bytes, bytes]] = ()

    async def write(self, send: Send) -> None:
        """Send it."""
        num_bytes = sum(map(len, self.pieces))
        headers = [(b"content-type", self.media_type.encode("ascii")), (b"content-length", b"%d" % num_bytes)]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, *self.headers]})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def send_answer(answer: Any, send: Send) -> None:
    """Send JSON values, a binary answer, or the events of an answer that comes in pieces.

    Raises: ServiceError, only as long as nothing was sent.
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
