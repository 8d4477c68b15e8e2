"""Callers who do not read their answers, or send more than fits: a real service with little room and short times."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.text_generation import END_TOKEN, RecurrentDecoder
from tests.servers import RunningService, until
from tests.service.http.test_protocol import statuses

MIB = 2**20
WIDTH = 1024
MAX_BODY_BYTES = 12 * MIB
BUFFERED_BYTES = 30 * MIB
WRITE_SECONDS = 2.5
MAX_CONNECTIONS = 40
INFER = "/v2/models/scale/infer"
GENERATE = "/v1/models/tiny-recurrent/generate"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that keeps 30 MiB for all its callers."""
    folder = tmp_path_factory.mktemp("unread")
    RecurrentDecoder(context=8192).write(folder)
    write_bare(folder, "scale", scale_bytes(2, WIDTH))
    options = {
        "--max-body-bytes": MAX_BODY_BYTES,
        "--max-buffered-bytes": BUFFERED_BYTES,
        "--write-timeout-seconds": WRITE_SECONDS,
        "--max-connections": MAX_CONNECTIONS,
        "--models": "scale,tiny-recurrent",
        "--instances": 1,
        "--threads": 1,
        "--max-queue-rows": 10**7,
    }
    arguments = (str(part) for pair in options.items() for part in pair)
    with RunningService(folder, *arguments) as service:
        yield service.wait_until_ready()


Connect = Callable[..., socket.socket]


@pytest.fixture
def connect(running: RunningService) -> Iterator[Connect]:
    """Makes connections whose callers have room for a few bytes only; they are closed at the end of the test."""
    address, peers = httpx.URL(running.url), list[socket.socket]()

    def connect(received_bytes: int = 4096) -> socket.socket:
        peers.append(socket.socket())
        peers[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received_bytes)
        peers[-1].settimeout(10)
        peers[-1].connect((address.host, address.port or 80))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.close()
    until(lambda: is_at_rest(running))


