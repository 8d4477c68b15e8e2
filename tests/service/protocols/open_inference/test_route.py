"""Content codings: bombs, damage and odd headers; and both directions against the running service."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import random
import time
import zlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedRequest, PayloadTooLarge, UnsupportedMedia
from service.protocols.open_inference import route as codings
from tests.fake_models.classification import LinearClassifier
from tests.service.protocols.open_inference.calls import (
    INFER,
    LENGTH,
    as_binary,
    as_input,
    assert_error,
    assert_outputs,
)

LIMIT = 10_000


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "deflate"]))
def test_a_body_comes_back_as_it_was(content: bytes, coding: str) -> None:
    assert codings.inflate(codings.deflate(content, coding), coding, LIMIT) == content


def test_the_forms_that_senders_use_are_read() -> None:
    bare = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw = bare.compress(b"some text") + bare.flush()

    assert codings.inflate(gzip.compress(b"some text"), "gzip", LIMIT) == b"some text"
    assert codings.inflate(gzip.compress(b"some text"), "x-gzip", LIMIT) == b"some text"
    assert codings.inflate(zlib.compress(b"some text"), "deflate", LIMIT) == b"some text"
    assert codings.inflate(raw, "deflate", LIMIT) == b"some text"


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=9))
def test_members_of_gzip_are_one_body(parts: list[bytes]) -> None:
    body = b"".join(gzip.compress(part, mtime=0) for part in parts)

    assert codings.inflate(body, "gzip", 20_000) == b"".join(parts)


@pytest.mark.parametrize("ends", ["empty", "with a name", "large"])
def test_members_of_gzip_may_be_of_any_kind(ends: str) -> None:
    file = io.BytesIO()
    with gzip.GzipFile("a file's name", "wb", fileobj=file) as member:
        member.write(b"named")
    noise = random.Random(1).randbytes(3_000_000)
    first = {"empty": gzip.compress(b""), "with a name": file.getvalue(), "large": gzip.compress(noise)}[ends]

    content = codings.inflate(first + gzip.compress(b"last"), "gzip", 4_000_000)

    assert content == {"empty": b"", "with a name": b"named", "large": noise}[ends] + b"last"


def test_the_time_for_many_members_is_linear() -> None:
    began = time.process_time()

    assert codings.inflate(gzip.compress(b"", mtime=0) * 100_000, "gzip", LIMIT) == b""

    assert time.process_time() - began < 10  # it takes a quarter of a second; square, it would take minutes


def test_the_limit_is_that_of_all_members_together() -> None:
    half = gzip.compress(bytes(LIMIT // 2))

    assert codings.inflate(half * 2 + gzip.compress(b""), "gzip", LIMIT) == bytes(LIMIT)
    for more in (gzip.compress(b"1"), gzip.compress(bytes(50_000_000))):
        with pytest.raises(PayloadTooLarge, match="10000"):
            codings.inflate(half * 2 + more, "gzip", LIMIT)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_not_inflated_to_its_end(coding: str) -> None:
    bomb = codings.deflate(bytes(50_000_000), coding)
    assert len(bomb) < 300_000

    assert codings.inflate(codings.deflate(bytes(LIMIT), coding), coding, LIMIT) == bytes(LIMIT)
    for size in (bytes(LIMIT + 1), None):
        with pytest.raises(PayloadTooLarge, match="10000"):
            codings.inflate(bomb if size is None else codings.deflate(size, coding), coding, LIMIT)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_inflated_or_refused(body: bytes, coding: str) -> None:
    with contextlib.suppress(MalformedRequest, PayloadTooLarge):
        assert len(codings.inflate(body, coding, LIMIT)) <= LIMIT


WHOLE = gzip.compress(b"some text")
DAMAGED = {
    "cut": WHOLE[:-3],
    "trailing": WHOLE + b"more",
    "trailing zeros": WHOLE + bytes(512),
    "trailing byte": WHOLE + b"\x1f",
    "second cut": WHOLE + WHOLE[:-3],
    "second cut in its head": WHOLE + WHOLE[:5],
    "second with another sum": WHOLE + WHOLE[:-8] + bytes(4) + WHOLE[-4:],
    "between": WHOLE + b"more" + WHOLE,
    "of another coding": WHOLE + zlib.compress(b"some text"),
    "empty": b"",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_body_is_refused(damage: str) -> None:
    with pytest.raises(MalformedRequest, match="gzip"):
        codings.inflate(DAMAGED[damage], "gzip", LIMIT)


def test_deflate_is_one_stream() -> None:
    with pytest.raises(MalformedRequest, match="deflate"):
        codings.inflate(zlib.compress(b"some text") * 2, "deflate", LIMIT)


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "zstd"])
def test_other_codings_are_refused(coding: str) -> None:
    with pytest.raises(UnsupportedMedia, match="gzip, deflate"):
        asyncio.run(codings.decoded(b"", [(b"content-encoding", coding.encode())], LIMIT))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("num_rows", [1, 400])
def test_bodies_are_coded_in_both_directions(
    client: httpx.Client, network: LinearClassifier, coding: str, num_rows: int
) -> None:
    images = network.images(num_rows)
    request = as_binary(images, parameters={"binary_data_output": True})
    headers = {LENGTH: request.headers[LENGTH], "content-encoding": coding, "accept-encoding": coding}

    response = client.post(INFER, content=codings.deflate(request.content, coding), headers=headers)

    assert response.headers.get("content-encoding") == (coding if num_rows > 1 else None)
    assert_outputs(response, dict(network.outputs(images)))  # httpx has undone the coding


def test_json_is_coded_too_and_nothing_unasked(client: httpx.Client, network: LinearClassifier) -> None:
    images = network.images(64)
    content = json.dumps({"inputs": [as_input(images)]}).encode()

    coded = client.post(INFER, content=gzip.compress(content), headers={"content-encoding": "gzip"})
    plain = client.post(INFER, content=content, headers={"accept-encoding": "identity"})

    assert coded.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert coded.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert coded.json() == plain.json()


def test_the_service_refuses_what_it_cannot_inflate(client: httpx.Client) -> None:
    bomb = zlib.compress(bytes(64 * 2**20))

    assert_error(client.post(INFER, content=b"{}", headers={"content-encoding": "br"}), 415, "'br'")
    assert_error(client.post(INFER, content=b"{}", headers={"content-encoding": "gzip"}), 400, "gzip")
    assert_error(client.post(INFER, content=bomb, headers={"content-encoding": "deflate"}), 400, "Content-Encoding")
