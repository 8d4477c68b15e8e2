"""The route table: paths, and the OpenAPI document that is read from it."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from service.http.routing import Document, Route, add_routes

First = msgspec.defstruct("Same", [("a", int)])
Second = msgspec.defstruct("Same", [("b", str)])


async def handler(*_: object) -> None:
    raise AssertionError("no request is sent")


def route(path: str, *answers: type, **members: Any) -> Route:
    document = Document(summary="S.", description="D.", request={}, responses={}, answers=answers, **members)
    return Route("GET", path, handler, document, access="infer")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v2/models/a/versions/1", {"model": "a", "version": "1"}),
        ("/v2/models//versions/1", None),
        ("/v2/models/a/version/1", None),
    ],
)
def test_a_path_matches_its_template_with_no_part_empty(path: str, found: dict[str, str] | None) -> None:
    assert route("/v2/models/{model}/versions/{version}").match(path.split("/")) == found


def test_every_parameter_of_a_path_is_documented() -> None:
    app = FastAPI()
    add_routes(app, [route("/v2/{kind}/region/{region}/status", status_code=501)])

    (operation,) = app.openapi()["paths"]["/v2/{kind}/region/{region}/status"].values()

    assert [(each["name"], each["in"]) for each in operation["parameters"]] == [("kind", "path"), ("region", "path")]
    assert "501" in operation["responses"]
    assert "200" not in operation["responses"]


def test_two_structs_of_one_name_are_refused() -> None:
    add_routes(FastAPI(), [route("/a", First), route("/b", First)])
    with pytest.raises(TypeError, match="'Same'"):
        add_routes(FastAPI(), [route("/a", First), route("/b", Second)])


# What differs between two answers anyway: live numbers, and what each answer measures or counts.
VARYING_PATHS = ("/metrics", "/v1/models/tiny", "/v2/models/stats", "/v2/models/tiny/stats")
VARYING_HEADERS = ("date", "server-timing", "x-request-id")


def test_head_is_answered_like_get_without_content_on_every_path(client: httpx.Client) -> None:
    known = client.get("/openapi.json").json()["paths"]
    values = {"model": "tiny", "version": "1", "region": "r", "repository": "r"}
    paths = [path.format_map(values) for path in known] + ["/", "/docs", "/openapi.json", "/favicon.ico", "/nowhere"]
    for path in [*paths, "/v1/models/nobody", "/v2/models/nobody", "/v2/none", "/playground/none", "/metrics?a"]:
        for coding in ("identity", "gzip"):
            get, head = (
                client.request(method, path, headers={"accept-encoding": coding}) for method in ("GET", "HEAD")
            )

            varying = set(VARYING_HEADERS)
            if path.partition("?")[0].replace("/versions/1", "") in VARYING_PATHS:
                varying.add("content-length")
            expected, found = ({k: v for k, v in r.headers.items() if k not in varying} for r in (get, head))
            assert (head.status_code, found, head.content) == (get.status_code, expected, b""), path
            assert "content-length" in head.headers


def test_head_counts_as_its_route_and_sends_nothing(client: httpx.Client) -> None:
    def sent() -> tuple[float, float]:
        lines = client.get("/metrics").text.splitlines()
        of_route = [line for line in lines if 'route="/v1/models"' in line]
        counted = (line for line in of_route if line.startswith("hotplate_requests_total"))
        num_bytes = (line for line in of_route if line.startswith("hotplate_response_bytes_total"))
        return sum(float(line.split()[-1]) for line in counted), sum(float(line.split()[-1]) for line in num_bytes)

    num_requests, num_bytes = sent()
    client.head("/v1/models")

    assert sent() == (num_requests + 1, num_bytes)
