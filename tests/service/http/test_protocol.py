"""Raw bytes against a real service with short time limits: ambiguity, size, slowness, pipelining, disconnects."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, until
from tests.service.http.calls import CLASSIFY, as_json, assert_classified

HEAD_SECONDS = BODY_SECONDS = 0.5
WINDOW_SECONDS = 3.0
GET = b"GET /livez HTTP/1.1\r\nHost: h\r\n"
POST = b"POST /v1/models/tiny/classify HTTP/1.1\r\nHost: h\r\nContent-Type: application/octet-stream\r\n"


@pytest.fixture(scope="module")
def impatient(repository: Path) -> Iterator[RunningService]:
    """A service with half a second for a head or a body, and a long queue delay."""
    options = {
        "--header-timeout-seconds": HEAD_SECONDS,
        "--body-timeout-seconds": BODY_SECONDS,
        "--max-queue-delay-seconds": WINDOW_SECONDS,
    }
    with RunningService(repository, *(str(part) for pair in options.items() for part in pair)) as running:
        yield running.wait_until_ready()


class ApiConnection:
    """One TCP connection that sends raw bytes."""

    def __init__(self, url: str) -> None:
        address = httpx.URL(url)
        self.socket = socket.create_connection((address.host, address.port or 80), timeout=10)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def read(self) -> bytes:
        """All that comes until the service closes."""
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := self.socket.recv(65536):
                received += data
        self.socket.close()
        return bytes(received)

    def close(self) -> None:
        self.socket.close()


def talk(url: str, *pieces: bytes) -> bytes:
    """Send the parts and read until the service closes the connection."""
    peer = ApiConnection(url)
    for piece in pieces:
        peer.send(piece)
    return peer.read()


def statuses(answer: bytes) -> list[int]:
    """The status of each answer on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def assert_refused(answer: bytes, status: int, code: str) -> None:
    assert statuses(answer) == [status], answer[:300]
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"connection"] == b"close"
    assert int(headers[b"content-length"]) == len(body)
    assert headers[b"x-request-id"]
    assert headers[b"server-timing"].startswith(b"total;dur=")
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)


BAD_REQUESTS = {
    "length and chunked": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "two equal lengths": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length +5": POST + b"Content-Length: +5\r\n\r\nabcde",
    "length -1": POST + b"Content-Length: -1\r\n\r\n",
    "length 1e1": POST + b"Content-Length: 1e1\r\n\r\n",
    "length too long": POST + b"Content-Length: 10000000000000000000000\r\n\r\n",
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunk without line end": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
    "chunk extension with line feed": POST + b"Transfer-Encoding: chunked\r\n\r\n3;a\nabc\r\n0\r\n\r\n",
    "chunk size overflow": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: h\n\n",
    "bare carriage return": b"GET /livez HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: i\r\n\r\n",
    "host with path": b"GET /livez HTTP/1.1\r\nHost: x/public?\r\n\r\n",
    "host with user": b"GET /livez HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "space before colon": b"GET /livez HTTP/1.1\r\nHost : h\r\n\r\n",
    "folded header": GET + b"X: a\r\n b: c\r\nY\r\n\r\n",
    "NUL in a header": GET + b"X: a\0b\r\n\r\n",
    "NUL in the path": b"GET /li\0vez HTTP/1.1\r\nHost: h\r\n\r\n",
    "non-ASCII path": b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n",
    "absolute target": b"GET http://h/livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "authority target": b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT": b"CONNECT /livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT with a body": b"CONNECT * HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "upgrade, length and chunked": POST
    + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "upgrade and two lengths": POST
    + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "upgrade of CONNECT": b"CONNECT /livez HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "relative target": b"GET livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP/9.9": b"GET /livez HTTP/9.9\r\nHost: h\r\n\r\n",
    "HTTP/2.0": b"GET /livez HTTP/2.0\r\nHost: h\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
    "made-up method": b"FROB /livez HTTP/1.1\r\nHost: h\r\n\r\n",
    "junk": b"\xff" * 64,
}
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_an_ambiguous_or_broken_request_is_refused_and_nothing_behind_it_is_answered(
    impatient: RunningService, name: str
) -> None:
    assert_refused(talk(impatient.url, BAD_REQUESTS[name] + SMUGGLED), 400, "malformed_request")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /livez HTTP/1.0\r\n", 200),
        (b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", 200),
        (b"GET /livez HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n", 200),
        (b"GET /a/%2e%2e/livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", 404),
        (b"HEAD /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", 200),
        (b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n", 200),
    ],
    ids=["1.0", "1.1", "IPv6 host", "dots", "asterisk", "head", "upgrade"],
)
def test_an_unusual_but_clear_request_is_answered_once(
    impatient: RunningService, request_line: bytes, status: int
) -> None:
    assert statuses(talk(impatient.url, request_line + b"\r\n")) == [status]


OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "websocket": b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "several": b"Upgrade: TLS/1.0, IRC/6.9\r\nUPGRADE:\th2c \r\nConnection: Upgrade\r\n",
    "nothing": b"Connection: Upgrade\r\nUpgrade:\r\n",
    "without Connection": b"Upgrade: h2c\r\n",
}
IN_PIECES: dict[str, Callable[[bytes, bytes], list[bytes]]] = {
    "one segment": lambda head, body: [head + body],
    "two segments": lambda head, body: [head, body],
    "single bytes": lambda head, body: [bytes([byte]) for byte in head] + [body],
    "the body in parts": lambda head, body: [head + body[:1], body[1:9], body[9:]],
}


def framed(body: bytes, framing: str) -> tuple[bytes, bytes]:
    """The headers that frame a body, and the body in that frame."""
    expects = b"Expect: 100-continue\r\n" if framing.endswith("expected") else b""
    if framing.startswith("length"):
        return expects + b"Content-Length: %d\r\n" % len(body), body
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:5], body[5:])]
    return expects + b"Transfer-Encoding: chunked\r\n", b"".join([*chunks, b"0\r\n\r\n"])


@pytest.mark.parametrize("framing", ["length", "length, expected", "chunked", "chunked, expected"])
@pytest.mark.parametrize("pieces", IN_PIECES)
@pytest.mark.parametrize("offer", OFFERS)
def test_an_upgrade_is_ignored_and_the_body_stays_the_body(
    impatient: RunningService, network: LinearClassifier, offer: str, pieces: str, framing: str
) -> None:
    rows = network.images(8)  # a whole batch: it is computed at once
    headers, body = framed(json.dumps(as_json(rows)).encode(), framing)
    head = POST.replace(b"octet-stream", b"json") + OFFERS[offer] + headers + b"\r\n"
    last = GET + OFFERS[offer] + b"Connection: close\r\n\r\n"

    answer = talk(impatient.url, *IN_PIECES[pieces](head, body), last)

    assert [status for status in statuses(answer) if status != 100] == [200, 200]
    assert answer.count(b'"predictions"') == 8
    assert answer.endswith(b'{"status":"live"}')


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("pieces", IN_PIECES)
@pytest.mark.parametrize("method", [b"POST", b"GET", b"PUT"])
@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_behind_an_upgrade_is_never_taken_for_a_request(
    impatient: RunningService, offer: str, method: bytes, pieces: str, framing: str
) -> None:
    headers, body = framed(SMUGGLED, framing)
    target = b" /v2/models/tiny/infer" if method == b"POST" else b" /v2/health/live"
    head = method + target + b" HTTP/1.1\r\nHost: h\r\n" + OFFERS[offer] + headers + b"\r\n"

    answer = talk(impatient.url, *IN_PIECES[pieces](head, body), GET + b"Connection: close\r\n\r\n")

    assert statuses(answer) == [{b"POST": 400, b"GET": 200, b"PUT": 405}[method], 200]
    assert b"hotplate_" not in answer


def test_many_pipelined_upgrades_are_each_ignored(impatient: RunningService) -> None:
    request = GET + OFFERS["h2c"] + b"\r\n"

    answer = talk(impatient.url, request * 200 + GET + b"Connection: close\r\n\r\n")

    assert statuses(answer) == [200] * 201


