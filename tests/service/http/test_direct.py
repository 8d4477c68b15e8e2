"""Which heads are known: a request that is answered without a parse must be the one that a parse would have found."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.direct import MAX_HEADS, DirectHeads
from service.http.gate import Gate
from service.http.routing import Document, Route
from service.settings import Settings

PATH = "/v1/models/m/classify"
MAX_BODY_BYTES = 1000


async def handler(*_: object) -> None:
    raise AssertionError("no head answers by itself")


DOCUMENT = Document(summary="", description="", request={}, responses={})
ROUTE = Route("POST", "/v1/models/{model}/classify", handler, DOCUMENT, access="infer")


def head(*headers: bytes, target: bytes = PATH.encode(), version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"POST %b HTTP/%b" % (target, version), b"Host: h", *headers, b"", b""])


def scope_of(data: bytes) -> dict[str, Any]:
    """What uvicorn makes of a head."""
    first, *lines = data[:-4].split(b"\r\n")
    method, target, version = first.split(b" ")
    path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "method": method.decode(),
        "http_version": version[5:].decode(),
        "path": path.decode(),
        "raw_path": path,
        "query_string": query,
        "headers": [(n.lower(), v.strip()) for n, _, v in (line.partition(b":") for line in lines)],
    }


def heads() -> DirectHeads:
    def find(scope: Any) -> tuple[Route, dict[str, str]] | None:
        return (ROUTE, {"model": "m"}) if scope["path"] == PATH else None

    return DirectHeads(find, Gate(Settings(allowed_hosts=("h",)), None, find).need_of, MAX_BODY_BYTES)


def learned(data: bytes) -> DirectHeads:
    known = heads()
    known.learn(data, scope_of(data))
    return known


def test_a_head_is_known_whatever_its_length_and_id() -> None:
    known = learned(head(b"X-Request-Id: a", b"Content-Length: 5"))

    other = head(b"X-Request-Id: b-2", b"Content-Length: 17")
    found = known.find(other + b"what follows", len(other))

    assert found is not None
    assert (found.num_bytes, found.request_id, found.head.route) == (17, "b-2", ROUTE.path)
    assert found.head.scope["headers"] == [(b"host", b"h")]


@pytest.mark.parametrize(
    "other",
    [
        head(b"Content-Length: 5", b"Content-Length: 5"),
        head(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        head(b"Content-Length: +5"),
        head(b"Content-Length: 5 "),
        head(b"Content-Length: 5, 5"),
        head(b"Content-Length: " + b"9" * 40),
        head(b"Content-Length: %d" % (MAX_BODY_BYTES + 1)),
        head(b"Content-Length:"),
        head(b"Content-Length : 5"),
        head(b"Content-Length: 5", target=PATH.encode() + b"?explain=true"),
        head(b"Content-Length: 5", version=b"1.0"),
        head(b"Content-Length: 5", b"Content-Encoding: gzip"),
        head(b"Content-Length: 5", b" folded"),
        b"\r\n" + head(b"Content-Length: 5"),
        head(),
    ],
)
def test_any_other_head_is_not(other: bytes) -> None:
    assert learned(head(b"Content-Length: 5")).find(other, len(other)) is None


@pytest.mark.parametrize(
    "data",
    [
        head(),
        head(b"Content-Length: 5", target=b"/livez"),
        head(b"Content-Length: 5", version=b"1.0"),
        head(b"Content-Length: 5", b"Connection: close"),
        head(b"Content-Length: 5", b"Expect: 100-continue"),
        head(b"Content-Length: 5", b"Content-Encoding: gzip"),
        head(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        head(b"Content-Length: 5", b"Upgrade: h2c"),
        head(b"Content-Length: 5", b"Content-Type: multipart/form-data; boundary=b"),
        head(b"Content-Length: 5", b"Content-Length: 5"),
        head(b"Content-Length: 5", b"X-Long: " + b"x" * 5000),
    ],
)
def test_a_head_that_asks_for_more_is_left_to_the_parser(data: bytes) -> None:
    assert learned(data).find(data, len(data)) is None


def test_bytes_that_are_not_the_parsed_head_are_not_kept() -> None:
    """The parser skips empty lines before a head; then what came is not what it found."""
    known, data = heads(), head(b"Content-Length: 5")

    known.learn(b"\r\n\r\n", scope_of(data))
    known.learn(data, scope_of(head(b"Content-Length: 5", b"X-Api-Key: k")))

    assert known.find(b"\r\n\r\n" + data, 4) is None
    assert known.find(data, len(data)) is None


def test_the_heads_are_bounded() -> None:
    known = heads()

    for number in range(3 * MAX_HEADS):
        data = head(b"X-Number: %d" % number, b"Content-Length: 5")
        known.learn(data, scope_of(data))
        assert known.find(data, len(data)) is not None

    assert len(known._heads) <= MAX_HEADS


NAMES = st.sampled_from(
    [b"Content-Length", b"content-length", b"X-Request-Id", b"traceparent", b"X-Api-Key", b"Accept"]
)
VALUES = st.sampled_from([b"5", b"17", b"a", b"", b"x y", b"5,5"])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=4)


@given(HEADERS, HEADERS)
def test_what_is_found_has_all_the_headers_that_matter(first: list[Any], second: list[Any]) -> None:
    one, other = (head(*(b"%b: %b" % pair for pair in pairs)) for pairs in (first, second))

    found = learned(one).find(other, len(other))

    if found is not None:
        expected = [(name.lower(), value) for name, value in second]
        lengths = [value for name, value in expected if name == b"content-length"]
        assert lengths == [b"%d" % found.num_bytes]
        kept = [pair for pair in expected if pair[0] in (b"x-api-key", b"accept")]
        assert [pair for pair in found.head.scope["headers"] if pair[0] != b"host"] == kept


def test_a_hostile_head_costs_no_more_than_its_length() -> None:
    known = learned(head(b"Content-Length: 5"))

    def seconds(num_bytes: int) -> float:
        data = b"POST / HTTP/1.1\r\nContent-Length:" + b" " * num_bytes + b"\x00\r\n\r\n"
        started = time.perf_counter()
        for _ in range(20):
            assert known.find(data, len(data)) is None
        return time.perf_counter() - started

    assert min(seconds(4000) for _ in range(3)) < 20 * min(seconds(500) for _ in range(3)) + 0.01
