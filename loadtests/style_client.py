"""Posts photographs over HTTP from a fixed number of callers, each with the next one as soon as it has the last back.

It knows our route and `Server-Timing`, not the engine.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.http_client import Caller, post

# The first photograph of a caller does not count: until then the load is not what it will be.
_FEWEST_COUNTED = 3
_TIMING = re.compile(r'([\w-]+);(?:dur=([\d.]+)|desc="([\d.]+)")')
_LOAD_SECONDS = 600.0


@dataclass(slots=True)
class Lane:
    """What one caller got: the seconds of each photograph, and what the service said of it."""

    seconds: list[float] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a load reached; `timings` are the medians of the service's own figures, in ms (`batch`: pictures)."""

    photos_per_second: float
    p50_ms: float
    max_ms: float
    num_photos: int
    timings: dict[str, float]


def stylize_request(model: str, photo: bytes, style: str, timeout_seconds: float = 60.0) -> bytes:
    """The request that paints a JPEG."""
    deadline = f"X-Request-Timeout: {timeout_seconds:g}"
    return post(f"/v1/models/{model}/stylize?style={style}", photo, "image/jpeg", deadline)


def parse_timings(header: str) -> dict[str, float]:
    """The figures of a `Server-Timing` header: durations in ms, and descriptions that are numbers."""
    return {name: float(duration or described) for name, duration, described in _TIMING.findall(header)}


def pace_of(lanes: Sequence[Lane]) -> Pace:
    """Sum a load up: a caller's rate is taken from its first reply to its last, the callers' rates are added.

    Raises: ValueError when a caller has fewer than two replies.
    """
    if any(len(lane.seconds) < 2 for lane in lanes):
        raise ValueError(f"callers have {[len(lane.seconds) for lane in lanes]} replies; each must have at least 2.")
    counted = [seconds for lane in lanes for seconds in lane.seconds[1:]]
    rate = sum(len(lane.seconds[1:]) / sum(lane.seconds[1:]) for lane in lanes)
    figures: dict[str, list[float]] = {}
    for timings in (timings for lane in lanes for timings in lane.timings[1:]):
        for name, value in timings.items():
            figures.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return Pace(rate, 1000 * statistics.median(counted), 1000 * max(counted), len(counted), medians)


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
                if is_over:  # fewer callers than wanted were at work meanwhile
                    return
                lane.seconds.append(ended - started)
                lane.timings.append(parse_timings(caller.headers.get("server-timing", "")))
                is_over = ended > deadline and all(len(other.seconds) > _FEWEST_COUNTED for other in lanes)
        finally:
            transport.close()

    async with asyncio.timeout(_LOAD_SECONDS), asyncio.TaskGroup() as group:
        for index, lane in enumerate(lanes):
            group.create_task(call(index, lane))
    return lanes


def run_load(port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> list[Lane]:
    """Keep so many callers busy for some seconds, or until each has enough replies to tell its rate.

    Raises: RuntimeError when a reply is not a good one.
    """
    try:
        return asyncio.run(_load(port, requests, concurrency, seconds))
    except ExceptionGroup as group:
        raise RuntimeError(f"a caller failed: {group.exceptions[0]}") from group


def paint_once(port: int, request: bytes) -> tuple[float, bytes]:
    """Post one photograph: the seconds it took and the painting.

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
