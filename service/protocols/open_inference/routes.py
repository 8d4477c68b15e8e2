"""The routes of the Open Inference Protocol over HTTP: the server, its models, inference, the repository.

Those that generate text are in `text_routes.py`. Sources: inference_rest.md, Triton's http_server.cc, extension_*.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from service.errors import InvalidParameter, ServiceError, Unsupported
from service.http.answers import encode_json
from service.http.body import parse_json_object
from service.http.documentation import BINARY, REQUEST_HEADERS
from service.http.middleware import Drain
from service.http.routing import Document, Route
from service.protocols.open_inference import schema
from service.protocols.open_inference.description import SERVER
from service.protocols.open_inference.direct_infer import DirectInfer, header_bytes_of, read_infer
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.reply import Reply, write_reply
from service.protocols.open_inference.request import NO_SHARED_MEMORY
from service.protocols.open_inference.route import (
    INFERENCE_ERRORS,
    MODEL,
    TAG,
    VERSION,
    OpenInferenceRequest,
    OpenInferenceRoute,
)
from service.protocols.open_inference.schema import error_responses
from service.protocols.open_inference.text_routes import Generate, GenerateStream
from service.schema import Answer, json_bounds, read, shown
from service.threads import INLINE_BYTES, by_size, off_loop

# --- The server ---


class ServerMetadata(OpenInferenceRoute):
    """`GET /v2`."""

    paths = ("/v2",)
    access = "infer"
    description = "Extensions that are not in the list are answered with 501."
    answers = (schema.ServerMetadata,)

    async def answer(self, request: OpenInferenceRequest) -> Answer:
        """Name, version and extensions of this service."""
        return SERVER


class ServerLive(OpenInferenceRoute):
    """`GET /v2/health/live`."""

    paths = ("/v2/health/live",)
    access = "public"
    description = "It answers also while the service starts and drains."
    answers = (schema.ServerLive,)

    async def answer(self, request: OpenInferenceRequest) -> Answer:
        """Whether this process answers."""
        return schema.ServerLive(live=True)


class ServerReady(OpenInferenceRoute):
    """`GET /v2/health/ready`."""

    paths = ("/v2/health/ready",)
    access = "public"
    description = "400 if not, as Triton answers; 503 while the service drains."
    answers = (schema.ServerReady,)
    responses = error_responses(_400="Not ready.")

    async def answer(self, request: OpenInferenceRequest) -> Reply:
        """Whether every model that should be served is ready."""
        is_ready = self.execution.is_server_ready and not self.drain.is_draining
        status = 200 if is_ready else 503 if self.drain.is_draining else 400
        return Reply((encode_json(schema.ServerReady(ready=is_ready)),), status=status)


class AllStatistics(OpenInferenceRoute):
    """`GET /v2/models/stats`: all models, not one of that name."""

    paths = ("/v2/models/stats",)
    access = "infer"
    description = "Counts begin when a version is loaded."
    answers = (schema.Statistics,)

    async def answer(self, request: OpenInferenceRequest) -> Answer:
        """What every ready model has done."""
        return schema.Statistics(model_stats=await self.execution.all_statistics(request.context.caller))


# --- Models ---


class ModelMetadata(OpenInferenceRoute):
    """`GET /v2/models/{model}`."""

    paths = (MODEL, VERSION)
    access = "infer"
    description = "The first -1 in a shape is the batch."
    answers = (schema.ModelMetadata,)
    responses = error_responses(400, 404, 503)

    async def answer(self, request: OpenInferenceRequest) -> Answer:
        """Names, datatypes and shapes of a model's tensors."""
        return self.execution.metadata(request.model, request.version)


class ModelReady(OpenInferenceRoute):
    """`GET /v2/models/{model}/ready`."""

    paths = (f"{MODEL}/ready", f"{VERSION}/ready")
    access = "infer"
    description = "400 if not, as Triton answers; the message says why."
    answers = (schema.ModelReady,)
    responses = error_responses(_400="Not ready.")

    async def answer(self, request: OpenInferenceRequest) -> Answer | Reply:
        """Whether a model is ready."""
        if self.execution.is_ready(request.model, request.version):
            return schema.ModelReady(name=request.model, ready=True)
        message = "The engine is not connected."
        try:
            self.execution.find(request.model, request.version)
        except ServiceError as error:
            message = error.message
        return Reply((encode_json(schema.Error(error=message)),), status=400)


class ModelConfig(OpenInferenceRoute):
    """`GET /v2/models/{model}/config`."""

    paths = (f"{MODEL}/config", f"{VERSION}/config")
    access = "infer"
    description = "In Triton's form."
    answers = (schema.ModelConfig,)
    responses = error_responses(400, 404, 503)

    async def answer(self, request: OpenInferenceRequest) -> Answer:
        """A model's configuration."""
        return self.execution.config(request.model, request.version)


class Statistics(OpenInferenceRoute):
    """`GET /v2/models/{model}/stats`."""

    paths = (f"{MODEL}/stats", f"{VERSION}/stats")
    access = "infer"
    description = "In Triton's form; counts begin when a version is loaded."
    answers = (schema.Statistics,)
    responses = error_responses(400, 404, 503)

    async def answer(self, request: OpenInferenceRequest) -> Answer:
        """What a model has done."""
        return schema.Statistics(model_stats=await self.execution.statistics(request.model, request.version))


# --- Inference ---


