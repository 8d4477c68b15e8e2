"""Writes server-sent events. It knows nothing of what they say.

The head of the answer leaves with the first event, so that an error before it still has a status of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from starlette.types import Send

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """One answer of events; each `send` is one write, and those of one turn of the event loop leave together."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_open = False

    async def send(self, data: bytes, event: bytes = b"") -> None:
        """Send one event; `data` is one line."""
        if not self.is_open:
            self.is_open = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
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
