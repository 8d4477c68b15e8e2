"""What the OpenAPI document says of the Open Inference Protocol: answers, bodies, errors. It runs nothing."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType
from pydantic import BaseModel

from service import schema
from service.http.documentation import BINARY, TIMEOUT_HEADER
from service.protocols.open_inference.text_routes import OpenTextInput, OpenTextParameters
from service.schema import Answer, Parameters

Responses = dict[int | str, dict[str, Any]]


class Error(BaseModel):
    """Every error of the protocol."""

    error: str


class ServerMetadata(BaseModel):
    """The answer of `/v2`."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """Whether every wanted model is served."""

    ready: bool


class ModelReady(BaseModel):
    """A model that can be served now."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """One input or output; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfiguredTensor(BaseModel):
    """One input or output without the batch."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    """A configuration in Triton's shape; `max_batch_size` 0 says that there is no batch."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]
    version_policy: dict[str, Any]
    instance_group: list[dict[str, Any]]
    parameters: dict[str, Any]
    dynamic_batching: dict[str, Any] | None = None
    response_cache: dict[str, bool] | None = None
    default_model_filename: str | None = None
    model_transaction_policy: dict[str, bool] | None = None


class Duration(BaseModel):
    """How often, and how long in all."""

    count: int
    ns: int


class BatchStatistics(BaseModel):
    """The batches of one size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(BaseModel):
    """What one model version has done; `inference_count` counts rows, `execution_count` batches."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, Duration]
    response_stats: dict[str, Any]
    batch_stats: list[BatchStatistics]
    memory_usage: list[Any]


class Statistics(BaseModel):
    """The answer of `stats`."""

    model_stats: list[ModelStatistics]


class IndexEntry(BaseModel):
    """One version in the repository; `state` is READY, LOADING, UNLOADING or UNAVAILABLE."""

    name: str
    version: str
    state: str
    reason: str


class OutputTensor(Answer):
    """One output; without `data`, its `parameters.binary_data_size` bytes follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class Inferred(Answer, kw_only=True):
    """The answer of `infer`."""

    model_name: str
    model_version: str
    id: str | UnsetType = UNSET
    outputs: list[OutputTensor]


class TextDetails(Answer):
    """`finish_reason` is `stop` at a stop string or the end of the text, `length` at `max_tokens`."""

    finish_reason: str
    generated_tokens: int


class ContinuedText(Answer, kw_only=True):
    """The answer of `generate`."""

    id: str | UnsetType = UNSET
    model_name: str
    model_version: str
    text_output: str
    details: TextDetails


_TOLD = {
    400: "The request does not fit the protocol or the model.",
    404: "There is no such model, version or route.",
    415: "The Content-Encoding is not known.",
    500: "The model could not compute this input.",
    501: "It needs memory that caller and service share, which this service does not have.",
    503: "The model is not ready, its queue is full, or the deadline cannot be met; see Retry-After.",
}


def _errors(*statuses: int) -> Responses:
    return {status: {"model": Error, "description": _TOLD[status]} for status in statuses}


ANY_ERROR: Responses = {"default": {"model": Error, "description": "Any other error, in the same form."}}
MODEL_ERRORS = _errors(400, 404, 503)
NOT_READY: Responses = {400: {"model": Error, "description": "Not ready."}}
HOT_ERRORS = _errors(*_TOLD) | ANY_ERROR
_STREAM = (
    'data: {"model_name":"novelist","model_version":"1","text_output":" times","done":false}\n\n'
    'data: {"model_name":"novelist","model_version":"1","text_output":".","done":true,"details":{...}}\n\n'
)
STREAM_RESPONSES: Responses = HOT_ERRORS | {
    200: {
        "description": "The text as it comes; an error after the first event is an event with `error`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM}},
    }
}
INFER_RESPONSES: Responses = HOT_ERRORS | {
    200: {
        "description": "JSON, then the outputs that are wanted raw; Inference-Header-Content-Length tells where.",
        "content": {"application/octet-stream": BINARY},
    }
}

_SCALARS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_INPUT = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "parameters": _SCALARS,
        "data": {"type": "array", "items": {}, "description": "Flat or nested, row by row."},
    },
}
_OUTPUT = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "parameters": _SCALARS | {"description": "`binary_data`: raw or not; `classification`: so many best classes."},
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _SCALARS
        | {"description": "`binary_data_output`, `priority` (1 is first), `timeout` in microseconds."},
        "inputs": {"type": "array", "items": _INPUT},
        "outputs": {"type": "array", "items": _OUTPUT, "description": "All, if absent."},
    },
}
INFER_EXAMPLE = {
    "id": "42",
    "inputs": [{"name": "image", "shape": [1, 2, 2, 1], "datatype": "UINT8", "data": [0, 255, 255, 0]}],
    "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}],
}
_LENGTH_HEADER = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON before raw tensors; 0: the body is the only input's one row.",
    "schema": {"type": "integer", "minimum": 0},
}


def infer_request() -> dict[str, Any]:
    """The headers and bodies of `infer`."""
    content = {
        "application/json": {"schema": _INFER, "example": INFER_EXAMPLE},
        "application/octet-stream": BINARY,
    }
    return {"parameters": [_LENGTH_HEADER, TIMEOUT_HEADER], "requestBody": {"required": True, "content": content}}


def text_request() -> dict[str, Any]:
    """The body of `generate` and `generate_stream`."""
    body = json_body(OpenTextInput, OpenTextParameters)
    body["requestBody"]["required"] = True
    return {"parameters": [TIMEOUT_HEADER]} | body


def json_body(kind: type[Parameters] | None, nested: type[Parameters] | None = None) -> dict[str, Any]:
    """A body of members, with an object `parameters` where `nested` declares some."""
    members = {} if kind is None else schema.properties(kind)
    if nested is not None:
        members["parameters"] = {"type": "object", "properties": schema.properties(nested)}
    body: dict[str, Any] = {"type": "object", "properties": members}
    if kind is not None and (required := schema.required(kind)):
        body["required"] = required
    return {"requestBody": {"content": {"application/json": {"schema": body}}}}


def path_parameters(path: str) -> dict[str, Any]:
    """The parameters in a path's template, where no function names them."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    told = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return {"parameters": told} if told else {}
