"""Every error that a caller can provoke, as RFC 9457 problem details of the real service."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.fake_models.classification import LinearClassifier
from tests.models.samples import png_chunk, png_header
from tests.service.http.calls import CLASSIFY, EMBED, RAW, as_files, as_json, assert_problem, encoded

PNG = {"content-type": "image/png"}


@pytest.mark.parametrize("path", [CLASSIFY, EMBED])
@pytest.mark.parametrize("media_type", ["text/plain", "image/gif", "x" * 9000])
def test_another_media_type_is_refused(client: httpx.Client, path: str, media_type: str) -> None:
    problem = assert_problem(
        client.post(path, content=b"GIF89a", headers={"content-type": media_type}),
        415,
        "unsupported_media_type",
        media_type[:80],
        "image/png",
    )
    assert len(problem["detail"]) < 400


def test_a_body_without_a_media_type_that_is_not_an_image_is_refused(client: httpx.Client) -> None:
    assert_problem(client.post(CLASSIFY, content=b"top_k=3"), 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP"])
def test_another_image_format_is_refused_whatever_its_media_type(
    client: httpx.Client, network: LinearClassifier, kind: str
) -> None:
    body = encoded(network.images(1)[0], kind)

    assert_problem(client.post(CLASSIFY, content=body, headers=PNG), 415, "unsupported_media_type", body[:4].hex(" "))


@pytest.mark.parametrize("coding", ["gzip", "gzip, identity"])
def test_a_body_with_a_content_coding_is_refused(client: httpx.Client, coding: str) -> None:
    response = client.post(CLASSIFY, content=b"\x1f\x8b", headers=PNG | {"content-encoding": coding})

    assert_problem(response, 415, "unsupported_media_type", "Content-Encoding")


def test_the_identity_coding_is_accepted(client: httpx.Client, network: LinearClassifier) -> None:
    headers = RAW | {"content-encoding": "Identity"}

    assert client.post(CLASSIFY, content=network.images(1).tobytes(), headers=headers).status_code == 200


def test_a_body_over_the_limit_is_refused_by_its_length(client: httpx.Client) -> None:
    response = client.post(CLASSIFY, content=bytes(32 * 2**20 + 1), headers=PNG)

    assert_problem(response, 413, "payload_too_large", str(32 * 2**20 + 1), str(32 * 2**20))


def test_a_body_at_the_limit_is_read(client: httpx.Client) -> None:
    response = client.post(CLASSIFY, content=bytes(32 * 2**20), headers=RAW)

    assert_problem(response, 422, "invalid_parameter", str(32 * 2**20), "6x5x1")


def test_a_chunked_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [bytes(2**20)] * 33

    response = client.post(CLASSIFY, content=chunks(), headers=PNG)

    assert_problem(response, 413, "payload_too_large", str(32 * 2**20))


def test_a_chunked_body_within_the_limit_is_read(client: httpx.Client, network: LinearClassifier) -> None:
    content = network.images(1).tobytes()

    response = client.post(CLASSIFY, content=iter([content[:7], content[7:]]), headers=RAW)

    assert response.status_code == 200


def test_an_image_of_too_many_pixels_is_refused_by_its_header(client: httpx.Client) -> None:
    body = png_header(30_000, 30_000) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b"")

    assert_problem(client.post(CLASSIFY, content=body), 413, "payload_too_large", "30000x30000", "25000000")


def test_too_many_images_are_refused(client: httpx.Client, network: LinearClassifier) -> None:
    rows = network.images(65)

    assert_problem(client.post(CLASSIFY, json=as_json(rows)), 413, "payload_too_large", "65", "64")
    assert_problem(client.post(CLASSIFY, files=as_files(rows)), 413, "payload_too_large", "64")
    assert client.post(CLASSIFY, files=as_files(rows[:64])).status_code == 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_is_refused_without_the_decoders_words(client: httpx.Client, kind: str) -> None:
    body = encoded(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), kind)

    for size in range(len(body) // 8, len(body), max(1, len(body) // 8)):
        response = client.post("/v1/models/photo/classify", content=body[:size], headers=PNG)
        problem = assert_problem(response, 422, "undecodable_image")
        assert not any(word in problem["detail"] for word in ("0x", "BytesIO", "PIL", "Traceback", "Error"))


def test_an_empty_image_is_refused(client: httpx.Client) -> None:
    assert_problem(client.post(CLASSIFY, content=b"", headers=PNG), 422, "invalid_parameter", "empty")
    assert_problem(client.post(CLASSIFY, content=b"", headers=RAW), 422, "invalid_parameter", "0 bytes", "30")
    assert_problem(client.post(CLASSIFY, json={"images": [""]}), 422, "undecodable_image", "empty")
    assert_problem(client.post(CLASSIFY, json={"images": []}), 422, "invalid_parameter", "at least one")


@pytest.mark.parametrize("action", ["/classify", "/embed", ""])
def test_an_unknown_model_is_answered_with_the_known_ones(client: httpx.Client, action: str) -> None:
    path = f"/v1/models/huge{action}"

    response = client.post(path, content=b"") if action else client.get(path)

    assert_problem(response, 404, "unknown_model", "'huge'", "photo, tiny, tiny-dark")


@pytest.mark.parametrize("version", ["9", "", "1@1", "latest"])
def test_an_unknown_version_is_answered_with_the_known_ones(client: httpx.Client, version: str) -> None:
    assert_problem(client.post(f"/v1/models/photo@{version}/classify"), 404, "unknown_model", f"'{version}'", "has: 2")
    assert_problem(client.get(f"/v1/models/photo@{version}"), 404, "unknown_model", f"'{version}'", "has: 2")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CLASSIFY, "POST"),
        ("PUT", EMBED, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/tiny", "GET, HEAD"),
        ("PATCH", "/readyz", "GET, HEAD"),
        ("OPTIONS", "/livez", "GET, HEAD"),
        ("TRACE", "/metrics", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_answered_with_the_allowed_ones(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)

    assert_problem(response, 405, "method_not_allowed", method, path, allowed)
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1", "/v1/models/", "/v1/models/a/b", "/v1/models/..%2ftiny", "/livez/", "//livez", "/LIVEZ"]
)
def test_there_is_no_such_route(client: httpx.Client, path: str) -> None:
    # Whole addresses: merged into the base address, "//livez" would be taken for a host.
    assert_problem(client.get(f"{client.base_url}".rstrip("/") + path), 404, "not_found", "/docs")


@pytest.mark.parametrize("value", ["0", "5", "abc", "", "9" * 5000])
def test_top_k_out_of_range_is_refused(client: httpx.Client, network: LinearClassifier, value: str) -> None:
    response = client.post(f"{CLASSIFY}?top_k={value}", content=network.images(1).tobytes(), headers=RAW)

    assert_problem(response, 422, "invalid_parameter", "top_k", "from 1 to 4")


@pytest.mark.parametrize(
    ("query", "quoted"),
    [
        ("explain=maybe", "explain is 'maybe'"),
        ("invert=2", "invert is '2'"),
        ("topk=3", "'topk'"),
        ("top_k=1&top_k=2", "'top_k'"),
        ("top_k=%ff", "UTF-8"),
        ("%ed%a0%80=1", "UTF-8"),
        ("&".join(f"a{n}=1" for n in range(33)), "at most 32"),
    ],
)
def test_a_bad_query_is_refused(client: httpx.Client, network: LinearClassifier, query: str, quoted: str) -> None:
    response = client.post(f"{CLASSIFY}?{query}", content=network.images(1).tobytes(), headers=RAW)

    assert_problem(response, 422, "invalid_parameter", quoted)


def test_embed_takes_no_top_k(client: httpx.Client, network: LinearClassifier) -> None:
    response = client.post(f"{EMBED}?top_k=1", content=network.images(1).tobytes(), headers=RAW)

    assert_problem(response, 422, "invalid_parameter", "'top_k'", "invert")


def test_a_parameter_in_query_and_body_is_given_twice(client: httpx.Client, network: LinearClassifier) -> None:
    response = client.post(f"{CLASSIFY}?top_k=1", json=as_json(network.images(1), top_k=2))

    assert_problem(response, 422, "invalid_parameter", "'top_k'", "twice")
