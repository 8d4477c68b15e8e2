"""Sends the writes of one iteration of the event loop together: uvloop makes a system call for every write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


class CoalescingTransport:
    """A transport that collects writes until the end of the loop's iteration; all else is the wrapped transport's."""

    __slots__ = ("_loop", "_pending", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes | memoryview] = []

    def write(self, data: bytes) -> None:
        """Send the bytes at the end of this iteration."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send the pieces now, and before them what is pending."""
        self._pending += pieces
        self._flush()

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Send what is pending, then close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once, without sending what is pending."""
        self._pending.clear()
        self._transport.abort()

    def _flush(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        if not self._transport.is_closing():
            self._transport.writelines(pending)  # one system call, and no copy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
