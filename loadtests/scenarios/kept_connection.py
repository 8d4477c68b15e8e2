"""One HTTP connection that tells exactly how far a request came: sent, answered in part, answered in whole.

It knows neither routes nor what replies mean. Source: RFC 9112, "Message Syntax".
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import httptools


@dataclass(slots=True)
class Reply:
    """What came back; `status` 0 where not even a first byte did, `is_whole` only at the message's end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    has_begun: bool = False
    is_whole: bool = False

    @property
    def closes(self) -> bool:
        """Whether the service will take no further request on this connection."""
        return self.headers.get("connection", "").lower() == "close"


class KeptConnection(asyncio.Protocol):
    """A connection for one request after the other."""

    def __init__(self) -> None:
        self._reply, self._ended = Reply(), asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.WriteTransport | None = None
        self.is_open = False

    async def ask(self, request: bytes) -> Reply:
        """Send a request and return what came back, be it whole, in part or nothing."""
        assert self._transport is not None
        self._reply, self._ended = Reply(), asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        await self._ended
        return self._reply

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to send."""
        self._transport, self.is_open = cast(asyncio.WriteTransport, transport), True

    def connection_lost(self, error: Exception | None) -> None:
        """End the wait, whatever has come."""
        self.is_open = False
        self._end()

    def data_received(self, data: bytes) -> None:
        """Take what came; a reply that is no HTTP ends with what was understood of it."""
        self._reply.has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, its name in lower case."""
        self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Keep the status."""
        self._reply.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Take a part of the reply."""
        self._reply.body += body

    def on_message_complete(self) -> None:
        """Note the end."""
        self._reply.is_whole = True
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
