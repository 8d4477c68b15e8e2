"""What surrounds a body: heads, chunks, trailers. A limit that covers one phase of a protocol is none."""

from __future__ import annotations

import itertools
import json

from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require, require_status

CLASSIFY = "/v1/models/mnist/classify"
_CHUNKED = ("Content-Type: application/octet-stream", "Transfer-Encoding: chunked")
_ROW = bytes(28 * 28)
_ENOUGH_BYTES = 50 * 2**20


def _without_end(target: Target, beginning: bytes, piece: bytes, num_bytes: int = _ENOUGH_BYTES) -> str:
    """Send a beginning and then pieces for ever; the service must refuse or close before it has taken them all."""
    pieces = itertools.repeat(piece * (wire.PIECE_BYTES // len(piece)), num_bytes // wire.PIECE_BYTES)
    with target.connect() as connection:
        took_all = not connection.send(beginning) or connection.send_all(pieces)
        answer = connection.answer() if not took_all else wire.Answer(-1)
    require(not took_all, f"took {num_bytes >> 20} MiB of it")
    return require_status(answer, 0, 400, 401, 408, 413, 414, 431)


@attack("trailers without end", max_growth_mib=32)
def trailers_without_end(target: Target) -> str:
    """Trailers count towards the limit of the head."""
    return _without_end(target, wire.head(CLASSIFY, *_CHUNKED) + b"1\r\nx\r\n0\r\n", b"a:\r\n")


@attack("trailers without end, without a key", stage="keyed", max_growth_mib=32)
def trailers_without_a_key(target: Target) -> str:
    """The same before authentication."""
    return _without_end(target, wire.head(CLASSIFY, *_CHUNKED) + b"0\r\n", b"a:\r\n")


@attack("one trailer without end", max_growth_mib=32)
def one_trailer_without_end(target: Target) -> str:
    """A single trailer is limited as many are."""
    return _without_end(target, wire.head(CLASSIFY, *_CHUNKED) + b"1\r\nx\r\n0\r\na: ", b"a" * 64)


@attack("a head without end", max_growth_mib=32)
def head_without_end(target: Target) -> str:
    """A head is refused at its limit, not at its end."""
    return _without_end(target, f"GET / HTTP/1.1\r\nHost: {wire.HOST}\r\na: ".encode(), b"a" * 64)


@attack("a path without end", max_growth_mib=32)
def path_without_end(target: Target) -> str:
    """The request line is a part of the head."""
    return _without_end(target, b"GET /", b"a" * 64)


@attack("many headers without end", max_growth_mib=32)
def headers_without_end(target: Target) -> str:
    """Empty headers count by their bytes."""
    return _without_end(target, f"GET / HTTP/1.1\r\nHost: {wire.HOST}\r\n".encode(), b"a:\r\n")


@attack("a chunk's extensions without end", max_growth_mib=32)
def chunk_extensions_without_end(target: Target) -> str:
    """What stands behind the length of a chunk is nobody's, and still limited."""
    return _without_end(target, wire.head(CLASSIFY, *_CHUNKED) + b"1;", b"a" * 64)


@attack("zeros before a chunk's length without end", max_growth_mib=32)
def chunk_zeros_without_end(target: Target) -> str:
    """A length may have many digits."""
    return _without_end(target, wire.head(CLASSIFY, *_CHUNKED), b"0" * 64)


@attack("a million chunks of one byte", max_growth_mib=48, max_cpu_seconds=8, is_slow=True)
def tiny_chunks(target: Target) -> str:
    """Chunks cost by their number too."""
    with target.connect() as connection:
        connection.send(wire.head(CLASSIFY, *_CHUNKED) + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n")
        return require_status(connection.answer(), 0, 400, 413, 415, 422, 431)


@attack("a key in a trailer", stage="keyed")
def key_in_a_trailer(target: Target) -> str:
    """Nothing of a trailer reaches the headers: there is no key."""
    key = target.authorization("alice")["Authorization"]
    with target.connect() as connection:
        trailer = f"0\r\nAuthorization: {key}\r\n\r\n"
        connection.send(wire.head(CLASSIFY, *_CHUNKED) + b"310\r\n" + _ROW + b"\r\n" + trailer.encode())
        return require_status(connection.answer(), 400, 401)


@attack("an id in a trailer")
def id_in_a_trailer(target: Target) -> str:
    """Nothing of a trailer reaches the headers: the id is the service's own."""
    with target.connect() as connection:
        trailer = b"0\r\nX-Request-Id: of-the-trailer\r\nHost: other.example\r\n\r\n"
        connection.send(wire.head(CLASSIFY, *_CHUNKED) + b"310\r\n" + _ROW + b"\r\n" + trailer)
        answer = connection.answer()
    require(answer.headers.get("x-request-id") != "of-the-trailer", "took the id of a trailer")
    return require_status(answer, 200, 400)


@attack("two requests in one", max_growth_mib=16)
def smuggled(target: Target) -> str:
    """A length and chunks, or two lengths: what proxies could read in two ways is refused."""
    lengths = ("Content-Length: 5", "Transfer-Encoding: chunked")
    bodies = (b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",) * 2
    heads = (wire.head(CLASSIFY, *lengths), wire.head(CLASSIFY, "Content-Length: 5", "Content-Length: 6"))
    for beginning, body in zip(heads, bodies, strict=True):
        with target.connect() as connection:
            connection.send(beginning + body)
            require_status(connection.answer(), 400)
            require(connection.is_closed(2), "went on after an ambiguous request")
    return "400"


@attack("half a million requests at once, unread", max_growth_mib=48, max_cpu_seconds=20, is_slow=True)
def pipelined_unread(target: Target) -> str:
    """Who does not read answers gets no further ones."""
    request = wire.head("/v1/models", method="GET")
    with target.connect(timeout_seconds=2) as connection:
        require(not connection.send(request * 500_000), "took every request of a caller who reads nothing")
    return "not read on"


@attack("names that are no header's", max_growth_mib=16)
def odd_headers(target: Target) -> str:
    """A body with headers that nobody expects is answered all the same."""
    body = json.dumps({"images": []}).encode()
    odd = {"X-Request-Timeout": "nan", "Priority": "u=9", "X-Request-Id": "a" * 5000, **wire.JSON}
    return require_status(target.ask("POST", CLASSIFY, body, headers=odd), 400, 422)
