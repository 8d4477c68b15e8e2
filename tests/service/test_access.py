"""Who may reach what: every live route and every gRPC method, with every kind of key, and from other sites' pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import message_factory
from grpc import StatusCode

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.methods import ACCESS, NAME
from service.security import digest_of
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService
from tests.service.http.calls import RAW

LINES = {
    "user": "",
    "scraper": "scopes=metrics",
    "operator": "scopes=admin",
    "of-other": "scopes=infer,admin models=other",
    "of-tiny": "scopes=infer,admin models=tiny",
    "old": "scopes=admin expires=2020-01-01T00:00:00Z",
    "off": "scopes=admin disabled",
}
REFUSED = {"wrong": 401, "old": 401, "off": 401, "": 401}
PUBLIC = {"/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"}
PUBLIC_FILES = {"/", "/docs", "/docs/docs.js", "/openapi.json", "/favicon.ico", "/playground/js/app.js"}
INFER_POSTS = ("/v1/", "/v2/models/", "/v2/repository/index")
VALUES = {"model": "tiny", "version": "1", "region": "r", "repository": "r"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("guarded")
    for name in ("tiny", "other"):
        network.write(folder / "models", name)
    keys = folder / "api-keys"
    keys.write_text("".join(f"{name}:{digest_of(name)} {options}\n" for name, options in LINES.items()))
    options = ("--api-keys-file", str(keys), "--metrics-need-key", "--instances", "1", "--threads", "1")
    with RunningService(folder / "models", *options, "--trusted-proxies", "127.0.0.1") as running:
        yield running.wait_until_ready()


ADDRESSES = (f"10.0.{number // 250}.{number % 250 + 1}" for number in itertools.count())


def headers(key: str) -> dict[str, str]:
    """A key, each time from another address: of one, many wrong keys are answered with 429."""
    return ({"authorization": f"Bearer {key}"} if key else {}) | {"x-forwarded-for": next(ADDRESSES)}


def scope_of(method: str, path: str) -> str:
    """What a route needs, said a second time: what changes anything is for operators."""
    if path in PUBLIC:
        return "public"
    if path == "/metrics":
        return "metrics"
    if path == "/v1/trace":  # it shows what other callers do
        return "admin"
    return "infer" if method == "get" or path.startswith(INFER_POSTS) else "admin"


def test_every_route_asks_for_its_scope_and_for_no_less(guarded: RunningService) -> None:
    holders = {"infer": "user", "metrics": "scraper", "admin": "operator"}
    with httpx.Client(base_url=guarded.url) as client:
        document = client.get("/openapi.json").json()["paths"]
        routes = [(method, path) for path, methods in document.items() for method in methods]
        assert len(routes) > 40
        for method, path in routes:

            def ask(key: str, method: str = method, path: str = path) -> int:
                url = path.format_map(VALUES)
                return client.request(method, url, headers=headers(key), timeout=20).status_code

            scope, what = scope_of(method, path), f"{method} {path}"
            if scope == "public":
                assert ask("") == 200, what
                continue
            assert {key: ask(key) for key in REFUSED} == REFUSED, what
            for held, key in holders.items():
                is_allowed = held in (scope, "admin")
                assert (ask(key) not in (401, 403)) == is_allowed, (what, key)
            if "{model}" in path:
                assert ask("of-other") in (404, 501), what


def test_a_trace_shows_no_model_that_the_key_is_not_for(guarded: RunningService, network: LinearClassifier) -> None:
    def models_in_trace(key: str) -> set[str]:
        events = client.get("/v1/trace", headers=headers(key)).json()["traceEvents"]
        return {event["args"]["name"] for event in events if event["name"] == "process_name"}

    with httpx.Client(base_url=guarded.url) as client:
        for name in ("tiny", "other"):
            image, head = network.images(1).tobytes(), headers("operator") | RAW
            client.post(f"/v1/models/{name}/classify", content=image, headers=head).raise_for_status()
        seen = {key: models_in_trace(key) for key in ("operator", "of-tiny", "of-other")}

    assert seen == {"operator": {"tiny@1", "other@1"}, "of-tiny": {"tiny@1"}, "of-other": {"other@1"}}


def test_only_probes_and_pages_are_open(guarded: RunningService) -> None:
    for path in PUBLIC | PUBLIC_FILES:
        assert httpx.get(guarded.url + path).status_code == 200, path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics%0A"),
        ("POST", "/v2/repository/models/tiny/load%0A"),
        ("POST", "/v2/repository/models/tiny/load/"),
        ("POST", "//v2/repository/models/tiny/load"),
        ("POST", "/v2/./repository/models/tiny/load"),
        ("POST", "/playground/../v2/repository/models/tiny/load"),
        ("GET", "/playground/%2e%2e/metrics"),
        ("PUT", "/v2/repository/models/tiny/load"),
    ],
)
def test_no_spelling_of_a_path_reaches_a_route_past_its_scope(guarded: RunningService, method: str, path: str) -> None:
    connection = HTTPConnection(guarded.url.removeprefix("http://"))
    connection.request(method, path, headers=headers("user"))

    assert connection.getresponse().status in (404, 405)
    connection.close()


def test_head_needs_what_get_needs(guarded: RunningService) -> None:
    assert httpx.head(f"{guarded.url}/metrics", headers=headers("user")).status_code == 403


def test_a_refusal_has_the_form_of_its_protocol(guarded: RunningService) -> None:
    told = {"/v1/models": "detail", "/v1/completions": "error", "/v2/models/tiny/infer": "error"}
    for path, member in told.items():
        method = "GET" if path == "/v1/models" else "POST"
        answer = httpx.request(method, guarded.url + path, headers=headers("scraper"))

        assert answer.status_code == 403
        assert "insufficient_scope" in answer.headers["www-authenticate"]
        said = answer.json()[member]
        assert "the scope infer" in (said["message"] if isinstance(said, dict) else said)


def test_models_that_a_key_is_not_for_do_not_exist_for_it(guarded: RunningService) -> None:
    with httpx.Client(base_url=guarded.url, headers=headers("of-other")) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["other"]
        assert {entry["name"] for entry in client.post("/v2/repository/index").json()} == {"other"}
        assert {entry["name"] for entry in client.get("/v2/models/stats").json()["model_stats"]} == {"other"}
        refused = [
            client.post("/v1/completions", json={"model": "tiny", "prompt": "a"}),
            client.post("/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "a"}]}),
            client.post("/v1/embeddings", json={"model": "tiny", "input": "data:image/png;base64,"}),
            client.post("/v1/images/generations", json={"model": "tiny", "prompt": "a"}),
            client.post("/v1/images/edits", data={"model": "tiny", "prompt": "a"}, files={"image": b"a"}),
            client.get("/v1/models/tiny"),
            client.get("/v1/models/tiny@1"),
            client.get("/v1/models/other.graph"),
            client.get("/v2/models/tiny.model"),
            client.get("/v2/models/nobody"),
        ]
        assert [answer.status_code for answer in refused] == [404] * len(refused)
        assert not any("'tiny'" in answer.text.replace("model 'tiny'", "") for answer in refused)
        assert not any("tiny," in answer.text or ", tiny" in answer.text for answer in refused)
        assert client.get("/v1/models/other").status_code == 200


def test_a_known_head_is_asked_for_its_key_each_time(guarded: RunningService) -> None:
    """The connection answers the second request with a head itself."""
    with httpx.Client(base_url=guarded.url) as client:
        for key, expected in (("of-other", 404), ("scraper", 403), ("old", 401), ("", 401)):
            same = headers(key)
            answers = [client.post("/v2/models/tiny/infer", json={}, headers=same) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [expected] * 4
        same = headers("of-tiny")
        answers = [client.post("/v2/models/tiny/infer", json={}, headers=same) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [400] * 4


def call(channel: grpc.Channel, method: str, key: str, model: str = "tiny") -> StatusCode:
    """The status of one call; a message that names a model names this one."""
    kind = message_factory.GetMessageClass(SERVICE.methods_by_name[method].input_type)
    fields = kind.DESCRIPTOR.fields_by_name
    name = "model_name" if "model_name" in fields else "name"
    message = kind(**{name: model}) if name in fields else kind()
    metadata = list(headers(key).items())
    try:
        for _ in channel.stream_stream(f"/{NAME}/{method}")(
            iter([message.SerializeToString()]), metadata=metadata, timeout=20
        ):
            pass
    except grpc.RpcError as error:
        code: Any = error.code()
        return code
    return StatusCode.OK


SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def test_every_method_asks_for_its_scope(guarded: RunningService) -> None:
    assert set(ACCESS) == {method.name for method in SERVICE.methods}
    refusals = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED)
    with grpc.insecure_channel(guarded.grpc_address) as channel:
        for method, access in ACCESS.items():
            if access == "public":
                assert call(channel, method, "") is StatusCode.OK
                continue
            assert {call(channel, method, key) for key in REFUSED} == {StatusCode.UNAUTHENTICATED}, method
            assert call(channel, method, "scraper") is StatusCode.PERMISSION_DENIED, method
            assert (call(channel, method, "user") is StatusCode.PERMISSION_DENIED) == (access == "admin"), method
            assert call(channel, method, "operator") not in refusals, method


def test_grpc_hides_models_too(guarded: RunningService) -> None:
    named = ["ModelReady", "ModelMetadata", "ModelInfer", "ModelConfig", "ModelStatistics"]
    with grpc.insecure_channel(guarded.grpc_address) as channel:
        for method in [*named, "RepositoryModelLoad", "RepositoryModelUnload"]:
            assert call(channel, method, "of-other") is StatusCode.NOT_FOUND, method
        metadata = [("x-api-key", "of-other")]
        index = channel.unary_unary(f"/{NAME}/RepositoryIndex")(b"", metadata=metadata, timeout=20)
        statistics = channel.unary_unary(f"/{NAME}/ModelStatistics")(b"", metadata=metadata, timeout=20)

    assert {entry.name for entry in pb.RepositoryIndexResponse.FromString(index).models} == {"other"}
    assert {entry.name for entry in pb.ModelStatisticsResponse.FromString(statistics).model_stats} == {"other"}


# --- browsers ---


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({}, 400),
        ({"sec-fetch-site": "same-origin", "origin": "http://proxied"}, 400),
        ({"sec-fetch-site": "none"}, 400),
        ({"origin": "http://h:80"}, 400),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:3000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://h.evil.example"}, 403),
        ({"origin": "http://[evil"}, 403),
    ],
)
def test_pages_of_other_sites_send_nothing(client: httpx.Client, told: dict[str, str], status: int) -> None:
    """Each is sent often enough to be answered by the connection itself."""
    for _ in range(3):
        assert client.post("/v2/models/tiny/infer", json={}, headers=told).status_code == status


def test_a_page_of_the_service_itself_may_send(client: httpx.Client) -> None:
    origin = f"{client.base_url}".rstrip("/")

    assert client.post("/v2/models/tiny/infer", json={}, headers={"origin": origin}).status_code == 400


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"]
)
def test_what_a_form_can_send_changes_no_model(client: httpx.Client, media_type: str) -> None:
    answer = client.post("/v2/repository/models/tiny/unload", content=b"{}", headers={"content-type": media_type})

    assert answer.status_code == 415
    assert client.get("/v2/models/tiny/ready").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1", 200),
        ("127.1.2.3:9", 200),
        ("[::1]:8000", 200),
        ("app.localhost", 200),
        ("h", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.1", 421),
        ("evil", 421),
        ("[::1", 421),
    ],
)
def test_on_loopback_only_known_hosts_are_answered(client: httpx.Client, host: str, status: int) -> None:
    assert client.get("/v1/models", headers={"host": host}).status_code == status
    posted = [client.post("/v2/models/tiny/infer", json={}, headers={"host": host}).status_code for _ in range(3)]
    assert posted == [400 if status == 200 else status] * 3


def test_beyond_loopback_the_host_is_free(tmp_path: Path) -> None:
    with RunningService(tmp_path, "--host", "0.0.0.0", "--insecure", "--model-control", "explicit") as running:
        url = running.url.replace("0.0.0.0", "127.0.0.1")

        assert httpx.get(f"{url}/livez", headers={"host": "models.example"}, timeout=60).status_code == 200
