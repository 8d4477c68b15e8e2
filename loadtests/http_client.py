"""A small HTTP client that costs the machine little: one connection, one request after the other.

It knows neither routes nor what replies mean.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools


def post(path: str, body: bytes, media_type: str, *headers: str) -> bytes:
    """The bytes of a POST request; `headers` are further lines, as in "Connection: close"."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {media_type}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Caller(asyncio.Protocol):
    """A connection and the reply to the latest request; a status other than 200 is an error."""

    def __init__(self) -> None:
        """Begin without a request."""
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.body = bytearray()
        self.headers: dict[str, str] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask(self, request: bytes) -> None:
        """Send a request and wait for the whole reply.

        Raises: RuntimeError when there is none, or not a good one.
        """
        if self._ended.done():
            self._begin()
        if self.is_open:
            self._transport.write(request)
        else:
            self.fail("the service closed the connection.")
        await self._ended

    @property
    def is_open(self) -> bool:
        """Whether a further request can be sent."""
        return not self._transport.is_closing()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to send."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"the reply is no HTTP: {error}.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, its name in lower case."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Take a part of the reply."""
        self.body += body

    def on_message_complete(self) -> None:
        """Note the end."""
        if self._parser.get_status_code() != 200:
            self.fail(f"the service answered {self._parser.get_status_code()}: {bytes(self.body[:300])!r}.")
        else:
            self.end()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail when the reply was not whole."""
        self.fail(f"the connection ended early: {error}.")

    def end(self) -> None:
        """End the wait for the reply."""
        if not self._ended.done():
            self._ended.set_result(None)

    def fail(self, reason: str) -> None:
        """End the wait for the reply with an error."""
        if not self._ended.done():
            self._ended.set_exception(RuntimeError(reason))
