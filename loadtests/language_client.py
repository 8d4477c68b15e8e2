"""Streams texts from the service over HTTP, all prompts of a job at once, at little cost to the machine.

It speaks the benchmark's protocol of engines, so the service is measured as its peers are. It knows our route and
server-sent events, not the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast

import httptools
import uvloop

from loadtests.language_peers.protocol import Answer, Generate, Job, serve

_JOB_SECONDS = 300.0


class Stream(asyncio.Protocol):
    """One request and the tokens that came of it."""

    def __init__(self, request: bytes) -> None:
        """Keep what to send once there is a connection."""
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._pending = bytearray()
        self.tokens: list[int] = []
        self.times: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the reply is no HTTP: {error}.")

    def on_body(self, body: bytes) -> None:
        """Take a part of the reply: events end with an empty line."""
        self._pending += body
        while (end := self._pending.find(b"\n\n")) >= 0:
            self._take(bytes(self._pending[:end]))
            del self._pending[: end + 2]

    def _take(self, event: bytes) -> None:
        now = time.perf_counter()
        data = event[event.find(b"data: ") + 6 :]
        if event.startswith(b"event: error"):
            self._fail(data.decode())
        elif not event.startswith(b"event: "):
            tokens = json.loads(data)["tokens"]
            self.tokens += tokens
            self.times += [now] * len(tokens)

    def on_message_complete(self) -> None:
        """Note the end."""
        if self._parser.get_status_code() != 200:
            self._fail(f"the service answered {self._parser.get_status_code()}: {bytes(self._pending[:300])!r}.")
        elif not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail when the reply was not whole."""
        self._fail(f"the connection ended early: {error}.")

    def _fail(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(RuntimeError(reason))


def request_of(model: str, text: str, num_tokens: int) -> bytes:
    """The request that streams the continuation of a text."""
    body = json.dumps({"prompt": text, "max_tokens": num_tokens, "temperature": 0, "stream": True}).encode()
    head = f"POST /v1/models/{model}/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def stream_all(port: int, requests: list[bytes]) -> Answer:
    """Send all requests at once and take the tokens as they come."""
    loop, started = asyncio.get_running_loop(), time.perf_counter()

    async def one(request: bytes) -> Stream:
        _, stream = await loop.create_connection(lambda: Stream(request), "127.0.0.1", port)
        await stream.ended
        return stream

    async with asyncio.timeout(_JOB_SECONDS):
        streams = await asyncio.gather(*map(one, requests))
    return Answer([s.tokens for s in streams], [[at - started for at in s.times] for s in streams])


def load(port: int, model: str) -> Generate:
    """What answers a job."""
    loop = uvloop.new_event_loop()

    def generate(job: Job) -> Answer:
        requests = [request_of(model, text, job.num_tokens) for text in job.texts]
        return loop.run_until_complete(stream_all(port, requests))

    return generate


def main() -> None:
    """Answer jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    given = parser.parse_args()
    serve(lambda: load(given.port, given.model))


if __name__ == "__main__":
    main()
