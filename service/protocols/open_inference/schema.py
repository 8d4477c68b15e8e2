"""The JSON of the Open Inference Protocol as structs: what OpenAPI shows, what routes read and answer.

Requests for inference are read by hand (`request.py`): their tensors must not become Python objects. Sources:
inference_rest.md and Triton's extension_*.md.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from service.engine.transport.messages import BatchStatistics, Duration
from service.http.documentation import REQUEST_HEADERS
from service.http.routing import Responses
from service.schema import Answer, Parameters, properties, required
from service.tasks.text_generation.schema import MAX_INTEGER, SamplingParameters

MAX_CONFIG = 2**16
"""Characters of a model's configuration."""

# --- The server and its models ---


class Error(Answer):
    """Every error of the protocol."""

    error: str


class ServerMetadata(Answer):
    """The name, version and extensions of the service."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(Answer):
    """Whether the process answers."""

    live: bool


class ServerReady(Answer):
    """Whether every model that should be served is ready."""

    ready: bool


class ModelReady(Answer):
    """A model that is ready."""

    name: str
    ready: bool


class TensorMetadata(Answer):
    """One input or output; -1 stands for any size, the first one for the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Answer):
    """A model's versions and tensors."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfiguredTensor(Answer):
    """One input or output without the batch."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class ModelConfig(Answer):
    """A model's configuration in Triton's form; `max_batch_size` is 0 for a model that is not batched."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]
    version_policy: dict[str, Any]
    instance_group: list[dict[str, Any]]
    parameters: dict[str, Any]
    dynamic_batching: dict[str, Any] | UnsetType = UNSET
    response_cache: dict[str, bool] | UnsetType = UNSET
    default_model_filename: str | UnsetType = UNSET
    model_transaction_policy: dict[str, bool] | UnsetType = UNSET


class ModelStatistics(Answer):
    """What one model version has done since it was loaded; `inference_count` counts rows, `execution_count` batches."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, Duration]
    response_stats: dict[str, Any]
    batch_stats: tuple[BatchStatistics, ...]
    memory_usage: list[Any]


class Statistics(Answer):
    """The answer of `stats`."""

    model_stats: list[ModelStatistics]


# --- Inference ---


class OutputTensor(Answer):
    """One output; without `data`, its `parameters.binary_data_size` bytes follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class InferResponse(Answer, kw_only=True):
    """The answer of `infer`."""

    model_name: str
    model_version: str
    id: str | UnsetType = UNSET
    outputs: list[OutputTensor]


class TextInput(Parameters):
    """The members of `generate` beside its parameters."""

    text_input: Annotated[str, Meta(description="The text to continue; empty begins a new one.")]
    id: Annotated[str, Meta(description="Repeated in the answer.")] | None = None


class TextParameters(SamplingParameters):
    """The parameters of `generate` and `generate_stream`."""

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_INTEGER, description="Most tokens to generate.")] = 20
    best_of: Annotated[int, Meta(ge=1, le=1, description="Must be 1 or absent.")] = 1
    stream: Annotated[bool, Meta(description="Only `generate_stream` takes true.")] = False


class TextDetails(Answer):
    """`finish_reason` is `stop` at a stop string or the end of the text, `length` at `max_tokens`."""

    finish_reason: str
    generated_tokens: int


class TextResponse(Answer, kw_only=True):
    """The answer of `generate`, and one event of `generate_stream`; the last event has `done` true and the details."""

    id: str | UnsetType = UNSET
    model_name: str
    model_version: str
    text_output: str
    done: bool | UnsetType = UNSET
    details: TextDetails | UnsetType = UNSET


# --- The repository ---


class IndexParameters(Parameters):
    """The parameters of `index`."""

    ready: Annotated[bool, Meta(description="Only versions that are ready.")] = False


class LoadParameters(Parameters):
    """The parameters of `load`."""

    config: Annotated[
        str, Meta(max_length=MAX_CONFIG, description="JSON to use in place of the model's config.toml.")
    ] = ""


class UnloadParameters(Parameters):
    """The parameters of `unload`."""

    unload_dependents: Annotated[bool, Meta(description="Ignored: no model here depends on another.")] = False


class IndexEntry(Answer):
    """One version in the repository; `state` is READY, LOADING, UNLOADING or UNAVAILABLE.

    `is_default`, an addition to the protocol: whether it answers requests that name no version.
    """

    name: str
    version: str
    state: str
    reason: str
    is_default: bool


# --- What OpenAPI says of errors and bodies ---

_STATUSES = {
    400: "The request does not fit the protocol or the model.",
    404: "There is no such model, version or route.",
    415: "The Content-Encoding is not known.",
    500: "The model could not be loaded, or could not compute this input.",
    501: "The request needs an extension that this service does not have, such as shared memory.",
    429: "The caller has used up what he may use; see Retry-After.",
    503: "The model is not ready, its queue is full, or the deadline cannot be met; see Retry-After.",
}


def error_responses(*statuses: int, **descriptions: str) -> Responses:
    """The errors of a route by status; a description of its own comes as `_400="..."`."""
    described: dict[int | str, str] = {status: _STATUSES[status] for status in statuses}
    described |= {int(name[1:]): description for name, description in descriptions.items()}
    described["default"] = "Any other error, in the same form."
    return {status: {"model": Error, "description": description} for status, description in described.items()}


def json_body(kind: type[Parameters] | None, nested: type[Parameters] | None = None) -> dict[str, Any]:
    """A JSON body of members, with an object `parameters` if `nested` declares some."""
    members = {} if kind is None else properties(kind)
    if nested is not None:
        members["parameters"] = {"type": "object", "properties": properties(nested)}
    body: dict[str, Any] = {"type": "object", "properties": members}
    if names := [] if kind is None else required(kind):
        body["required"] = names
    return {"required": bool(names), "content": {"application/json": {"schema": body}}}


_SCALARS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_INPUT = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "parameters": _SCALARS,
        "data": {"type": "array", "items": {}, "description": "Flat or nested, row-major."},
    },
}
_OUTPUT = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "parameters": _SCALARS
        | {"description": "`binary_data`: raw or not; `classification`: how many of the best classes."},
    },
}
INFER_BODY = {
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
LENGTH_PARAMETER = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON before the raw tensors; 0: the body is one row of the only input.",
    "schema": {"type": "integer", "minimum": 0},
}
STREAM_EXAMPLE = (
    'data: {"model_name":"novelist","model_version":"1","text_output":" times","done":false}\n\n'
    'data: {"model_name":"novelist","model_version":"1","text_output":".","done":true,"details":{...}}\n\n'
)
TEXT_REQUEST = {
    "parameters": REQUEST_HEADERS,
    "requestBody": json_body(TextInput, TextParameters),
}
