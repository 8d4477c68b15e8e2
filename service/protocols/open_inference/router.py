"""What the Open Inference Protocol asks beside inference, over HTTP: health, metadata, configuration, statistics.

The repository's routes are in `repository_routes.py`. It computes nothing. Sources: inference_rest.md, Triton's
http_server.cc and extension_*.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from service import __version__
from service.errors import ServiceError
from service.http.middleware import Drain
from service.protocols.open_inference import documentation as documents
from service.protocols.open_inference.execution import Execution

NAME = "hotplate"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "generate",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
TAG = "open inference protocol"
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"

Tell = Callable[[str, str | None], Awaitable[Any]]


def open_inference_router(execution: Execution, drain: Drain) -> APIRouter:
    """The routes of the server and of its models."""
    router = APIRouter(tags=[TAG], responses=documents.ANY_ERROR)
    _add_server(router, execution, drain)
    _add_models(router, execution)
    return router


def _add_server(router: APIRouter, execution: Execution, drain: Drain) -> None:
    @router.get("/v2")
    async def server_metadata() -> documents.ServerMetadata:
        """Name, version and extensions of this service."""
        return documents.ServerMetadata(name=NAME, version=__version__, extensions=list(EXTENSIONS))

    @router.get("/v2/health/live")
    async def server_live() -> documents.Live:
        """Say that this process answers."""
        return documents.Live(live=True)

    @router.get("/v2/health/ready", response_model=documents.Ready, responses=documents.NOT_READY)
    async def server_ready() -> JSONResponse:
        """Say whether every wanted model is served: 400 if not, as Triton's; 503 while the service ends."""
        is_ready = execution.is_server_ready and not drain.is_draining
        status = 200 if is_ready else 503 if drain.is_draining else 400
        return JSONResponse({"ready": is_ready}, status)

    # Before the models' own routes: a path for all of them, not a model of that name.
    @router.get("/v2/models/stats", response_model=documents.Statistics)
    async def all_statistics() -> JSONResponse:
        """What every ready model has done since it was loaded."""
        return JSONResponse({"model_stats": await execution.statistics()})


def _add_models(router: APIRouter, execution: Execution) -> None:
    async def model_metadata(model: str, version: str | None) -> dict[str, Any]:
        """Names, datatypes and shapes of a model's tensors; the first -1 is the batch."""
        return asdict(execution.metadata(model, version))

    async def model_ready(model: str, version: str | None) -> JSONResponse:
        """Say whether a model can be served now: 400 if not, as Triton's."""
        return _readiness(execution, model, version)

    async def model_config(model: str, version: str | None) -> dict[str, Any]:
        """The model's configuration, in Triton's shape."""
        return execution.config(model, version)

    async def model_statistics(model: str, version: str | None) -> dict[str, Any]:
        """What a model has done since it was loaded, in Triton's shape."""
        return {"model_stats": await execution.statistics(model, version or "")}

    _add(router, "", model_metadata, documents.ModelMetadata)
    _add(router, "/ready", model_ready, documents.ModelReady, documents.NOT_READY)
    _add(router, "/config", model_config, documents.ModelConfig)
    _add(router, "/stats", model_statistics, documents.Statistics)


def _readiness(execution: Execution, model: str, version: str | None) -> JSONResponse:
    if execution.is_ready(model, version):
        return JSONResponse({"name": model, "ready": True})
    try:
        execution.find(model, version)
    except ServiceError as error:
        return JSONResponse({"error": error.message}, 400)
    return JSONResponse({"error": "The engine is not connected."}, 400)


def _add(router: APIRouter, end: str, tell: Tell, answer: type, responses: documents.Responses | None = None) -> None:
    """Route to what is told of a model: of its newest ready version, and of one that is named."""

    async def newest(model: str) -> JSONResponse:
        return _json(await tell(model, None))

    async def named(model: str, version: str) -> JSONResponse:
        return _json(await tell(model, version))

    name = getattr(tell, "__name__", "")
    for path, endpoint in ((f"{_MODEL}{end}", newest), (f"{_VERSION}{end}", named)):
        router.add_api_route(
            path,
            endpoint,
            methods=["GET"],
            name=name,
            summary=name.replace("_", " ").capitalize(),
            description=tell.__doc__,
            response_model=answer,
            responses=responses or documents.MODEL_ERRORS,
        )


def _json(value: Any) -> JSONResponse:
    return value if isinstance(value, JSONResponse) else JSONResponse(value)
