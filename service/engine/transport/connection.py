"""An API process's connection to the engine: bytes in, messages out; it confirms what the engine tells unasked.

What a message means is the client's affair.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.messages import Description, DescriptionAcknowledged, FrameReader, Message, frame


class Listener(Protocol):
    """Whoever is told of the connection."""

    def connected(self, transport: CoalescingTransport) -> None:
        """Start to use the connection."""

    def disconnected(self) -> None:
        """Do without it."""

    def handle(self, message: Message, payload: memoryview) -> None:
        """Act on one message of the engine."""


class Connection(asyncio.Protocol):
    """Bytes to messages."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._reader = FrameReader()
        self._transport: CoalescingTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the transport over."""
        loop = asyncio.get_running_loop()
        self._transport = CoalescingTransport(cast(asyncio.Transport, transport), loop)
        self._listener.connected(self._transport)

    def data_received(self, data: bytes) -> None:
        """Hand every complete message over."""
        for message, payload in self._reader.feed(data):
            self._listener.handle(message, payload)
            if isinstance(message, Description) and message.id == 0 and self._transport is not None:
                self._transport.write(frame(DescriptionAcknowledged()))

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        self._listener.disconnected()