def infer(num_bytes: int, *lines: str, is_chunked: bool = False) -> bytes:
    """A request with a raw tensor of so many bytes, which is answered with as many."""
    shape = [num_bytes // (4 * WIDTH), WIDTH]
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": num_bytes}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = text + bytes(num_bytes)
    length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
    head = [f"POST {INFER} HTTP/1.1", "Host: h", f"Inference-Header-Content-Length: {len(text)}", length, *lines]
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body
    return "\r\n".join([*head, "", ""]).encode() + framed


def figure(running: RunningService, name: str) -> float:
    """The sum of the series of a metric, whose labels may be given as far as they matter."""
    text = httpx.get(f"{running.url}/metrics").text
    pattern = re.compile(rf"^{re.escape(name)}\S* (\S+)$", re.MULTILINE)
    return sum(map(float, pattern.findall(text)))


def is_at_rest(running: RunningService) -> bool:
    """Whether nothing is kept, and no request is being answered but the one that asks."""
    names = ("hotplate_buffered_bytes", "hotplate_connections ", "hotplate_requests_in_flight")
    return [figure(running, name.strip()) for name in names] == [0, 1, 1]


def read(peer: socket.socket, seconds: float = 1.0) -> bytes:
    """What comes until the connection is closed, or silent for a while."""
    peer.settimeout(seconds)
    received = b""
    try:
        while data := peer.recv(MIB):
            received += data
    except TimeoutError:
        pass
    return received


@pytest.mark.parametrize("lines", [(), ("Connection: close",)], ids=["kept open", "closed"])
def test_who_never_reads_an_answer_is_disconnected_and_its_bytes_are_given_back(
    running: RunningService, connect: Connect, lines: tuple[str, ...]
) -> None:
    peers = [connect() for _ in range(2)]
    for peer in peers:
        peer.sendall(infer(10 * MIB, *lines))

    until(lambda: figure(running, "hotplate_buffered_bytes") > 8 * MIB)
    until(lambda: is_at_rest(running))


def test_who_reads_slowly_but_reads_gets_all_of_it(running: RunningService, connect: Connect) -> None:
    num_bytes = 6 * MIB
    peer, received = connect(64 * 1024), 0
    peer.sendall(infer(num_bytes))
    started_at = time.monotonic()

    while received < num_bytes:
        data = peer.recv(128 * 1024)
        assert data
        received += len(data)
        time.sleep(0.06)

    assert time.monotonic() - started_at > WRITE_SECONDS


@pytest.mark.parametrize("way", ["known head", "length", "chunked"])
def test_bodies_for_which_there_is_no_room_are_refused_early_and_small_ones_are_answered(
    running: RunningService, connect: Connect, way: str
) -> None:
    request = infer(10 * MIB, *([] if way == "known head" else ["TE: trailers"]), is_chunked=way == "chunked")
    if way == "known head":
        assert statuses(exchange(connect(MIB), infer(4 * WIDTH)))[:1] == [200]
    peers = [connect() for _ in range(6)]
    for peer in peers:
        peer.sendall(request[:-6])  # short of its end

    answers = [read(peer) for peer in peers]
    assert httpx.post(f"{running.url}{INFER}", content=b"{}").status_code == 400
    assert figure(running, "hotplate_buffered_bytes") <= BUFFERED_BYTES

    refused = [answer for answer in answers if answer]
    assert len(refused) >= 3
    for answer in refused:
        assert statuses(answer) == [503]
        assert b"retry-after: 1\r\n" in answer.lower()


def exchange(peer: socket.socket, request: bytes) -> bytes:
    """Send a request on a connection of its own; return what is answered at once."""
    peer.sendall(request)
    answer = read(peer)
    peer.close()
    return answer


def test_the_connection_of_a_refused_body_takes_the_next_request(running: RunningService, connect: Connect) -> None:
    large, small = infer(10 * MIB), infer(4 * WIDTH)
    assert statuses(exchange(connect(MIB), small))[:1] == [200]
    holders = [connect() for _ in range(3)]
    for holder in holders:
        holder.sendall(large[:-1])
    until(lambda: figure(running, "hotplate_buffered_bytes") > 18 * MIB)

    answer = exchange(connect(MIB), large + small)

    assert statuses(answer) == [503, 200]


def test_an_answer_for_which_there_is_no_room_is_refused(running: RunningService, connect: Connect) -> None:
    request = infer(11 * MIB)
    holder = connect()
    holder.sendall(request[:-1])
    until(lambda: figure(running, "hotplate_buffered_bytes") > 9 * MIB)

    peer = connect()
    peer.sendall(request)
    assert statuses(read(peer, 3)) == [503]


def test_a_stream_ends_at_its_deadline_whether_it_is_read_or_not(running: RunningService, connect: Connect) -> None:
    body = json.dumps(
        {"prompt": "a", "max_tokens": 8000, "n": 16, "logprobs": 10, "stream": True, "logit_bias": {END_TOKEN: -100}}
    ).encode()
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: h\r\nX-Request-Timeout: 1.5\r\nContent-Length: {len(body)}\r\n\r\n"
    late = 'hotplate_requests_total{model="tiny-recurrent",route="/v1/models/{model}/generate",status="504"}'
    before = figure(running, late)
    peers = [connect(), connect(MIB)]
    for peer in peers:
        peer.sendall(head.encode() + body)

    read_one = read(peers[1], 5)
    until(lambda: figure(running, late) == before + 2, lambda: httpx.get(f"{running.url}/metrics").text, 10)

    assert b"event: error\n" in read_one
    assert read_one.endswith(b"0\r\n\r\n")


def test_connections_beyond_the_limit_are_refused_until_there_is_room(
    running: RunningService, connect: Connect
) -> None:
    refused = figure(running, "hotplate_refused_connections_total")
    peers = [connect() for _ in range(MAX_CONNECTIONS)]
    extra = [connect() for _ in range(5)]

    for peer in extra:
        answer = read(peer)
        assert statuses(answer) == [503]
        assert b"retry-after: 1" in answer
    peers.pop().close()
    until(lambda: figure_or_none(running) is not None)
    assert figure(running, "hotplate_refused_connections_total") >= refused + 5
    lines = [each for each in running.records if each["message"].startswith("connections are refused")]
    assert len(lines) == 1
    assert lines[0]["address"] == "127.0.0.1"


def figure_or_none(running: RunningService) -> float | None:
    """A metric, where there is room for the connection that asks for it."""
    answer = httpx.get(f"{running.url}/livez")
    return figure(running, "hotplate_connections") if answer.status_code == 200 else None


def test_requests_sent_ahead_are_not_read_before_those_that_came_earlier_are_answered(
    running: RunningService, connect: Connect
) -> None:
    def resident() -> float:
        (api,) = running.children("service.processes.api_process")
        return int(Path(f"/proc/{api}/statm").read_text().split()[1]) * 4096 / MIB

    before, peer = resident(), connect()
    peer.settimeout(60)
    with pytest.raises(ConnectionError):
        peer.sendall(500_000 * b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")  # who never reads an answer is disconnected

    assert resident() - before < 100
