"""Probes, metrics, the catalog and the documentation of the real service with two API processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families

from service.protocols.openai.schema import CompletionParameters
from service.schema import Parameters, fields_of, read
from service.tasks.image_generation import schema as images
from service.tasks.registry import all_tasks
from service.tasks.task import PREFIX, ImagesRoute, JsonRoute, TaskRoute
from service.tasks.text_generation import schema as texts
from service.telemetry.metrics import SECONDS
from tests.fake_models.classification import LABELS, LinearClassifier
from tests.servers import RunningService
from tests.service.http.calls import CLASSIFY, OPENAI_ROUTES, RAW, as_json, assert_classified

GENERATE_PATH = "/v1/models/{model}/generate"
HEALTH = ("/readyz", "/health")
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
ROUTES = {
    ("post", "/v1/models/{model}/classify"),
    ("post", "/v1/models/{model}/correct"),
    ("post", "/v1/models/{model}/embed"),
    ("post", "/v1/models/{model}/encode"),
    ("post", "/v1/models/{model}/reconstruct"),
    ("post", "/v1/models/{model}/decode"),
    ("post", "/v1/models/{model}/interpolate"),
    ("post", "/v1/models/{model}/arithmetic"),
    ("get", "/v1/models/{model}/generate"),
    ("post", "/v1/models/{model}/stylize"),
    ("post", "/v1/models/{model}/generate"),
    ("post", "/v1/models/{model}/next-token"),
    ("post", "/v1/models/{model}/tokenize"),
    ("post", "/v1/models/{model}/detokenize"),
    ("post", "/v1/models/{model}/score"),
    ("post", "/v1/models/{model}/attention"),
    *(("post", path) for path in OPENAI_ROUTES),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
    ("get", "/v1/models/{model}/styles"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/v1/trace"),
}


def scrape(client: httpx.Client) -> Series:
    """Every series with its value."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(series: Series, metric: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    return sum(v for (name, own), v in series.items() if name == metric and labels.items() <= dict(own).items())


def test_probes_answer(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "live"}
    for path in HEALTH:
        assert client.get(path).json() == {"status": "ready", "not_ready": {}}
        assert client.head(path).status_code == 200