class Infer(OpenInferenceRoute):
    """`POST /v2/models/{model}/infer`."""

    method = "POST"
    paths = (f"{MODEL}/infer", f"{VERSION}/infer")
    access = "infer"
    description = (
        "With the binary tensor data extension in both directions. `name` stands for a model's main graph, "
        "`name.graph` for any other. Models on images also take encoded ones, as BYTES [B]."
    )
    request_document = {
        "parameters": [schema.LENGTH_PARAMETER, *REQUEST_HEADERS],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema.INFER_BODY, "example": schema.INFER_EXAMPLE},
                "application/octet-stream": BINARY,
            },
        },
    }
    answers = (schema.InferResponse,)
    responses = {
        **INFERENCE_ERRORS,
        200: {
            "description": "JSON, then the raw outputs; Inference-Header-Content-Length is the length of the JSON.",
            "content": {"application/octet-stream": BINARY},
        },
    }

    def __init__(self, execution: Execution, drain: Drain) -> None:
        super().__init__(execution, drain)
        self.direct = DirectInfer(execution, self)

    async def answer(self, request: OpenInferenceRequest) -> Reply:
        """Compute a model's outputs for tensors."""
        target = self.execution.find(request.model, request.version)
        read = partial(read_infer, self.execution, target, header_bytes_of(request.scope))
        infer = await by_size(read, request.body)
        result = await self.execution.infer(
            request.model, request.version, infer, request.context, timeout_seconds=self.timeout_seconds(request)
        )
        write = partial(write_reply, result.model_name, result.model_version, infer, result.outputs)
        is_large = sum(len(tensor.raw) for _, tensor in result.outputs) > INLINE_BYTES
        return await off_loop(write) if is_large and not infer.wants_binary else write()


# --- The repository ---


class RepositoryIndex(OpenInferenceRoute):
    """`POST /v2/repository/index`."""

    method = "POST"
    paths = ("/v2/repository/index",)
    access = "infer"
    description = "The body may be empty."
    request_document = {"requestBody": schema.json_body(schema.IndexParameters)}
    answers = (list[schema.IndexEntry],)

    async def answer(self, request: OpenInferenceRequest) -> list[schema.IndexEntry]:
        """List every version in the repository with its state."""
        parameters = read(schema.IndexParameters, await _members(request))
        return await self.execution.index(request.context.caller, is_ready=parameters.ready)


class LoadModel(OpenInferenceRoute):
    """`POST /v2/repository/models/{model}/load`."""

    method = "POST"
    paths = ("/v2/repository/models/{model}/load",)
    access = "admin"
    description = "It answers when the model is ready."
    request_document = {"requestBody": schema.json_body(None, schema.LoadParameters)}

    async def answer(self, request: OpenInferenceRequest) -> dict[str, Any]:
        """Load a model, or load it again."""
        await self.execution.load(request.model, await _parameters(request), request.context)
        return {}


class UnloadModel(OpenInferenceRoute):
    """`POST /v2/repository/models/{model}/unload`."""

    method = "POST"
    paths = ("/v2/repository/models/{model}/unload",)
    access = "admin"
    description = "It answers when the last request has been answered and the memory is free."
    request_document = {"requestBody": schema.json_body(None, schema.UnloadParameters)}

    async def answer(self, request: OpenInferenceRequest) -> dict[str, Any]:
        """Unload a model."""
        await self.execution.unload(request.model, await _parameters(request), request.context)
        return {}


_BOUNDS = json_bounds(schema.IndexParameters, schema.LoadParameters, schema.UnloadParameters)


async def _members(request: OpenInferenceRequest) -> dict[str, Any]:
    return await by_size(partial(parse_json_object, bounds=_BOUNDS), request.body) if request.body.strip() else {}


async def _parameters(request: OpenInferenceRequest) -> dict[str, Any]:
    members = await _members(request)
    for name in members:
        if name != "parameters":
            raise InvalidParameter(f"Unknown member {shown(name)}; known is parameters.", parameter=name)
    parameters = members.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidParameter(f"parameters is {shown(parameters)}; it must be an object.", parameter="parameters")
    return parameters


# --- What this service declines ---

_NO_REPOSITORY_NAMES = "Repositories have no names here; leave the name out of the path."
_DECLINED = {
    ("POST", "/v2/repository/{repository}/index"): _NO_REPOSITORY_NAMES,
    ("POST", "/v2/repository/{repository}/models/{model}/load"): _NO_REPOSITORY_NAMES,
    ("POST", "/v2/repository/{repository}/models/{model}/unload"): _NO_REPOSITORY_NAMES,
} | {
    (method, f"/v2/{kind}sharedmemory/{end}"): NO_SHARED_MEMORY
    for kind in ("system", "cuda")
    for method, end in (
        ("GET", "status"),
        ("GET", "region/{region}/status"),
        ("POST", "region/{region}/register"),
        ("POST", "region/{region}/unregister"),
        ("POST", "unregister"),
    )
}


def _declined(method: str, path: str, reason: str) -> Route:
    async def decline(*_: object) -> None:
        raise Unsupported(reason)

    responses = error_responses(_501=reason)
    document = Document(
        summary="Not supported", description=reason, request={}, responses=responses, tag=TAG, status_code=501
    )
    return Route(method, path, decline, document, access="infer" if method == "GET" else "admin")


_ROUTES: tuple[type[OpenInferenceRoute], ...] = (
    ServerMetadata,
    ServerLive,
    ServerReady,
    AllStatistics,  # before the models, whose names its path would match
    ModelMetadata,
    ModelReady,
    ModelConfig,
    Statistics,
    Infer,
    Generate,
    GenerateStream,
    RepositoryIndex,
    LoadModel,
    UnloadModel,
)


def open_inference_routes(execution: Execution, drain: Drain) -> list[Route]:
    """The route table of the protocol."""
    table = []
    for kind in _ROUTES:
        handler, document = kind(execution, drain), kind.document()
        for path in kind.paths:
            table.append(Route(kind.method, path, handler, document, handler.direct, access=kind.access))
    return table + [_declined(method, path, reason) for (method, path), reason in _DECLINED.items()]
