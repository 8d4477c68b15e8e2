"""Parts of the OpenAPI document that all routes share: problems, headers, binary bodies."""

from __future__ import annotations

from typing import Any

import msgspec

from models.config import PRIORITIES
from service.schema import Answer


class Problem(Answer):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str


def inline_schema(kind: type) -> dict[str, Any]:
    """Return the JSON schema of a struct, with references inlined."""
    (_,), schemas = msgspec.json.schema_components([kind], ref_template="{name}")

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolved(schemas[node["$ref"]])
            return {key: resolved(value) for key, value in node.items()}
        return [resolved(value) for value in node] if isinstance(node, list) else node

    inlined: dict[str, Any] = resolved(schemas[kind.__name__])
    return inlined


_STATUSES = {
    400: "The body does not match its media type.",
    404: "Unknown model; the message lists the known ones.",
    408: "The request did not arrive in time.",
    413: "The body, an image or the number of images exceeds a limit.",
    415: "The media type or the image format is not supported.",
    422: "A parameter is out of range, or an image cannot be decoded.",
    429: "The caller has used up what he may use; see Retry-After.",
    500: "The model could not be loaded, or could not compute this input.",
    503: "The model is not ready, the queue is full or the deadline cannot be met; see Retry-After.",
    504: "The deadline passed.",
}


def _problem(description: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {"description": description, "content": {"application/problem+json": {"schema": reference}}}


PROBLEMS: dict[int | str, dict[str, Any]] = {status: _problem(text) for status, text in _STATUSES.items()}
ANY_PROBLEM: dict[int | str, dict[str, Any]] = {"default": _problem("Any other error, in the same form.")}
MODEL_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: PROBLEMS[404],
    503: _problem("The engine is starting; models are not known yet."),
}

REQUEST_HEADERS = [
    {"name": "X-Request-Timeout", "in": "header", "schema": {"type": "number", "exclusiveMinimum": 0}},
    {"name": "X-Priority", "in": "header", "schema": {"type": "string", "enum": list(PRIORITIES)}},
]
BINARY = {"schema": {"type": "string", "format": "binary"}}
