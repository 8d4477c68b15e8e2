"""What the OpenAPI document says of the routes that answer with pictures: bodies and answers. It runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.http.documentation import BINARY, PROBLEMS, TIMEOUT_HEADER
from service.http.multi_image import ZIP_TYPE
from service.tasks.parameters import Parameter

_PICTURES = ("image/jpeg", "image/png", "image/webp")


def picture_request(parameters: Mapping[str, Parameter], *, takes_raw: bool = False) -> dict[str, Any]:
    """The bodies that a route of pictures takes, from the parameters that it checks; with raw ones, also one tensor."""
    raw = ("application/octet-stream",) if takes_raw else ()
    described = {name: parameter.described() for name, parameter in parameters.items()}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    images = {"type": "array", "items": {"type": "string", "format": "byte"}, "minItems": 1}
    form = {"type": "object", "required": ["file"], "properties": {"file": files, **described}}
    members = {"type": "object", "required": ["images"], "properties": {"images": images, **described}}
    return {
        "parameters": [
            *({"name": name, "in": "query", "schema": schema} for name, schema in described.items()),
            TIMEOUT_HEADER,
        ],
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys((*_PICTURES, *raw), BINARY),
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": members | {"additionalProperties": False}},
            },
        },
    }


PICTURE_RESPONSES: dict[int | str, dict[str, Any]] = PROBLEMS | {
    200: {
        "description": "One picture as itself; several as the parts of a multipart body, or as a zip file for those "
        "who accept one.",
        "content": dict.fromkeys((*_PICTURES, "multipart/mixed", ZIP_TYPE), BINARY),
    }
}
