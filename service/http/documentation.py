"""What the OpenAPI document says of the hot routes, whose bodies FastAPI does not parse. It runs nothing."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str


class Prediction(BaseModel):
    """One label with its probability."""

    label: str
    index: int
    probability: float


class Classification(BaseModel):
    """The likeliest labels of one picture; `explanation` and `input` are PNGs in base64.

    `input` holds the very pixels that the network was fed.
    """

    predictions: list[Prediction]
    explanation: str | None = None
    input: str | None = None


class Classified(BaseModel):
    """The answer of `classify`."""

    model: str
    version: str
    results: list[Classification]


class Embedding(BaseModel):
    """The feature vector of one picture."""

    embedding: list[float]


class Embedded(BaseModel):
    """The answer of `embed`."""

    model: str
    version: str
    results: list[Embedding]


_STATUSES = {
    400: "The body is not what its media type says.",
    404: "No such model; the message names the known ones.",
    408: "The request did not arrive in time.",
    413: "The body, a picture or their number exceeds a limit.",
    415: "The media type or the picture's format is not accepted.",
    422: "A parameter is out of range, or a picture cannot be decoded.",
    500: "The model could not compute this input.",
    503: "The model is not ready, the queue is full or the deadline cannot be met; see Retry-After.",
    504: "The deadline passed.",
}


def _problem(description: str) -> dict[str, Any]:
    schema = Problem.model_json_schema()
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


PROBLEMS: dict[int | str, dict[str, Any]] = {status: _problem(text) for status, text in _STATUSES.items()}
ANY_PROBLEM: dict[int | str, dict[str, Any]] = {"default": _problem("Any other error, in the same form.")}
MODEL_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: PROBLEMS[404],
    503: _problem("The engine is starting; its models are not known yet."),
}

STYLES_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: PROBLEMS[404],
    422: _problem("The model does another task."),
    503: _problem("The model is not ready."),
}

TIMEOUT_HEADER = {"name": "X-Request-Timeout", "in": "header", "schema": {"type": "number", "exclusiveMinimum": 0}}
BINARY = {"schema": {"type": "string", "format": "binary"}}


def classifier_request() -> dict[str, Any]:
    """The parameters and bodies that `classify` takes."""
    invert: dict[str, Any] = {"type": "string", "enum": ["auto", "true", "false"], "default": "auto"}
    top_k = {"type": "integer", "minimum": 1, "default": 5}
    flag: dict[str, Any] = {"type": "boolean", "default": False}
    parameters = {"invert": invert, "top_k": top_k, "explain": flag, "echo_input": flag}
    images = {"type": "array", "items": {"type": "string", "format": "byte"}, "minItems": 1}
    json_body = {"type": "object", "required": ["images"], "properties": {"images": images, **parameters}}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": ["file"], "properties": {"file": files, **parameters}}
    return {
        "parameters": [
            *({"name": name, "in": "query", "schema": schema} for name, schema in parameters.items()),
            TIMEOUT_HEADER,
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/png": BINARY,
                "image/jpeg": BINARY,
                "image/webp": BINARY,
                "application/octet-stream": BINARY,
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": json_body},
            },
        },
    }
