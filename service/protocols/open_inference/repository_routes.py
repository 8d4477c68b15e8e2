"""The model repository over HTTP, and the extensions of Triton's that this service declines with a reason.

Sources: Triton's extension_model_repository.md, extension_shared_memory.md.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from msgspec import Meta
from starlette.responses import JSONResponse

from service.errors import InvalidParameter, Unsupported
from service.http.body import parse_json_object, read_body
from service.http.request_context import RequestContext, context_of
from service.protocols.open_inference import codings
from service.protocols.open_inference import documentation as documents
from service.protocols.open_inference.control import LoadParameters, UnloadParameters, check_unload, read_load
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.request import NO_SHARED_MEMORY
from service.protocols.open_inference.router import TAG
from service.schema import Parameters, read, shown
from service.settings import Settings


class IndexParameters(Parameters):
    """The parameters of `index`."""

    ready: Annotated[bool, Meta(description="Only versions that are ready.")] = False


def repository_router(execution: Execution, settings: Settings) -> APIRouter:
    """The routes that list, load and unload."""
    router = APIRouter(prefix="/v2/repository", tags=[TAG], responses=documents.ANY_ERROR)

    async def members_of(request: Request) -> dict[str, Any]:
        """The JSON object in a body, which may be empty."""
        context = context_of(request.scope) or RequestContext("", 0.0)
        body = await read_body(request.scope, request.receive, context, settings.max_body_bytes, may_be_coded=True)
        headers = request.scope["headers"]
        body = await codings.decoded(body, headers, settings.max_body_bytes, execution.tokenizers.threads)
        return parse_json_object(body) if body.strip() else {}

    @router.post(
        "/index", openapi_extra=documents.json_body(IndexParameters), response_model=list[documents.IndexEntry]
    )
    async def repository_index(request: Request) -> JSONResponse:
        """List every version in the repository with its state."""
        parameters = read(IndexParameters, await members_of(request))
        return JSONResponse([asdict(entry) for entry in await execution.index(is_ready=parameters.ready)])

    @router.post("/models/{model}/load", openapi_extra=documents.json_body(None, LoadParameters), response_model=None)
    async def load_model(model: str, request: Request) -> Response:
        """Load a model or load it again; it answers when the model is served."""
        await execution.load(model, read_load(_parameters(await members_of(request))))
        return JSONResponse({})

    @router.post(
        "/models/{model}/unload", openapi_extra=documents.json_body(None, UnloadParameters), response_model=None
    )
    async def unload_model(model: str, request: Request) -> Response:
        """Serve a model no longer; it answers when the last request is, and the memory is free."""
        check_unload(_parameters(await members_of(request)))
        await execution.unload(model)
        return JSONResponse({})

    for path in ("/{repository}/index", "/{repository}/models/{model}/load", "/{repository}/models/{model}/unload"):
        _decline(router, path, ["POST"], "Repositories have no names here; leave it out of the path.")
    return router


def _parameters(members: dict[str, Any]) -> dict[str, Any]:
    for name in members:
        if name != "parameters":
            raise InvalidParameter(f"Unknown member {shown(name)}; known is parameters.", parameter=name)
    parameters = members.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidParameter(f"parameters is {shown(parameters)}; it must be an object.", parameter="parameters")
    return parameters


def declined_router() -> APIRouter:
    """The routes of shared memory, which answer 501."""
    router = APIRouter(prefix="/v2", tags=[TAG], responses=documents.ANY_ERROR)
    for kind in ("systemsharedmemory", "cudasharedmemory"):
        _decline(router, f"/{kind}/status", ["GET"], NO_SHARED_MEMORY)
        _decline(router, f"/{kind}/region/{{region}}/status", ["GET"], NO_SHARED_MEMORY)
        _decline(router, f"/{kind}/region/{{region}}/register", ["POST"], NO_SHARED_MEMORY)
        for region in ("", "/region/{region}"):
            _decline(router, f"/{kind}{region}/unregister", ["POST"], NO_SHARED_MEMORY)
    return router


def _decline(router: APIRouter, path: str, methods: list[str], why: str) -> None:
    async def declined() -> Response:
        raise Unsupported(why)

    router.add_api_route(
        path,
        declined,
        methods=methods,
        response_model=None,
        status_code=501,
        summary="Not supported",
        description=why,
        responses={501: {"model": documents.Error, "description": why}},
        openapi_extra=documents.path_parameters(path),
    )
