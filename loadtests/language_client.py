"""Streams texts from the service over HTTP, all prompts of a job at once, at little cost to the machine.

It speaks the benchmark's protocol of engines, so the service is measured as its peers are. It knows our route and
server-sent events, not the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import uvloop

from loadtests.http_client import Caller, post
from loadtests.language_peers.protocol import Answer, Generate, Job, serve

_JOB_SECONDS = 300.0


class Stream(Caller):
    """A connection that takes the tokens of a reply as they come."""

    def __init__(self) -> None:
        """Begin without tokens."""
        super().__init__()
        self.tokens: list[int] = []
        self.times: list[float] = []

    def on_body(self, body: bytes) -> None:
        """Take a part of the reply: events end with an empty line."""
        self.body += body
        while (end := self.body.find(b"\n\n")) >= 0:
            self._take(bytes(self.body[:end]))
            del self.body[: end + 2]

    def _take(self, event: bytes) -> None:
        now = time.perf_counter()
        data = event[event.find(b"data: ") + 6 :]
        if event.startswith(b"event: error"):
            self.fail(data.decode())
        elif not event.startswith(b"event: "):
            tokens = json.loads(data)["tokens"]
            self.tokens += tokens
            self.times += [now] * len(tokens)


def request_of(model: str, text: str, num_tokens: int) -> bytes:
    """The request that streams the continuation of a text."""
    body = json.dumps({"prompt": text, "max_tokens": num_tokens, "temperature": 0, "stream": True}).encode()
    return post(f"/v1/models/{model}/generate", body, "application/json", "Connection: close")


async def stream_all(port: int, requests: list[bytes]) -> Answer:
    """Send all requests at once and take the tokens as they come."""
    loop, started = asyncio.get_running_loop(), time.perf_counter()

    async def one(request: bytes) -> Stream:
        _, stream = await loop.create_connection(Stream, "127.0.0.1", port)
        await stream.ask(request)
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
