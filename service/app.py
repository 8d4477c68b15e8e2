"""Builds the ASGI application of an API process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from service import __version__
from service.engine.transport.client import EngineClient
from service.errors import ServiceError
from service.http import problems
from service.http.catalog import catalog_routes
from service.http.direct import DirectHeads
from service.http.documentation import ANY_PROBLEM
from service.http.gate import Gate
from service.http.health import health_routes
from service.http.middleware import Drain, RequestCycle, RequestMiddleware
from service.http.playground import documentation_routes, playground_routes
from service.http.routing import FastPath, Route, add_routes
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.routes import open_inference_routes
from service.protocols.openai import openai_routes
from service.security import KeyRing
from service.settings import Settings
from service.tasks.image_decoding import ImageDecoder
from service.tasks.registry import all_tasks
from service.tasks.task import Dependencies, routes_of
from service.tasks.tokenizers import Tokenizers
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing


class Application(NamedTuple):
    """The ASGI application, and what the connections need to answer hot routes without it.

    Where what changes the service has a port of its own, `admin` is the application of that port.
    """

    asgi: ASGIApp
    cycle: RequestCycle
    heads: DirectHeads
    admin: Application | None = None


def create_execution(settings: Settings, client: EngineClient, metrics: Metrics) -> Execution:
    """Build what HTTP and gRPC share: the process's tokenizers, decoders of images and budget of bytes."""
    client.budget.gauge = metrics.buffered_bytes
    return Execution(client, settings, ImageDecoder(settings, metrics), Tokenizers())


def create_app(
    settings: Settings,
    client: EngineClient,
    metrics: Metrics,
    drain: Drain,
    execution: Execution,
    keys: KeyRing | None,
    tracing: Tracing | None = None,
) -> Application:
    """Build the application."""
    dependencies = Dependencies(client, settings, metrics, execution.tokenizers, execution.decoder, execution.grammars)
    routes = [
        *routes_of(all_tasks().values(), dependencies),
        *openai_routes(dependencies),
        *open_inference_routes(execution, drain),
        *catalog_routes(client),
        *health_routes(client, metrics, drain, settings),
        *playground_routes(settings, needs_key=keys is not None),
    ]

    def application(routes: Sequence[Route]) -> Application:
        app = _framework()
        table = [*routes, *documentation_routes(lambda: app.openapi())]
        add_routes(app, table)
        fast_path = FastPath(app, table)
        gate = Gate(settings, keys, fast_path.find, lambda: client.statuses)
        cycle = RequestCycle(settings, metrics, drain, gate, tracing, execution.budget, execution.callers)
        heads = DirectHeads(fast_path.find, gate.need_of, settings.max_body_bytes)
        return Application(RequestMiddleware(fast_path, cycle), cycle, heads)

    if settings.admin_port == "off":
        return application(routes)
    return application([route for route in routes if route.access != "admin"])._replace(admin=application(routes))


def _framework() -> FastAPI:
    app = FastAPI(
        docs_url=None,
        openapi_url=None,
        title="Hotplate",
        version=__version__,
        description="Batched inference for the networks that this project trains, and for yours.",
        redoc_url=None,
        redirect_slashes=False,  # a redirect would echo the Host header
        responses=ANY_PROBLEM,
    )
    app.add_exception_handler(ServiceError, problems.on_service_error)
    app.add_exception_handler(HTTPException, problems.on_http_exception)
    app.add_exception_handler(RequestValidationError, problems.on_validation_error)
    app.add_exception_handler(Exception, problems.on_unexpected)
    return app
