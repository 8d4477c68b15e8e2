"""Hostile bodies, paths and queries on every route: always a 4xx with a message of the service, which stays healthy."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService
from tests.service.http.calls import CLASSIFY, EMBED, OPENAI_ROUTES, as_json, assert_healthy, assert_problem

JSON = {"content-type": "application/json"}
DEEP = 250_000
BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "NaN": b'{"images": NaN}',
    "bare NaN": b"NaN",
    "Infinity": b'{"images": [], "top_k": Infinity}',
    "-Infinity": b'{"images": [], "top_k": -Infinity}',
    "1e999": b'{"images": [], "top_k": 1e999}',
    "surrogate": rb'{"images": ["\ud800"]}',
    "surrogate in a key": rb'{"\ud800": 1}',
    "surrogate pair reversed": rb'{"images": ["\udc00\ud800"]}',
    "surrogate bytes": b'{"images": ["\xed\xa0\x80"]}',
    "deep arrays": b"[" * DEEP,
    "deep closed arrays": b'{"images": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"images":' * DEEP,
    "deep closed objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "BOM": b'\xef\xbb\xbf{"images": []}',
    "UTF-16": '{"images": []}'.encode("utf-16"),
    "UTF-32": '{"images": []}'.encode("utf-32"),
    "duplicate keys": b'{"images": ["aGk="], "images": ["aGk="]}',
    "escaped duplicate": rb'{"images": ["aGk="], "\u0069mages": ["aGk="]}',
    "5000-digit integer": b'{"images": [], "top_k": ' + b"9" * 5000 + b"}",
    "5000-digit float": b'{"images": [], "top_k": ' + b"9" * 5000 + b".5}",
    "null": b"null",
    "number": b"1",
    "string": b'"images"',
    "array": b"[]",
    "no images": b"{}",
    "images null": b'{"images": null}',
    "images text": b'{"images": "aGk="}',
    "images numbers": b'{"images": [1, 2]}',
    "images object": b'{"images": {"0": "aGk="}}',
    "top_k text": b'{"images": [], "top_k": "3"}',
    "top_k true": b'{"images": [], "top_k": true}',
    "explain number": b'{"images": [], "explain": 1}',
    "invert list": b'{"images": [], "invert": []}',
    "unknown member": b'{"images": [], "__class__": 1}',
    "no base64": b'{"images": ["???"]}',
    "odd base64": b'{"images": ["aGk"]}',
    "base64 of nothing": b'{"images": [""]}',
    "base64 of no image": b'{"images": ["aGVsbG8="]}',
    "NUL": b'{"images": ["\\u0000"]}',
    "raw NUL": b"\0",
    "64 KiB string": b'{"images": ["' + b"A" * 65536 + b'"]}',
    "64 KiB key": b'{"' + b"k" * 65536 + b'": 1}',
    "64 KiB invert": b'{"images": ["aGk="], "invert": "' + b"i" * 65536 + b'"}',
    "truncated": b'{"images": ["aGk=',
    "trailing": b'{"images": ["aGk="]} {}',
}
TEXT_ROUTES = ("generate", "next-token", "tokenize", "detokenize", "score", "attention")
LATENT_ROUTES = ("decode", "interpolate", "arithmetic")
PATHS = [
    "%ed%a0%80",
    "%ff",
    "%00",
    "%0d%0aX-Evil:1",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "a" * 20_000,
    "%F0%9F%94%A5",
    "@",
]
LEAKS = ("Traceback", "0x", "BytesIO", "msgspec", "pydantic", "Expected `", 'File "', "/service/", "Error")


def live_routes(client: httpx.Client) -> list[tuple[str, str]]:
    """The method and path of every route in the OpenAPI document outside /v2, with names filled in."""
    paths: dict[str, dict[str, Any]] = client.get("/openapi.json").json()["paths"]
    own = {path: methods for path, methods in paths.items() if not path.startswith("/v2")}
    return [(m.upper(), path.replace("{model}", "tiny")) for path, methods in own.items() for m in methods]


def assert_refused(response: httpx.Response) -> None:
    assert 400 <= response.status_code < 500, (response.status_code, response.text[:300])
    assert not any(leak in response.text for leak in LEAKS), response.text[:300]
    assert_problem(response, response.status_code, response.json()["code"])


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused_by_every_route_that_reads_one(
    client: httpx.Client, network: LinearClassifier, name: str
) -> None:
    for path in (CLASSIFY, EMBED):
        assert_refused(client.post(path, content=BODIES[name], headers=JSON))
    assert_healthy(client, network)


# An empty object is valid: a text without a prompt.
@pytest.mark.parametrize("name", sorted(set(BODIES) - {"no images"}))
def test_a_hostile_body_is_refused_by_every_route_of_language_models(
    text_generation_client: httpx.Client, name: str
) -> None:
    for verb in TEXT_ROUTES:
        assert_refused(
            text_generation_client.post(f"/v1/models/tiny-transformer/{verb}", content=BODIES[name], headers=JSON)
        )
    for path in OPENAI_ROUTES:
        refused = text_generation_client.post(path, content=BODIES[name], headers=JSON)
        assert 400 <= refused.status_code < 500, (path, refused.status_code, refused.text[:300])
        assert refused.json()["error"]["message"]
        assert not any(leak in refused.text for leak in LEAKS), refused.text[:300]
    answer = text_generation_client.post("/v1/models/tiny-transformer/generate", json={"prompt": "a", "max_tokens": 2})
    assert answer.status_code == 200, answer.text


# No body or an empty object is valid: one random image.
@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused_by_every_route_of_image_generators(
    image_generation_client: httpx.Client, name: str
) -> None:
    for verb in LATENT_ROUTES if name in ("empty", "no images") else ("generate", *LATENT_ROUTES):
        for model in ("tiny-vae", "tiny-gan"):
            assert_refused(
                image_generation_client.post(f"/v1/models/{model}/{verb}", content=BODIES[name], headers=JSON)
            )
    assert image_generation_client.get("/v1/models/tiny-gan/generate", params={"seed": 1}).status_code == 200


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_changes_nothing_where_none_is_read(client: httpx.Client, name: str) -> None:
    for method, path in live_routes(client):
        if method == "GET":
            response = client.request(method, path, content=BODIES[name], headers=JSON)
            fits = 422 if path.endswith(("/styles", "/generate")) else 200  # a classifier has none and draws none
            assert response.status_code == fits, (path, response.text)
        refused = client.request("PUT", path, content=BODIES[name], headers=JSON)
        if path in OPENAI_ROUTES:
            assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
        else:
            assert_problem(refused, 405, "method_not_allowed")


@pytest.mark.parametrize("name", PATHS, ids=ascii)
def test_a_hostile_model_name_is_refused_by_every_route_that_takes_one(
    client: httpx.Client, network: LinearClassifier, name: str
) -> None:
    for method, path in live_routes(client):
        if "tiny" in path:
            response = client.request(method, path.replace("tiny", name))
            assert_problem(response, 404, response.json()["code"])
            assert "X-Evil" not in response.headers
    assert_healthy(client, network)


@pytest.mark.parametrize(
    "query", ["top_k=%ed%a0%80", "%ff=1", "top_k=%00", "explain=%F0%9F%94%A5", "a" * 20_000 + "=1"]
)
def test_a_hostile_query_is_refused(client: httpx.Client, network: LinearClassifier, query: str) -> None:
    for path in (CLASSIFY, EMBED):
        assert_problem(client.post(f"{path}?{query}", json=as_json(network.images(1))), 422, "invalid_parameter")


def test_the_path_of_an_invalid_value_is_named_without_the_decoders_words(client: httpx.Client) -> None:
    response = client.post(CLASSIFY, content=b'{"images": ["aGk=", 7]}', headers=JSON)

    assert_problem(response, 422, "invalid_parameter", "at $.images[1];", "a list of base64 strings")


def test_bad_base64_is_named(client: httpx.Client) -> None:
    assert_problem(
        client.post(CLASSIFY, json={"images": ["aGk=", "?"]}), 422, "invalid_parameter", "images[1]", "base64"
    )


FORM = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", FORM, 422),
        (b"junk", FORM, 400),
        (b"", {"content-type": "multipart/form-data"}, 400),
        (b"--b--\r\n", FORM, 422),
        (PART, FORM, 400),
        (PART + b"x\r\n--b--\r\n", FORM, 415),
        (PART + b"x\r\n--b--\r\n", {"content-type": "multipart/form-data; boundary=b; charset=nonsense"}, 415),
        (PART.replace(b"file", b"image", 1) + b"x\r\n--b--\r\n", FORM, 422),
        (PART.replace(b"form-data", b"attachment") + b"x\r\n--b--\r\n", FORM, 415),
        (b"--b\r\n\r\nx\r\n--b--\r\n", FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--b--\r\n', FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n' + b"9" * 9999 + b"\r\n--b--\r\n", FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 99 + b"--b--\r\n", FORM, 413),
        (b"--b" + b"\r\nX: y" * 100_000, FORM, 400),
        (PART * 100_000, FORM, 413),
        (b"p" * 5_000_000 + b"\r\n" + PART, FORM, 400),
        (b";" * 100_000, {"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
    ids=range(17),
)
def test_a_hostile_form_is_refused(
    client: httpx.Client, network: LinearClassifier, body: bytes, headers: dict[str, str], status: int
) -> None:
    response = client.post(CLASSIFY, content=body, headers=headers)

    assert_refused(response)
    assert response.status_code == status, response.text
    assert_healthy(client, network)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
bodies = st.one_of(
    st.fixed_dictionaries(
        {"images": st.lists(st.text(max_size=20), max_size=3) | values},
        optional={"top_k": values, "explain": values, "invert": values, "extra": values},
    ),
    values,
).map(lambda value: json.dumps(value).encode("ascii"))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies | st.binary(max_size=300), path=st.sampled_from([CLASSIFY, EMBED]))
def test_no_json_breaks_a_route(client: httpx.Client, body: bytes, path: str) -> None:
    assert_refused(client.post(path, content=body, headers=JSON))


numbers = st.floats() | st.integers()
latents = st.lists(st.lists(numbers, max_size=5) | values, max_size=3) | st.lists(numbers, min_size=4, max_size=4)
generator_bodies = st.dictionaries(
    st.sampled_from(["num_images", "seed", "seeds", "label", "latents", "images", "steps", "a", "b", "c", "format"]),
    values | latents | st.integers(-2, 300) | st.just("Bag"),
    min_size=1,
    max_size=6,
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=generator_bodies, verb=st.sampled_from(["generate", *LATENT_ROUTES]), model=st.sampled_from(["gan", "vae"]))
def test_no_json_breaks_a_route_of_image_generators(
    image_generation_client: httpx.Client, body: dict[str, Any], verb: str, model: str
) -> None:
    response = image_generation_client.post(f"/v1/models/tiny-{model}/{verb}", content=json.dumps(body), headers=JSON)

    if response.status_code != 200:
        assert_refused(response)


def test_the_service_of_generators_logged_no_error(image_generation_service: RunningService) -> None:
    assert [record for record in image_generation_service.records if record["level"] == "ERROR"] == []


kinds = st.sampled_from(["image/png", "image/webp", "image/jpeg", "multipart/form-data; boundary=b", "", "*/*"])
prefixes = st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBPVP8 ", PART])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=prefixes, body=st.binary(max_size=300), kind=kinds)
def test_no_bytes_break_a_route(client: httpx.Client, prefix: bytes, body: bytes, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}

    assert_refused(client.post(CLASSIFY, content=prefix + body, headers=headers))


def test_the_service_logged_no_error(service: RunningService) -> None:
    assert [record for record in service.records if record["level"] == "ERROR"] == []
