"""The composition root of one API process: settings, engine client and metrics become an ASGI application."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from service import __version__
from service.engine.transport.client import EngineClient
from service.errors import ServiceError
from service.http import problems
from service.http.by_task import ByTask
from service.http.catalog import catalog_router
from service.http.documentation import ANY_PROBLEM
from service.http.entries import ENTRIES, GENERATE_BY_ADDRESS, Entry
from service.http.health import health_router
from service.http.hotpath import HotPath, hot_path, open_path
from service.http.middleware import Drain, RequestMiddleware
from service.http.playground import playground_router
from service.protocols.open_inference import text_routes as open_texts
from service.protocols.open_inference.entries import ENTRIES as OPEN_ENTRIES
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.repository_routes import declined_router, repository_router
from service.protocols.open_inference.router import TAG as OPEN_TAG
from service.protocols.open_inference.router import open_inference_router
from service.protocols.open_inference.routes import Infer
from service.protocols.openai.routes import COMPLETIONS, Completions
from service.security import KeyRing
from service.settings import Settings
from service.tasks.classification.routes import Classify, Embed
from service.tasks.image_generation.encoding import EmbedLatent, Encode, Reconstruct
from service.tasks.image_generation.latent_routes import Arithmetic, Interpolate
from service.tasks.image_generation.routes import Decode, GenerateByAddress, GeneratePictures
from service.tasks.style_transfer.routes import Stylize
from service.tasks.style_transfer.styles import Thumbnails, styles_router
from service.tasks.text_generation.inspection import Attention, Detokenize, NextToken, Score, Tokenize
from service.tasks.text_generation.routes import Generate
from service.tasks.text_generation.tokenizers import Tokenizers
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing


def create_execution(settings: Settings, client: EngineClient, metrics: Metrics) -> Execution:
    """Build what HTTP and gRPC share; its tokenizers and threads are those of the whole process."""
    threads = ThreadPoolExecutor(settings.decode_threads, "decode")
    return Execution(client, settings, metrics, threads, Tokenizers(threads))


def create_app(
    settings: Settings,
    client: EngineClient,
    metrics: Metrics,
    drain: Drain,
    execution: Execution,
    keys: KeyRing | None,
    tracing: Tracing | None = None,
) -> ASGIApp:
    """Build the application."""
    app = FastAPI(
        title="Hotplate",
        version=__version__,
        description="Batched inference for the networks that this project trains.",
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the caller's Host header
        responses=ANY_PROBLEM,
    )
    _add_error_handlers(app)
    tokenizers = execution.tokenizers
    threads = tokenizers.threads
    handlers = _handlers(settings, client, metrics, threads, tokenizers)
    whole: dict[str, ASGIApp] = {COMPLETIONS: Completions(client, settings, tokenizers)}
    for verb, handler in handlers.items():
        _add_hot_route(app, hot_path(verb), handler, ENTRIES[verb])
    for path, handler in whole.items():
        _add_hot_route(app, path, handler, ENTRIES[path])
    by_address = GenerateByAddress(client, settings, metrics, threads)
    _add_hot_route(app, hot_path("generate"), by_address, GENERATE_BY_ADDRESS, method="GET")
    open_inference = _add_open_inference(app, execution, settings, drain)
    app.include_router(catalog_router(client))
    app.include_router(styles_router(client, Thumbnails(threads)))
    app.include_router(health_router(client, metrics, drain, settings))
    app.include_router(playground_router(settings, needs_key=keys is not None))
    return RequestMiddleware(HotPath(app, handlers, whole, open_inference), settings, metrics, drain, keys, tracing)


def _handlers(
    settings: Settings, client: EngineClient, metrics: Metrics, threads: ThreadPoolExecutor, tokenizers: Tokenizers
) -> dict[str, ASGIApp]:
    """The handler of each verb on a model."""
    pictures = (client, settings, metrics, threads)
    texts = (client, settings, tokenizers)
    return {
        "classify": Classify(*pictures),
        "embed": ByTask(Embed(*pictures), EmbedLatent(*pictures)),
        "encode": Encode(*pictures),
        "reconstruct": Reconstruct(*pictures),
        "stylize": Stylize(*pictures),
        "generate": ByTask(Generate(*texts), GeneratePictures(*pictures)),
        "decode": Decode(*pictures),
        "interpolate": Interpolate(*pictures),
        "arithmetic": Arithmetic(*pictures),
        "next-token": NextToken(*texts),
        "tokenize": Tokenize(*texts),
        "detokenize": Detokenize(*texts),
        "score": Score(*texts),
        "attention": Attention(*texts),
    }


def _add_open_inference(app: FastAPI, execution: Execution, settings: Settings, drain: Drain) -> dict[str, ASGIApp]:
    """Route all of `/v2`; return the handlers of its hot routes."""
    threads = execution.tokenizers.threads
    handlers: dict[str, ASGIApp] = {
        "infer": Infer(execution, settings, threads),
        "generate": open_texts.Generate(execution, settings, threads),
        "generate_stream": open_texts.GenerateStream(execution, settings, threads),
    }
    for verb, handler in handlers.items():
        for is_named in (False, True):
            _add_hot_route(app, open_path(verb, is_named=is_named), handler, OPEN_ENTRIES[verb], OPEN_TAG)
    app.include_router(open_inference_router(execution, drain))
    app.include_router(repository_router(execution, settings))
    app.include_router(declined_router())
    return handlers


def _add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, problems.on_service_error)
    app.add_exception_handler(HTTPException, problems.on_http_exception)
    app.add_exception_handler(RequestValidationError, problems.on_validation_error)
    app.add_exception_handler(Exception, problems.on_unexpected)


def _add_hot_route(
    app: FastAPI, path: str, handler: ASGIApp, entry: Entry, tag: str = "inference", method: str = "POST"
) -> None:
    """Route to a plain ASGI handler, and keep the entry in the OpenAPI document that FastAPI would make."""

    async def documented(model: str) -> Any: ...

    async def documented_version(model: str, version: str) -> Any: ...

    async def documented_whole() -> Any: ...

    endpoint: Callable[..., Any] = documented if "{model}" in path else documented_whole
    if "{version}" in path:
        endpoint = documented_version
    endpoint.__name__ = path.rpartition("/")[2].replace("-", "_")
    endpoint.__doc__ = entry.description
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        response_model=entry.answer,
        response_class=JSONResponse if entry.answer else Response,
        responses=entry.responses,
        openapi_extra=entry.request,
        summary=(handler.answer.__doc__ or "").strip() if hasattr(handler, "answer") else None,
        tags=[tag],
    )
    route = app.router.routes[-1]
    assert isinstance(route, APIRoute)
    route.app = handler
