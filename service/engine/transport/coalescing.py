"""Sends the writes of one iteration of the event loop together: uvloop makes a system call for every write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

log = logging.getLogger(__name__)

# The protocol is told to pause beyond it; a large message or two must not keep the next ones waiting.
MAX_WRITE_BUFFER_BYTES = 4 * 2**20


class CoalescingTransport:
    """A transport that collects writes until the end of the loop's iteration; all else is the wrapped transport's.

    `is_paused`: the other side does not read what was written.
    """

    __slots__ = ("_loop", "_max_unread_bytes", "_pending", "_transport", "is_paused")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(MAX_WRITE_BUFFER_BYTES)
        self._loop = loop
        self._max_unread_bytes = 0
        self.is_paused = False
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

    def pause(self, max_unread_bytes: int) -> None:
        """Read nothing while the other side does not, and close once it has left more than so many bytes unread."""
        self.is_paused, self._max_unread_bytes = True, max_unread_bytes
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        self.is_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

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
        if self._transport.is_closing():
            return
        if self.is_paused and 0 < self._max_unread_bytes < self._transport.get_write_buffer_size():
            log.error(
                "a connection is ended: the other side does not read", extra={"max_bytes": self._max_unread_bytes}
            )
            self._transport.abort()
            return
        self._transport.writelines(pending)  # one system call, and no copy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