def test_an_upgrade_does_not_lift_the_limits(impatient: RunningService) -> None:
    too_long = GET + OFFERS["h2c"] + b"X: " + b"a" * 40_000 + b"\r\n\r\n"
    unfinished = POST + OFFERS["h2c"] + b"Content-Length: 30\r\n\r\nabc"

    assert_refused(talk(impatient.url, too_long), 431, "head_too_large")
    assert_refused(talk(impatient.url, unfinished), 408, "request_timeout")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"HEAD /v2 HTTP/1.1\r\n", 400),
        (b"HEAD /livez HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n", 200),
        (b"HEAD /none HTTP/1.1\r\nHost: h\r\n", 404),
        (b"HEAD /v1/completions HTTP/1.1\r\nHost: h\r\n", 405),
        (b"HEAD /livez HTTP/1.0\r\n", 200),
    ],
)
def test_an_answer_to_head_ends_with_its_head(impatient: RunningService, request_line: bytes, status: int) -> None:
    answer = talk(impatient.url, request_line + b"Connection: close\r\n\r\nabc")

    assert statuses(answer) == [status]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b""
    assert int(dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])[b"content-length"]) > 0


def test_trailers_are_no_headers(impatient: RunningService) -> None:
    trailers = b"X-Request-Id: from-a-trailer\r\nHost: other\r\nUpgrade: h2c\r\n"
    chunked = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"

    answer = talk(impatient.url, chunked + trailers + b"\r\n" + GET + b"Connection: close\r\n\r\n")

    assert statuses(answer) == [400, 200]
    assert b"from-a-trailer" not in answer


@pytest.mark.parametrize(
    "endless", [b"0\r\nX: ", b"0\r\n" + b"X: y\r\n" * 9, b"1;a="], ids=["one", "many", "extension"]
)
def test_trailers_and_chunk_extensions_have_the_limit_of_a_head(impatient: RunningService, endless: bytes) -> None:
    peer = ApiConnection(impatient.url)
    peer.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + endless)
    for _ in range(6):
        peer.send(b"a" * 8000 if not endless.endswith(b"\n") else b"X: y\r\n" * 1400)
        time.sleep(0.02)

    assert_refused(peer.read(), 431, "head_too_large")


