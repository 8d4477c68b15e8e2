"""The route table: paths, and the OpenAPI document that is read from it."""

from __future__ import annotations

from typing import Any

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
    return Route("GET", path, handler, document)


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
