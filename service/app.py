"""The composition root of one API process: settings, engine client and metrics become an ASGI application."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from service import __version__
from service.api import problems
from service.api.catalog import catalog_router
from service.api.classification import Classify, Embed
from service.api.documentation import ANY_PROBLEM, PROBLEMS, Classified, Embedded, classifier_request
from service.api.envelope import Drain, Envelope
from service.api.health import health_router
from service.api.hotpath import HotPath, hot_path
from service.engine.client import EngineClient
from service.errors import ServiceError
from service.metrics import Metrics
from service.settings import Settings


def create_app(settings: Settings, client: EngineClient, metrics: Metrics, drain: Drain) -> ASGIApp:
    """Build the application."""
    app = FastAPI(
        title="Hotplate",
        version=__version__,
        description="Batched inference for the networks that this project trains.",
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the caller's Host header
        responses=ANY_PROBLEM,
    )
    app.add_exception_handler(ServiceError, problems.on_service_error)
    app.add_exception_handler(HTTPException, problems.on_http_exception)
    app.add_exception_handler(RequestValidationError, problems.on_validation_error)
    app.add_exception_handler(Exception, problems.on_unexpected)
    decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
    classify = Classify(client, settings, metrics, decoders)
    embed = Embed(client, settings, metrics, decoders)
    _add_hot_route(app, hot_path("classify"), classify, Classified, classifier_request(explains=True))
    _add_hot_route(app, hot_path("embed"), embed, Embedded, classifier_request(explains=False))
    app.include_router(catalog_router(client))
    app.include_router(health_router(client, metrics, drain))
    return Envelope(HotPath(app, {"classify": classify, "embed": embed}), settings, metrics, drain)


def _add_hot_route(app: FastAPI, path: str, handler: ASGIApp, answer: Any, request: dict[str, Any]) -> None:
    """Route to a plain ASGI handler, and keep the entry in the OpenAPI document that FastAPI would make."""

    async def documented(model: str) -> Any: ...

    documented.__name__ = path.rpartition("/")[2]
    documented.__doc__ = type(handler).__doc__
    endpoint: Callable[..., Any] = documented
    app.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        response_model=answer,
        responses=PROBLEMS,
        openapi_extra=request,
        summary=(handler.answer.__doc__ or "").strip() if hasattr(handler, "answer") else None,
        tags=["inference"],
    )
    route = app.router.routes[-1]
    assert isinstance(route, APIRoute)
    route.app = handler