@pytest.mark.parametrize(
    "part", [b"1\r\n{\r\n", b"1;" + b"a" * 3000 + b"\r\n{\r\n"], ids=["tiny chunks", "extensions between content"]
)
def test_content_between_them_does_not_make_room_for_more_framing(impatient: RunningService, part: bytes) -> None:
    peer = ApiConnection(impatient.url)
    peer.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(40):
        peer.send(part * (6000 // len(part)))
        time.sleep(0.005)

    assert_refused(peer.read(), 431, "head_too_large")


def test_trailers_and_the_head_have_one_limit(impatient: RunningService) -> None:
    peer = ApiConnection(impatient.url)
    peer.send(POST + b"X: " + b"a" * 20_000 + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    time.sleep(0.05)
    peer.send(b"X: " + b"a" * 20_000 + b"\r\n")

    assert_refused(peer.read(), 431, "head_too_large")


def test_what_is_refused_before_it_has_a_route_is_counted_and_logged(impatient: RunningService) -> None:
    def counts() -> dict[str, float]:
        text = httpx.get(f"{impatient.url}/metrics").text
        found = re.findall(r'^hotplate_requests_total{model="",route="unmatched",status="(\d+)"} (\S+)$', text, re.M)
        return {status: float(count) for status, count in found}

    before = counts()
    for request in (b"junk\r\n\r\n", GET + b"X: " + b"a" * 40_000 + b"\r\n", GET):
        talk(impatient.url, request)
    talk(impatient.url)  # nothing came: there was no request

    after = counts()
    assert {status: after[status] - before.get(status, 0) for status in ("400", "431", "408")} == {
        "400": 1,
        "431": 1,
        "408": 1,
    }
    records = [record for record in impatient.records if record["message"].startswith("requests are refused")]
    assert records[0]["address"] == "127.0.0.1"


def test_a_body_that_is_refused_counts_as_what_its_caller_was_told(impatient: RunningService) -> None:
    series = r'hotplate_requests_total{model="[^"]*",route="/v1/models/{model}/classify",status="(408|431|499)"} (\S+)'

    def counts() -> dict[str, float]:
        return {
            status: float(count) for status, count in re.findall(series, httpx.get(f"{impatient.url}/metrics").text)
        }

    before = counts()
    assert statuses(talk(impatient.url, POST + b"Content-Length: 9\r\n\r\nabc")) == [408]

    until(lambda: counts().get("408", 0) == before.get("408", 0) + 1)
    assert counts().get("499", 0) == before.get("499", 0)


def test_an_answer_to_http_1_0_is_whole_without_chunks_and_ends_with_the_connection(
    impatient: RunningService, network: LinearClassifier
) -> None:
    body = json.dumps(as_json(network.images(8))).encode()
    head = POST.replace(b"octet-stream", b"json").replace(b"HTTP/1.1", b"HTTP/1.0")

    answer = talk(impatient.url, head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body), body)

    assert statuses(answer) == [200]  # and not 100, which HTTP/1.0 does not know
    assert b"\r\nconnection: close\r\n" in answer
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["results"]) == 8


@pytest.mark.parametrize(
    "header",
    [b"X: " + b"a" * 2**20 + b"\r\n", b"X: a\r\n" * 10_000, b"X: " + b"a" * 40_000 + b"\r\n"],
    ids=["one of 1 MiB", "10,000", "one of 40 kB"],
)
def test_a_head_over_the_limit_is_refused(impatient: RunningService, header: bytes) -> None:
    answer = talk(impatient.url, GET + header + b"\r\n")

    assert answer == b"" or statuses(answer) == [431]  # a reset may overtake the answer to a client that still sends
    peer = ApiConnection(impatient.url)
    for start in range(0, 40_000, 8000):
        peer.send((GET + header + b"\r\n")[start : start + 8000])
        time.sleep(0.01)
    assert_refused(peer.read(), 431, "head_too_large")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v2/models/tiny HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"POST /v2/models/tiny/infer?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nabcde", 400),
        (b"GET /v2/models HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 400),
        (b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nabc", 408),
        (b"GET /v2/health/live HTTP/1.1\r\n", 408),
    ],
    ids=["no host", "odd host", "odd length", "large head", "slow body", "slow head"],
)
def test_callers_of_the_open_inference_protocol_are_refused_in_its_form(
    impatient: RunningService, request_bytes: bytes, status: int
) -> None:
    head, _, body = talk(impatient.url, request_bytes).partition(b"\r\n\r\n")

    assert statuses(head) == [status]
    assert b"\r\ncontent-type: application/json\r\n" in head
    assert b"\r\nx-request-id: " in head
    (message,) = json.loads(body).values()
    assert list(json.loads(body)) == ["error"]
    assert message.endswith(".")