def test_metrics_are_compressed_if_accepted(client: httpx.Client) -> None:
    plain = client.get("/metrics", headers={"accept-encoding": "identity"})
    packed = client.get("/metrics", headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["content-type"] == plain.headers["content-type"]
    assert int(packed.headers["content-length"]) < 0.2 * len(plain.content)
    helps = [{line for line in page.text.splitlines() if line.startswith("# HELP")} for page in (plain, packed)]
    assert helps[0]
    assert helps[0] == helps[1]


def test_counts_of_all_api_processes_add_up(service: RunningService, network: LinearClassifier) -> None:
    with httpx.Client(base_url=service.url) as client:
        before = scrape(client)
        for n in range(40):  # each on a connection of its own, so that both processes get some
            rows = network.images(3, seed=n)
            assert_classified(httpx.post(f"{service.url}{CLASSIFY}", json=as_json(rows)), network, rows)
        after = scrape(client)

    def grown(metric: str, **labels: str) -> float:
        return value(after, metric, **labels) - value(before, metric, **labels)

    route = "/v1/models/{model}/classify"
    assert grown("hotplate_requests_total", route=route, model="tiny", status="200") == 40
    assert grown("hotplate_request_seconds_count", route=route, model="tiny") == 40
    assert grown("hotplate_rows_total", model="tiny", version="1", graph="model") == 120
    assert grown("hotplate_batch_size_sum", model="tiny") == 120
    assert grown("hotplate_queue_seconds_count", model="tiny") == 40
    assert grown("hotplate_compute_seconds_count", model="tiny") == grown("hotplate_batch_size_count", model="tiny") > 0
    assert grown("hotplate_decode_seconds_count") == 120
    body_bytes = grown("hotplate_request_bytes_total", route=route)
    assert body_bytes > 40 * 3 * 30
    assert grown("hotplate_response_bytes_total", route=route) > 0


def test_every_metric_is_there(client: httpx.Client, network: LinearClassifier) -> None:
    client.post(CLASSIFY, content=network.images(1).tobytes(), headers=RAW)
    series = scrape(client)

    for name in ("requests_in_flight", "queue_depth", "model_state", "process_resident_bytes"):
        assert f"hotplate_{name}" in {name for name, _ in series}
    for process in ("api", "engine", "supervisor"):
        assert value(series, "hotplate_process_resident_bytes", process=process) > 10 * 2**20
    for model in ("tiny", "tiny-dark", "photo"):
        assert value(series, "hotplate_model_state", model=model, state="ready") == 1
        assert value(series, "hotplate_model_state", model=model) == 1
    # The scrape counts itself as one request in flight.
    assert value(series, "hotplate_requests_in_flight") == 1


@pytest.mark.parametrize("metric", ["hotplate_request_seconds", "hotplate_queue_seconds", "hotplate_compute_seconds"])
def test_histograms_reach_from_50_microseconds_to_10_seconds(
    client: httpx.Client, network: LinearClassifier, metric: str
) -> None:
    client.post(CLASSIFY, content=network.images(1).tobytes(), headers=RAW)

    bounds = {float(dict(own)["le"]) for name, own in scrape(client) if name == f"{metric}_bucket"}

    assert sorted(bounds) == [*SECONDS, float("inf")]
    assert (min(bounds), SECONDS[-1]) == (5e-5, 10.0)


def test_unknown_paths_and_models_add_no_series(client: httpx.Client) -> None:
    def bother(n: int) -> None:
        for method in ("GET", "POST", "PUT", "PROPFIND", "DELETE"):
            client.request(method, f"/random/{n}", headers={"host": f"host{n}", "user-agent": f"agent{n}"})
            client.request(method, f"/v1/models/stranger{n}/classify?x{n}={n}")
            client.request(method, f"/v1/models/stranger{n}")
            client.request(method, f"/v1/models/tiny@{n + 2}/embed")

    for n in range(8):  # on one connection, thus in one process
        bother(n)
    before = set(scrape(client))
    for n in range(100, 140):
        bother(n)

    assert set(scrape(client)) == before
    assert not any("stranger" in label or "random" in label for _, own in before for _, label in own)


def test_the_list_names_every_version(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()

    assert listed["object"] == "list"
    assert {(m["id"], m["version"], m["state"]) for m in listed["data"]} == {
        ("tiny", "1", "ready"),
        ("tiny-dark", "1", "ready"),
        ("photo", "2", "ready"),
    }
    assert {m["object"] for m in listed["data"]} == {"model"}


@pytest.mark.parametrize("reference", ["photo", "photo@2"])
def test_a_card_describes_the_model(client: httpx.Client, reference: str) -> None:
    card = client.get(f"/v1/models/{reference}").json()

    assert (card["id"], card["version"], card["state"], card["device"]) == ("photo", "2", "ready", "cpu")
    assert card["execution_providers"] == ["CPUExecutionProvider"]
    assert card["batching"]["max_batch_size"] == 8
    assert card["batching"]["instances"] == 2
    assert card["golden"]["max_abs_error"] < 1e-5
    assert card["manifest"]["labels"] == list(LABELS)


def test_a_cards_statistics_are_live(client: httpx.Client, network: LinearClassifier) -> None:
    before = client.get("/v1/models/tiny").json()["statistics"]
    client.post(CLASSIFY, json=as_json(network.images(5)))
    after = client.get("/v1/models/tiny").json()["statistics"]

    assert after["rows"] == before["rows"] + 5
    assert after["batches"] > before["batches"]


def references(node: Any) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(node, dict):
        for key, member in node.items():
            if key == "$ref":
                yield member
            yield from references(member)
    elif isinstance(node, list):
        for member in node:
            yield from references(member)


def test_the_openapi_document_is_valid_and_complete(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    OpenAPI.model_validate(document)
    operations = [(m, path, op) for path, methods in document["paths"].items() for m, op in methods.items()]
    assert {(method, path) for method, path, _ in operations if not path.startswith("/v2")} == ROUTES
    assert len({operation["operationId"] for *_, operation in operations}) == len(operations)
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    for _, path, operation in operations:
        parameters = {(p["name"], p["in"]) for p in operation.get("parameters", [])}
        assert len(parameters) == len(operation.get("parameters", []))
        assert (("model", "path") in parameters) == ("{model}" in path)
        assert operation["summary"]
        assert operation["description"]


def test_every_route_documents_its_errors(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    hot = {"400", "404", "408", "413", "415", "500", "503", "504"}
    images = ("classify", "embed", "stylize", "encode", "reconstruct", "decode", "interpolate", "arithmetic")
    texts = ("generate", "next-token", "tokenize", "detokenize", "score", "attention")
    documented = {f"/v1/models/{{model}}/{verb}": hot | {"422"} for verb in (*images, *texts)} | {
        **dict.fromkeys(OPENAI_ROUTES, hot),
        "/v1/models/{model}": {"404", "503"},
        "/v1/models/{model}/styles": {"404", "422", "503"},
        **{path: {"503"} for path in HEALTH},
    }

    for path, methods in paths.items():
        if path.startswith("/v2"):  # of another form: see tests/service/protocols/open_inference
            continue
        for operation in methods.values():
            responses = operation["responses"]
            assert documented.get(path, set()) | {"200", "default"} <= responses.keys()
            problems = [r for status, r in responses.items() if status != "200" and path not in HEALTH]
            form = "application/json" if path in OPENAI_ROUTES else "application/problem+json"
            assert all(set(r["content"]) == {form} for r in problems)


ROUTES_OF_TASKS = [route for task in all_tasks().values() for route in task.routes]
SHARED = {"generate", "embed"}  # verbs of several tasks, whose documents are merged


def operation_of(client: httpx.Client, route: type[TaskRoute]) -> dict[str, Any]:
    paths = client.get("/openapi.json").json()["paths"]
    operation: dict[str, Any] = paths[PREFIX + route.verb][route.method.lower()]
    return operation


def assert_documented(schema: dict[str, Any], example: dict[str, Any], kind: type[Parameters]) -> None:
    assert set(schema["properties"]) == set(fields_of(kind))
    assert all(member["description"] for member in schema["properties"].values())
    assert read(kind, example)


def test_every_example_of_a_json_route_is_one_that_it_takes(client: httpx.Client) -> None:
    for route in ROUTES_OF_TASKS:
        if issubclass(route, JsonRoute) and route.verb not in SHARED:
            body = operation_of(client, route)["requestBody"]["content"]["application/json"]
            assert_documented(body["schema"], body["example"], route.parameters)
    paths = client.get("/openapi.json").json()["paths"]
    body = paths["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert_documented(body["schema"], body["example"], CompletionParameters)
    answers = {
        path: set(paths[path]["post"]["responses"]["200"]["content"]) for path in ("/v1/completions", GENERATE_PATH)
    }
    texts_and_events = {"application/json", "text/event-stream"}
    assert answers["/v1/completions"] == texts_and_events
    assert answers[GENERATE_PATH] == texts_and_events | {"image/png", "application/zip"}


def test_generate_is_documented_for_texts_and_for_images(client: httpx.Client) -> None:
    operations = client.get("/openapi.json").json()["paths"][GENERATE_PATH]
    body = operations["post"]["requestBody"]["content"]["application/json"]
    kinds: tuple[type[Parameters], ...] = (texts.GenerateParameters, images.GenerateParameters)

    for schema, example, kind in zip(body["schema"]["anyOf"], body["examples"].values(), kinds, strict=True):
        assert_documented(schema, example["value"], kind)
    for operation in operations.values():
        query = {p["name"] for p in operation["parameters"] if p["in"] == "query"}
        assert query == set(fields_of(images.GenerateParameters))


@pytest.mark.parametrize("route", [route for route in ROUTES_OF_TASKS if issubclass(route, ImagesRoute)])
def test_the_routes_that_take_images_are_documented_as_they_are(client: httpx.Client, route: type[ImagesRoute]) -> None:
    operation = operation_of(client, route)
    bodies = operation["requestBody"]["content"]
    query = {p["name"] for p in operation["parameters"] if p["in"] == "query"}

    assert set(fields_of(route.parameters)) <= query
    forms = {form: bodies[form]["schema"] for form in ("application/json", "multipart/form-data")}
    for form, own in (("application/json", "images"), ("multipart/form-data", "file")):
        choices = forms[form].get("anyOf", [forms[form]])
        assert {own, *fields_of(route.parameters)} in [set(choice["properties"]) for choice in choices]
    assert {"image/jpeg", "image/png", "image/webp"} <= set(bodies)
    assert ("application/octet-stream" in bodies) == bool(route.tensor_graph)
    content = operation["responses"]["200"]["content"]
    assert set(route.files) | ({"application/json"} if route.answers else set()) == set(content)


def test_the_documentation_page_is_there(client: httpx.Client) -> None:
    page = client.get("/docs")

    assert page.status_code == 200
    assert "/openapi.json" in page.text
