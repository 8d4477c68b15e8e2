"""The routes beside inference: health, metadata, configuration, statistics, the repository, and what is declined."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from service.protocols.open_inference.request import parse_request
from tests.fake_models.classification import SHAPE, LinearClassifier
from tests.service.http.calls import assert_healthy
from tests.service.http.test_hostile import BODIES, LEAKS
from tests.service.protocols.open_inference.calls import INFER, assert_error
from tests.service.protocols.open_inference.manifests import ANY_MODEL

TENSORS = {
    "platform": "onnx_onnxv1",
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}],
    "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "embedding", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "activation_map", "datatype": "FP32", "shape": [-1, 4, 1, 1]},
    ],
}
ANSWERS: dict[str, Any] = {
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "/v2/models/tiny": {"name": "tiny", "versions": ["1"], **TENSORS},
    "/v2/models/tiny/versions/1": {"name": "tiny", "versions": ["1"], **TENSORS},
    "/v2/models/tiny/ready": {"name": "tiny", "ready": True},
    "/v2/models/tiny/versions/1/ready": {"name": "tiny", "ready": True},
    "/v2/models/photo/versions/2/ready": {"name": "photo", "ready": True},
}


@pytest.mark.parametrize("path", ANSWERS)
def test_a_route_answers(client: httpx.Client, path: str) -> None:
    response = client.get(path)

    assert (response.status_code, response.json()) == (200, ANSWERS[path])


def test_the_server_lists_its_extensions(client: httpx.Client) -> None:
    told = client.get("/v2").json()

    assert told["name"] == "hotplate"
    assert told["version"]
    assert "binary_tensor_data" in told["extensions"]
    assert not {"system_shared_memory", "cuda_shared_memory", "trace", "logging"} & set(told["extensions"])


@pytest.mark.parametrize("path", ["/v2/models/tiny/config", "/v2/models/tiny/versions/1/config"])
def test_a_configuration_has_tritons_form(client: httpx.Client, path: str) -> None:
    told = client.get(path).json()

    assert (told["name"], told["max_batch_size"], told["backend"]) == ("tiny", 8, "onnxruntime")
    assert told["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [*SHAPE]}]
    assert [output["dims"] for output in told["output"]] == [[4], [3], [4, 1, 1]]
    assert told["dynamic_batching"]["preferred_batch_size"] == [1, 2, 4, 8]
    assert told["instance_group"][0]["count"] == 2


def test_a_text_generator_has_a_card_of_its_own(text_generation_client: httpx.Client) -> None:
    told = text_generation_client.get("/v2/models/tiny-transformer").json()
    config = text_generation_client.get("/v2/models/tiny-transformer/config").json()
    attention = text_generation_client.get("/v2/models/tiny-transformer.attention").json()

    assert told["platform"] == "hotplate_text"
    assert [(tensor["name"], tensor["datatype"]) for tensor in told["inputs"]] == [("text_input", "BYTES")]
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert attention["name"] == "tiny-transformer.attention"
    assert attention["inputs"][0]["name"] == "tokens"


def test_statistics_count_rows_and_batches(client: httpx.Client) -> None:
    def counted(path: str) -> dict[str, Any]:
        (entry,) = [entry for entry in client.get(path).json()["model_stats"] if entry["name"] == "tiny-dark"]
        return dict(entry)

    before = counted("/v2/models/tiny-dark/stats")
    for num_rows in (1, 3):
        image = [[[[7]] * 5] * 6] * num_rows
        body = {"inputs": [{"name": "image", "shape": [num_rows, 6, 5, 1], "datatype": "UINT8", "data": image}]}
        assert client.post("/v2/models/tiny-dark/infer", json=body).status_code == 200
    after = counted("/v2/models/tiny-dark/versions/1/stats")

    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    parts = after["inference_stats"]
    assert parts["success"]["count"] - before["inference_stats"]["success"]["count"] == 2
    assert parts["success"]["ns"] >= parts["compute_infer"]["ns"] > 0
    assert after["last_inference"] > 1_600_000_000_000
    assert sum(b["compute_infer"]["count"] for b in after["batch_stats"]) == after["execution_count"]
    assert counted("/v2/models/stats") == after


@pytest.mark.parametrize("end", ["", "/config", "/stats"])
def test_what_is_unknown_is_not_found(client: httpx.Client, end: str) -> None:
    assert_error(client.get(f"/v2/models/nobody{end}"), 404, "'nobody'")
    assert_error(client.get(f"/v2/models/tiny/versions/7{end}"), 404, "'7'")
    assert_error(client.get(f"/v2/models/tiny/versions/x{end}"), 404, "whole number")
    assert_error(client.get(f"/v2/models/tiny.part{end}"), 404, "'tiny.part'")


@pytest.mark.parametrize("path", ["/v2/models/nobody/ready", "/v2/models/tiny/versions/7/ready"])
def test_what_is_not_ready_says_why_with_400(client: httpx.Client, path: str) -> None:
    assert_error(client.get(path), 400, "has no version" if "versions" in path else "'nobody'")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", INFER, "POST"),
        ("PUT", "/v2/models/tiny/versions/1/infer", "POST"),
        ("GET", "/v2/models/tiny/generate", "POST"),
        ("DELETE", "/v2/models/tiny/generate_stream", "POST"),
        ("POST", "/v2", "GET, HEAD"),
        ("POST", "/v2/health/live", "GET, HEAD"),
        ("POST", "/v2/health/ready", "GET, HEAD"),
        ("POST", "/v2/models/tiny", "GET, HEAD"),
        ("DELETE", "/v2/models/tiny/versions/1", "GET, HEAD"),
        ("POST", "/v2/models/tiny/ready", "GET, HEAD"),
        ("POST", "/v2/models/tiny/config", "GET, HEAD"),
        ("POST", "/v2/models/tiny/stats", "GET, HEAD"),
        ("POST", "/v2/models/stats", "GET, HEAD"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", "/v2/repository/models/tiny/load", "POST"),
        ("PATCH", "/v2/repository/models/tiny/unload", "POST"),
        ("POST", "/v2/systemsharedmemory/status", "GET, HEAD"),
        ("GET", "/v2/systemsharedmemory/unregister", "POST"),
    ],
)
def test_a_wrong_verb_is_refused(client: httpx.Client, method: str, path: str, allowed: str) -> None:
    response = client.request(method, path)

    assert_error(response, 405, method)
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/v2/",
        "/v2/health",
        "/v2/health/well",
        "/v2/models",
        "/v2/models/tiny/",
        "/v2/models/tiny/versions",
        "/v2/models/tiny/versions/1/predict",
        "/v2/models/tiny/trace/setting",
        "/v2/trace/setting",
        "/v2/logging",
        "/v2/repository",
    ],
)
def test_an_unknown_route_is_not_found(client: httpx.Client, path: str) -> None:
    assert_error(client.get(path), 404, "/docs")


@pytest.mark.parametrize("kind", ["systemsharedmemory", "cudasharedmemory"])
def test_shared_memory_is_declined_with_a_reason(client: httpx.Client, kind: str) -> None:
    for method, end in (
        ("GET", "status"),
        ("GET", "region/r/status"),
        ("POST", "region/r/register"),
        ("POST", "region/r/unregister"),
        ("POST", "unregister"),
    ):
        assert_error(client.request(method, f"/v2/{kind}/{end}"), 501, "shared memory")


def test_the_index_lists_every_version(client: httpx.Client) -> None:
    for body in (b"", b"{}", b'{"ready": true}'):
        told = client.post("/v2/repository/index", content=body).json()
        assert sorted((entry["name"], entry["version"], entry["state"]) for entry in told) == [
            ("photo", "2", "READY"),
            ("tiny", "1", "READY"),
            ("tiny-dark", "1", "READY"),
        ]


@pytest.mark.parametrize(
    ("path", "body", "status", "why"),
    [
        ("index", b"[]", 400, "object"),
        ("index", b"{", 400, "not valid JSON"),
        ("index", b'{"ready": "yes"}', 400, "ready"),
        ("index", b'{"redy": true}', 400, "redy"),
        ("models/tiny/load", b'{"config": "{}"}', 400, "parameters"),
        ("models/tiny/load", b'{"parameters": [1]}', 400, "parameters"),
        ("models/tiny/load", b'{"parameters": {"speed": 1}}', 400, "speed"),
        (
            "models/tiny/load",
            b'{"parameters": {"config": "{}", "file:1/model.onnx": "AA=="}}',
            501,
            "file:1/model.onnx",
        ),
        ("models/tiny/unload", b'{"parameters": {"unload_dependents": 1}}', 400, "unload_dependents"),
        ("here/index", b"", 501, "no names"),
        ("here/models/tiny/load", b"", 501, "no names"),
        ("here/models/tiny/unload", b"", 501, "no names"),
    ],
)
def test_the_repository_refuses_what_does_not_fit(
    client: httpx.Client, path: str, body: bytes, status: int, why: str
) -> None:
    assert_error(client.post(f"/v2/repository/{path}", content=body), status, why)


def test_models_are_not_loaded_on_request_by_default(client: httpx.Client) -> None:
    for action in ("load", "unload"):
        assert_error(client.post(f"/v2/repository/models/tiny/{action}"), 503)
    assert client.post(INFER, json={"inputs": [as_input_of_zeros()]}).status_code == 200


def as_input_of_zeros() -> dict[str, Any]:
    return {"name": "image", "shape": [1, 6, 5, 1], "datatype": "UINT8", "data": [0] * 30}


def test_the_parts_of_a_model_are_not_loaded_alone(style_transfer_client: httpx.Client) -> None:
    assert_error(style_transfer_client.post("/v2/repository/models/tiny-stylizer.tile/unload"), 400, "together")


MODEL_ROUTES = {
    (method, f"/v2/models/{{model}}{middle}{end}")
    for middle in ("", "/versions/{version}")
    for method, end in (
        ("get", ""),
        ("get", "/ready"),
        ("get", "/config"),
        ("get", "/stats"),
        ("post", "/infer"),
        ("post", "/generate"),
        ("post", "/generate_stream"),
    )
}
REPOSITORY_ROUTES = {
    ("post", f"/v2/repository{middle}/{end}")
    for middle in ("", "/{repository}")
    for end in ("index", "models/{model}/load", "models/{model}/unload")
}
MEMORY_ROUTES = {
    (method, f"/v2/{kind}sharedmemory/{end}")
    for kind in ("system", "cuda")
    for method, end in (
        ("get", "status"),
        ("get", "region/{region}/status"),
        ("post", "region/{region}/register"),
        ("post", "region/{region}/unregister"),
        ("post", "unregister"),
    )
}
SERVER_ROUTES = {("get", path) for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats")}
DECLINED = MEMORY_ROUTES | {route for route in REPOSITORY_ROUTES if "{repository}" in route[1]}


def documented(client: httpx.Client) -> dict[tuple[str, str], Any]:
    """Every operation of the protocol in the OpenAPI document."""
    paths = client.get("/openapi.json").json()["paths"]
    return {
        (method, path): operation
        for path, methods in paths.items()
        if path.startswith("/v2")
        for method, operation in methods.items()
    }


def test_the_document_has_every_route_and_no_other(client: httpx.Client) -> None:
    operations = documented(client)

    assert operations.keys() == MODEL_ROUTES | REPOSITORY_ROUTES | MEMORY_ROUTES | SERVER_ROUTES
    for route, operation in operations.items():
        responses = operation["responses"]
        assert ("501" if route in DECLINED else "200") in responses
        for status, response in responses.items():
            if status != "200":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Error"}
        has_body = route[0] == "post" and route not in DECLINED
        assert ("requestBody" in operation) == has_body
    for end in ("infer", "generate", "generate_stream"):
        responses = operations["post", f"/v2/models/{{model}}/{end}"]["responses"]
        assert {"200", "400", "404", "415", "500", "501", "503", "default"} == responses.keys()


def test_the_example_of_infer_is_one_that_can_be_read(client: httpx.Client) -> None:
    body = documented(client)["post", "/v2/models/{model}/infer"]["requestBody"]["content"]["application/json"]

    request = parse_request(json.dumps(body["example"]).encode(), None, ANY_MODEL)

    assert (request.id, request.inputs[0].shape, request.outputs[0].num_classes) == ("42", (1, 2, 2, 1), 3)


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused_in_the_protocols_own_form(
    client: httpx.Client, network: LinearClassifier, name: str
) -> None:
    for method, template in sorted(MODEL_ROUTES | SERVER_ROUTES | REPOSITORY_ROUTES):
        path = template.replace("{model}", "tiny").replace("{version}", "1").replace("{repository}", "here")
        response = client.request(method, path, content=BODIES[name], headers={"content-type": "application/json"})
        if method == "get":
            assert response.status_code == 200, (path, response.text)
        elif response.status_code != 200 or not path.endswith("index"):  # an empty body asks for the whole index
            assert response.status_code in (400, 501, 503), (path, response.text)
            assert_error(response, response.status_code)
            assert not any(leak in response.text for leak in LEAKS), response.text
        assert_error(client.request("PUT", path, content=BODIES[name]), 405, "PUT")
    assert_healthy(client, network)


def test_requests_are_counted_by_their_template(client: httpx.Client) -> None:
    client.post("/v2/models/tiny/versions/1/infer", json={"inputs": [as_input_of_zeros()]})

    text = client.get("/metrics").text

    assert 'route="/v2/models/{model}/versions/{version}/infer"' in text
