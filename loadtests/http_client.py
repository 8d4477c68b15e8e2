"""HTTP clients that cost the machine little: one connection, one request after the other; and a load of many of them.

They know `Server-Timing`, but neither routes nor what replies mean.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools

# The first reply to a caller does not count: until then fewer are at work than there will be.
_FEWEST_REPLIES = 4
_LOAD_SECONDS = 600.0
_TIMING = re.compile(r'([\w-]+);(?:dur=([\d.]+)|desc="([\d.]+)")')


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
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"the reply is no HTTP: {error}.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, its name in lower case."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Keep a part of the reply."""
        self.body += body

    def on_message_complete(self) -> None:
        """End the wait."""
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


class KeptConnection(Caller):
    """A connection that says how far each reply came: nothing of it, a part, or all. None is an error."""

    def _begin(self) -> None:
        super()._begin()
        self._status, self._has_begun, self._is_whole = 0, False, False

    async def exchange(self, request: bytes) -> Reply:
        """Send a request and return what came back."""
        await self.ask(request)
        return Reply(self._status, self.headers, self.body, self._has_begun, self._is_whole)

    def data_received(self, data: bytes) -> None:
        """Parse what came; a reply that is no HTTP ends with what was understood of it."""
        self._has_begun = True
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Keep the status."""
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        """Note the end."""
        self._is_whole = True
        self.end()

    def fail(self, reason: str) -> None:
        """End the wait with what has come so far."""
        self.end()


@dataclass(slots=True)
class Lane:
    """What one caller got: the seconds of each reply, and its `Server-Timing`."""

    seconds: list[float] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LoadPace:
    """What a load reached; `timings` are the medians of the service's own figures, in ms (`batch`: rows)."""

    replies_per_second: float
    p50_ms: float
    timings: dict[str, float]

    def figures(self) -> dict[str, float]:
        """The latency and the service's figures, with their units."""
        names = {name: "batch_rows" if name == "batch" else f"{name}_ms" for name in self.timings}
        return {"p50_ms": self.p50_ms} | {names[name]: value for name, value in self.timings.items()}


def parse_timings(header: str) -> dict[str, float]:
    """The figures of a `Server-Timing` header: durations in ms, and descriptions that are numbers."""
    return {name: float(duration or described) for name, duration, described in _TIMING.findall(header)}


def pace_of(lanes: Sequence[Lane]) -> LoadPace:
    """Sum a load up: a caller's rate counts from its first reply to its last, and the callers' rates are added.

    Raises: ValueError when a caller has fewer than two replies.
    """
    if any(len(lane.seconds) < 2 for lane in lanes):
        raise ValueError(f"callers have {[len(lane.seconds) for lane in lanes]} replies; each must have at least 2.")
    counted = [lane.seconds[1:] for lane in lanes]
    figures: dict[str, list[float]] = {}
    for timings in (timings for lane in lanes for timings in lane.timings[1:]):
        for name, value in timings.items():
            figures.setdefault(name, []).append(value)
    rate = sum(len(seconds) / sum(seconds) for seconds in counted)
    p50_ms = 1000 * statistics.median(value for seconds in counted for value in seconds)
    return LoadPace(rate, p50_ms, {name: statistics.median(values) for name, values in figures.items()})


async def _load(port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> list[Lane]:
    loop, lanes, is_over = asyncio.get_running_loop(), [Lane() for _ in range(concurrency)], False
    deadline = time.perf_counter() + seconds

    async def call(index: int, lane: Lane) -> None:
        nonlocal is_over
        transport, caller = await loop.create_connection(Caller, "127.0.0.1", port)
        try:
            while not is_over:
                request = requests[(index + len(lane.seconds)) % len(requests)]
                started = time.perf_counter()
                await caller.ask(request)
                ended = time.perf_counter()
                if is_over:  # Other callers have stopped, so this reply came under a smaller load.
                    return
                lane.seconds.append(ended - started)
                lane.timings.append(parse_timings(caller.headers.get("server-timing", "")))
                is_over = ended > deadline and all(len(other.seconds) >= _FEWEST_REPLIES for other in lanes)
        finally:
            transport.close()

    async with asyncio.timeout(_LOAD_SECONDS), asyncio.TaskGroup() as group:
        for index, lane in enumerate(lanes):
            group.create_task(call(index, lane))
    return lanes


def run_load(port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> list[Lane]:
    """Keep callers busy for some seconds, or until each has enough replies to tell its rate.

    Raises: RuntimeError when a reply is not a good one.
    """
    try:
        return asyncio.run(_load(port, requests, concurrency, seconds))
    except ExceptionGroup as group:
        raise RuntimeError(f"a caller failed: {group.exceptions[0]}") from group


def ask_once(port: int, request: bytes) -> tuple[float, bytes]:
    """Send one request: the seconds it took, and the reply.

    Raises: RuntimeError.
    """

    async def once() -> tuple[float, bytes]:
        transport, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", port)
        try:
            started = time.perf_counter()
            await caller.ask(request)
            return time.perf_counter() - started, bytes(caller.body)
        finally:
            transport.close()

    return asyncio.run(asyncio.wait_for(once(), _LOAD_SECONDS))