def test_a_long_target_is_refused(impatient: RunningService) -> None:
    assert_refused(
        talk(impatient.url, b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"), 431, "head_too_large"
    )


def assert_closed_in_time(peer: ApiConnection, started_at: float, seconds: float) -> None:
    assert_refused(peer.read(), 408, "request_timeout")
    waited = time.monotonic() - started_at
    assert seconds * 0.9 < waited < seconds + 1.5


@pytest.mark.parametrize("begun", [b"", b"GET /livez HT", GET, POST + b"Content-Length: 30\r\n\r\nabc", b"\r\n\r\n"])
def test_an_unfinished_request_is_closed_in_time(impatient: RunningService, begun: bytes) -> None:
    started_at = time.monotonic()
    peer = ApiConnection(impatient.url)
    peer.send(begun)

    assert_closed_in_time(peer, started_at, HEAD_SECONDS)


@pytest.mark.parametrize("begun", [GET + b"X: ", POST + b"Content-Length: 300000\r\n\r\n"], ids=["head", "body"])
def test_a_drip_does_not_extend_the_time(impatient: RunningService, begun: bytes) -> None:
    started_at = time.monotonic()
    peer = ApiConnection(impatient.url)
    peer.send(begun)
    for _ in range(6):
        time.sleep(HEAD_SECONDS / 5)
        peer.send(b"a")

    assert_closed_in_time(peer, started_at, HEAD_SECONDS)


def test_line_ends_do_not_keep_an_idle_connection(impatient: RunningService) -> None:
    peer = ApiConnection(impatient.url)
    peer.send(GET + b"\r\n")
    until(lambda: peer.socket.recv(65536, socket.MSG_PEEK))
    peer.send(b"\r\n")

    assert statuses(peer.read()) == [200, 408]


def test_an_unread_body_does_not_hold_the_connection(impatient: RunningService) -> None:
    started_at = time.monotonic()

    answer = talk(impatient.url, b"PUT /livez HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\nabc")

    assert statuses(answer) == [405]
    assert time.monotonic() - started_at < BODY_SECONDS + 1.5


def test_a_request_in_two_pieces_is_answered(impatient: RunningService) -> None:
    last = GET + b"Connection: close\r\n\r\n"

    assert statuses(talk(impatient.url, last[:20], last[20:])) == [200]


def test_pipelined_requests_are_answered_in_order(impatient: RunningService) -> None:
    paths = [b"/livez", b"/none", b"/v1/models", b"/livez", b"/v1/models/none"] * 400
    requests = [b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n" for path in paths]

    answer = talk(impatient.url, b"\r\n".join(requests) + b"Connection: close\r\n\r\n")

    assert statuses(answer) == [200, 404, 200, 200, 404] * 400


def test_garbage_behind_a_request_does_not_take_its_answer(
    impatient: RunningService, network: LinearClassifier
) -> None:
    rows = network.images(8)  # a whole batch: it is computed at once
    body = json.dumps(as_json(rows)).encode()
    head = POST.replace(b"octet-stream", b"json") + b"Content-Length: %d\r\n\r\n" % len(body)

    answer = talk(impatient.url, head + body + b"\xff\xff\xff\xff\r\n\r\n")

    assert statuses(answer) == [200]
    assert answer.count(b'"predictions"') == 8


def test_a_slow_next_head_does_not_take_the_answer_that_is_due(
    impatient: RunningService, network: LinearClassifier
) -> None:
    content = network.images(1).tobytes()  # one row: it waits for the window
    started_at = time.monotonic()

    answer = talk(impatient.url, POST + b"Content-Length: %d\r\n\r\n" % len(content) + content + GET)

    assert statuses(answer) in ([200], [200, 408])  # the next head may have its own time
    assert b'"predictions"' in answer
    assert time.monotonic() - started_at > WINDOW_SECONDS - 0.5


def test_slow_callers_do_not_delay_others(impatient: RunningService, network: LinearClassifier) -> None:
    slow = [ApiConnection(impatient.url) for _ in range(100)]
    for peer in slow:
        peer.send(GET)
    rows = network.images(8)
    with httpx.Client(base_url=impatient.url) as client:
        started_at = time.monotonic()
        for _ in range(10):
            assert_classified(client.post(CLASSIFY, json=as_json(rows)), network, rows)
        assert time.monotonic() - started_at < 2.0
    with ThreadPoolExecutor(20) as pool:
        assert all(statuses(answer) == [408] for answer in pool.map(ApiConnection.read, slow))


def cancelled(url: str) -> float:
    """The number of cancelled requests."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("hotplate_failures_total") and 'reason="cancelled"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.mark.parametrize("behind", [b"", GET + b"\r\n"], ids=["alone", "with another request behind it"])
def test_a_caller_that_leaves_the_queue_frees_its_row(
    impatient: RunningService, network: LinearClassifier, behind: bytes
) -> None:
    before = cancelled(impatient.url)
    content = network.images(1).tobytes()
    peers = [ApiConnection(impatient.url) for _ in range(3)]
    for peer in peers:
        peer.send(POST + b"Content-Length: %d\r\n\r\n" % len(content) + content + behind)
    until(lambda: 'hotplate_queue_depth{graph="model",model="tiny"' in httpx.get(f"{impatient.url}/metrics").text)
    time.sleep(0.2)  # well within the window
    for peer in peers:
        peer.close()

    until(lambda: cancelled(impatient.url) == before + 3, seconds=WINDOW_SECONDS)


def test_a_caller_that_leaves_amid_its_body_is_not_noticed_by_others(impatient: RunningService) -> None:
    peer = ApiConnection(impatient.url)
    peer.send(POST + b"Content-Length: 300000\r\n\r\nabc")
    time.sleep(0.1)
    peer.close()

    def counted() -> bool:
        return 'status="499"' in httpx.get(f"{impatient.url}/metrics").text

    until(counted, seconds=5)


def test_the_service_logged_no_error(impatient: RunningService) -> None:
    assert httpx.get(f"{impatient.url}/readyz").status_code == 200
    assert [record for record in impatient.records if record["level"] == "ERROR"] == []
