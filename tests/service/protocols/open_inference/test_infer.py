"""`infer` over HTTP: tensors in JSON, raw and bare, chosen outputs, classes, images, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from service.engine.transport.strings import pack_strings
from tests.fake_models.classification import LABELS, LinearClassifier
from tests.fake_models.style_transfer import STYLES, TinyStylizer
from tests.servers import RunningService
from tests.service.http.calls import encoded
from tests.service.protocols.conftest import MAX_BODY_BYTES
from tests.service.protocols.open_inference.calls import (
    INFER,
    LENGTH,
    as_binary,
    as_input,
    assert_error,
    assert_outputs,
    outputs_of,
)


@pytest.mark.parametrize("path", [INFER, "/v2/models/tiny.model/infer", "/v2/models/tiny/versions/1/infer"])
def test_rows_in_json_are_answered_in_json(client: httpx.Client, network: LinearClassifier, path: str) -> None:
    images = network.images(3)
    response = client.post(path, json={"id": "a-7", "inputs": [as_input(images)]})

    assert_outputs(response, dict(network.outputs(images)))
    told = response.json()
    assert {name: told[name] for name in ("model_name", "model_version", "id")} == {
        "model_name": "tiny",
        "model_version": "1",
        "id": "a-7",
    }
    assert 'batch;desc="' in response.headers["server-timing"]


def test_no_id_is_made_up(client: httpx.Client, network: LinearClassifier) -> None:
    assert "id" not in client.post(INFER, json={"inputs": [as_input(network.images(1))]}).json()


def test_flat_data_is_the_same_as_nested(client: httpx.Client, network: LinearClassifier) -> None:
    images = network.images(2)
    flat = as_input(images, data=images.reshape(-1).tolist())

    assert_outputs(client.post(INFER, json={"inputs": [flat]}), dict(network.outputs(images)))


def test_raw_rows_are_answered_in_the_requested_form(client: httpx.Client, network: LinearClassifier) -> None:
    images = network.images(4)
    expected = dict(network.outputs(images))
    both = [{"name": "embedding", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    cases: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({}, []),
        ({"parameters": {"binary_data_output": True}}, list(expected)),
        ({"outputs": both}, ["embedding"]),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [both[0], {"name": "probabilities", "parameters": {"binary_data": False}}],
            },
            ["embedding"],
        ),
    )
    for members, raw in cases:
        request = as_binary(images, **members)
        response = client.post(INFER, content=request.content, headers=request.headers)

        wanted = [output["name"] for output in members.get("outputs", ())] or list(expected)
        assert_outputs(response, {name: expected[name] for name in wanted})
        assert (LENGTH in response.headers) == bool(raw)
        kind = "application/octet-stream" if raw else "application/json"
        assert response.headers["content-type"] == kind
        head = json.loads(response.content[: int(response.headers.get(LENGTH, len(response.content)))])
        assert [output["name"] for output in head["outputs"] if "data" not in output] == raw


def test_more_rows_than_a_batch_holds_come_back_in_order(client: httpx.Client, network: LinearClassifier) -> None:
    images = network.images(37)
    request = as_binary(images, outputs=[{"name": "probabilities"}])

    response = client.post(INFER, content=request.content, headers=request.headers)

    assert_outputs(response, {"probabilities": network.outputs(images)["probabilities"]})


def test_a_bare_row_is_answered_raw(client: httpx.Client, network: LinearClassifier) -> None:
    images = network.images(1)

    response = client.post(INFER, content=images.tobytes(), headers={LENGTH: "0"})

    assert response.headers["content-type"] == "application/octet-stream"
    assert_outputs(response, dict(network.outputs(images)))


def test_the_best_classes_come_with_their_labels(client: httpx.Client, network: LinearClassifier) -> None:
    images = network.images(2)
    outputs = [
        {"name": "probabilities", "parameters": {"classification": 2}},
        {"name": "embedding", "parameters": {"classification": 1}},
    ]

    found = outputs_of(client.post(INFER, json={"inputs": [as_input(images)], "outputs": outputs}))

    expected = network.outputs(images)
    assert found["probabilities"].shape == (2, 2)
    for row, told in zip(expected["probabilities"], found["probabilities"], strict=True):
        best = np.argsort(-row)[:2]
        assert [text.split(":")[1:] for text in told] == [[str(index), LABELS[index]] for index in best]
        np.testing.assert_allclose([float(text.split(":")[0]) for text in told], row[best], atol=2e-5)
    # An embedding has no classes that the labels name.
    assert [text.split(":")[1:] for text in found["embedding"][:, 0]] == [
        [str(index)] for index in expected["embedding"].argmax(axis=1)
    ]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_encoded_images_are_decoded_as_by_the_task(
    client: httpx.Client, network: LinearClassifier, shape: list[int]
) -> None:
    images = network.images(2, seed=5)
    classified = client.post(
        "/v1/models/tiny/classify",
        files=[("file", (f"{i}.png", encoded(row), "image/png")) for i, row in enumerate(images)],
    ).json()
    raw = pack_strings(encoded(row) for row in images)
    described = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [described], "outputs": [{"name": "probabilities"}]}).encode()

    found = outputs_of(client.post(INFER, content=text + raw, headers={LENGTH: str(len(text))}))

    for row, result in zip(found["probabilities"], classified["results"], strict=True):
        assert {p["index"]: p["probability"] for p in result["predictions"]} == pytest.approx(
            dict(enumerate(row.tolist())), abs=1e-6
        )


def test_a_bare_image_is_decoded_too(client: httpx.Client, network: LinearClassifier) -> None:
    (image,) = network.images(1, seed=5)

    response = client.post(INFER, content=encoded(image), headers={LENGTH: "0"})

    assert_outputs(response, dict(network.outputs(image[None])))


def test_several_inputs_and_open_sizes_and_graphs_by_name(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer
) -> None:
    pictures, weights = stylizer.images(2, 32, 36), stylizer.pure(STYLES[1], 2)
    statistics = stylizer.statistics(pictures, weights)
    inputs = [as_input(pictures), as_input(weights, "FP32", "style_weights")]

    told = outputs_of(
        style_transfer_client.post("/v2/models/tiny-stylizer.statistics/infer", json={"inputs": inputs[::-1]})
    )
    painted = outputs_of(style_transfer_client.post("/v2/models/tiny-stylizer/infer", json={"inputs": inputs}))[
        "painting"
    ]
    tile_inputs = [*inputs, *(as_input(told[name], "FP32", name) for name in ("mean", "deviation"))]
    tile = outputs_of(style_transfer_client.post("/v2/models/tiny-stylizer.tile/infer", json={"inputs": tile_inputs}))[
        "painting"
    ]

    for name in ("mean", "deviation"):
        np.testing.assert_allclose(told[name], statistics[name], atol=1e-4)
    assert np.abs(painted.astype(int) - stylizer.paint(pictures, weights)).max() <= 1
    assert np.abs(tile.astype(int) - painted).max() <= 1


def test_a_stylizer_takes_encoded_images_of_one_size(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer
) -> None:
    pictures, weights = stylizer.images(2, 32, 32), stylizer.pure(STYLES[0], 2)

    def painted(files: list[bytes]) -> httpx.Response:
        raw = pack_strings(files)
        described = {"name": "image", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
        text = json.dumps({"inputs": [described, as_input(weights, "FP32", "style_weights")]}).encode()
        return style_transfer_client.post(
            "/v2/models/tiny-stylizer/infer", content=text + raw, headers={LENGTH: str(len(text))}
        )

    found = outputs_of(painted([encoded(picture) for picture in pictures]))["painting"]
    other = encoded(stylizer.images(1, 36, 32)[0])

    assert np.abs(found.astype(int) - stylizer.paint(pictures, weights)).max() <= 1
    assert_error(painted([encoded(pictures[0]), other]), 400, "32x32, 32x36")


GREY = np.zeros((1, 6, 5, 1), np.uint8)
# One of each kind; every message is tested where it is made (test_request.py, test_execution.py).
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({}, "`inputs`"),
    "an unknown input": ({"inputs": [as_input(GREY, name="picture")]}, "'picture'"),
    "another datatype": ({"inputs": [as_input(GREY, "INT32")]}, "takes UINT8"),
    "another shape": ({"inputs": [as_input(GREY[:, :5])]}, "[-1, 6, 5, 1]"),
    "data that does not fill the shape": ({"inputs": [as_input(GREY, data=[1, 2])]}, "has 2 elements"),
    "an unknown output": ({"inputs": [as_input(GREY)], "outputs": [{"name": "scores"}]}, "'probabilities'"),
    "a negative priority": ({"inputs": [as_input(GREY)], "parameters": {"priority": -1}}, "priority"),
    "texts that are no images": (
        {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["boot"]}]},
        "image 0",
    ),
    "images in a square": (
        {"inputs": [{"name": "image", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}]},
        "[B, 1]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_does_not_fit_is_refused(client: httpx.Client, case: str) -> None:
    body, why = REFUSED[case]

    assert_error(client.post(INFER, json=body), 400, why)


@pytest.mark.parametrize(
    ("body", "length", "why"),
    [
        (b"", None, "not JSON"),
        (b"{", None, "not JSON"),
        (b"{}", "3", "body has 2 bytes"),
        (b"{}", "-1", "'-1'"),
        (b"{}", "two", "'two'"),
        (b"12345", "0", "5 bytes"),
    ],
)
def test_a_body_that_does_not_fit_is_refused(client: httpx.Client, body: bytes, length: str | None, why: str) -> None:
    headers = {} if length is None else {LENGTH: length}

    # Only classifiers of pictures try a bare body that is no row as one.
    assert_error(client.post(INFER, content=body, headers=headers), 400, "image 0" if body == b"12345" else why)


def test_a_bare_body_needs_a_model_of_one_input(style_transfer_client: httpx.Client) -> None:
    assert_error(
        style_transfer_client.post("/v2/models/tiny-stylizer/infer", content=b"1", headers={LENGTH: "0"}),
        400,
        "2 inputs",
    )


def test_shared_memory_is_declined_in_requests_too(client: httpx.Client) -> None:
    shared = {"shared_memory_region": "r", "shared_memory_byte_size": 30}
    request = {"inputs": [{"name": "image", "shape": [1, 6, 5, 1], "datatype": "UINT8", "parameters": shared}]}
    output = {"inputs": [as_input(GREY)], "outputs": [{"name": "probabilities", "parameters": shared}]}

    for body in (request, output):
        assert_error(client.post(INFER, json=body), 501, "shared memory")


def test_a_deadline_in_microseconds_is_kept(client: httpx.Client) -> None:
    late = client.post(INFER, json={"inputs": [as_input(GREY)], "parameters": {"timeout": 1}})
    in_time = client.post(
        INFER, json={"inputs": [as_input(GREY)], "parameters": {"timeout": 20_000_000, "priority": 1}}
    )
    header = client.post(INFER, json={"inputs": [as_input(GREY)]}, headers={"x-request-timeout": "0.000001"})

    assert_error(late, 503)
    assert_error(header, 503)
    assert in_time.status_code == 200


def test_a_large_body_is_refused(echo_service: RunningService) -> None:
    response = httpx.post(f"{echo_service.url}{INFER}", content=b" " * (MAX_BODY_BYTES + 1))

    assert_error(response, 400, f"{MAX_BODY_BYTES + 1} bytes")


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/v2/models/nobody/infer", 404, "'nobody'"),
        ("/v2/models/tiny/versions/9/infer", 404, "'9'"),
        ("/v2/models/tiny/versions/one/infer", 404, "whole number"),
        ("/v2/models/tiny.nothing/infer", 404, "'tiny.nothing'"),
        ("/v2/models/tiny/infer/", 404, "no '/v2"),
        ("/v2/models/tiny/predict", 404, "no '/v2"),
        ("/v2/models//infer", 404, "no '/v2"),
    ],
)
def test_what_there_is_not_is_not_found(client: httpx.Client, path: str, status: int, why: str) -> None:
    assert_error(client.post(path, json={"inputs": [as_input(GREY)]}), status, why)


def test_a_text_generator_says_what_to_use(text_generation_client: httpx.Client) -> None:
    body = {"inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}

    assert_error(text_generation_client.post("/v2/models/tiny-transformer/infer", json=body), 400, "use generate")


def test_a_text_generators_other_graphs_take_tensors(text_generation_client: httpx.Client) -> None:
    tokens = np.ones((1, 32), np.int64)
    body = {"inputs": [as_input(tokens, "INT64", "tokens")]}

    attention = outputs_of(text_generation_client.post("/v2/models/tiny-transformer.attention/infer", json=body))[
        "attention"
    ]

    assert attention.shape[-2:] == (32, 32)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
    assert_error(text_generation_client.post("/v2/models/tiny-transformer.decode/infer", json=body), 404, "attention")


def test_numbers_that_json_does_not_have_are_refused(client: httpx.Client) -> None:
    body = json.dumps({"inputs": [as_input(GREY)]}).replace("[0]", "[NaN]").encode()

    assert_error(client.post(INFER, content=body), 400, "not JSON")
