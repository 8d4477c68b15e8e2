"""Clients over HTTP: callers under load, and streams of tokens."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loadtests.http_client import Lane, ask_once, pace_of, parse_timings, post, run_load
from loadtests.peers.protocol import TextAnswer
from loadtests.text_engines import request_of, stream_all

PATH = "/v1/models/painter/stylize"


def test_a_callers_rate_begins_at_its_first_reply() -> None:
    lanes = [Lane([9.0, 1.0, 1.0], [{"queue": 900.0}, {"queue": 1.0}, {}]), Lane([9.0, 0.5, 0.5], [{}, {}, {}])]
    pace = pace_of(lanes)
    assert pace.replies_per_second == pytest.approx(3.0)
    assert pace.figures() == {"p50_ms": 750.0, "queue_ms": 1.0}


def test_a_single_reply_tells_no_rate() -> None:
    with pytest.raises(ValueError, match=r"callers have \[1\] replies; each must have at least 2"):
        pace_of([Lane([1.0], [{}])])


def test_server_timing_is_read_as_numbers() -> None:
    header = 'queue;dur=0.125, compute;dur=81.300, batch;desc="4", total;dur=90, cache;desc="miss"'
    assert parse_timings(header) == {"queue": 0.125, "compute": 81.3, "batch": 4.0, "total": 90.0}
    assert parse_timings("") == {}


@contextmanager
def answering(status: bytes = b"200 OK") -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives every body back, on connections that it keeps; its port, and the heads that it saw."""
    heads: list[bytes] = []
    loop, port, is_ready = asyncio.new_event_loop(), 0, threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                body = await reader.readexactly(int(heads[-1].rpartition(b"Content-Length: ")[2]))
                head = b"HTTP/1.1 %b\r\nServer-Timing: compute;dur=5\r\nContent-Length: %d\r\n\r\n"
                writer.write(head % (status, len(body)) + body)
        except asyncio.IncompleteReadError:
            writer.close()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        is_ready.set()
        await stop.wait()
        server.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert is_ready.wait(5)
    try:
        yield port, heads
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


def test_callers_send_requests_one_after_another() -> None:
    requests = [post(PATH, body, "image/jpeg", "X-Request-Timeout: 60") for body in (b"one", b"two!")]
    with answering() as (port, heads):
        lanes = run_load(port, requests, 3, 0.0)
        seconds, body = ask_once(port, requests[1])
    assert len(lanes) == 3
    assert all(len(lane.seconds) >= 4 and lane.timings[0] == {"compute": 5.0} for lane in lanes)
    assert body == b"two!"
    assert seconds > 0
    assert heads[0].startswith(b"POST /v1/models/painter/stylize HTTP/1.1\r\n")
    assert {head.rpartition(b": ")[2] for head in heads} == {b"3\r\n\r\n", b"4\r\n\r\n"}


def test_a_bad_reply_ends_the_load() -> None:
    with (
        answering(b"422 Unprocessable Content") as (port, _),
        pytest.raises(RuntimeError, match="a caller failed: the service answered 422: b'photo'"),
    ):
        run_load(port, [post(PATH, b"photo", "image/jpeg")], 2, 0.0)


def stream(replies: list[bytes]) -> TextAnswer:
    """Two requests to a server that sends these pieces."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        for reply in replies:
            writer.write(reply)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def both() -> TextAnswer:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            return await stream_all(server.sockets[0].getsockname()[1], [request_of("m", "a", 3)] * 2)

    found = asyncio.run(both())
    assert len(seen) == 2
    assert seen[0].startswith(b"POST /v1/models/m/generate HTTP/1.1\r\n")
    return found


def chunks(body: bytes, size: int, status: bytes = b"200 OK") -> list[bytes]:
    head = b"HTTP/1.1 " + status + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return [head, *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


EVENTS = (
    b'data: {"index":0,"text":"It","tokens":[5]}\n\ndata: {"text":" is","tokens":[6,7]}\n\nevent: end\ndata: {}\n\n'
)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_tokens_are_counted_however_the_reply_is_cut(size: int) -> None:
    answer = stream(chunks(EVENTS, size))
    assert answer.tokens == [[5, 6, 7]] * 2
    assert all(times == sorted(times) and len(times) == 3 and times[0] > 0 for times in answer.times)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        (chunks(b'{"title":"no such model"}', 99, b"404 Not Found"), "the service answered 404: .*no such model"),
        (chunks(EVENTS, 999)[:2], "the connection ended early"),
        (chunks(b'event: error\ndata: {"title":"engine lost"}\n\n', 99), "engine lost"),
        ([b"no HTTP at all\r\n\r\n"], "the reply is no HTTP"),
    ],
)
def test_a_broken_stream_is_an_error(replies: list[bytes], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        stream(replies)
