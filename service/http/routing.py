"""The route table, from which the fast path, FastAPI and the OpenAPI document are built.

The fast path calls a route's handler without the framework. FastAPI has the same handlers; it answers unknown paths and
other methods, and writes the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send

from service.errors import NotFound
from service.http.answers import send_answer
from service.http.direct import Direct
from service.http.documentation import Problem, inline_schema
from service.http.request_context import RequestContext, Scope, context_of
from service.security import Access

Responses = Mapping[int | str, Mapping[str, Any]]
_SCHEMAS = "#/components/schemas/{name}"
_REST = ":path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The OpenAPI documentation of a route.

    `request` holds OpenAPI's `parameters` and `requestBody`, `answers` the structs that a JSON answer may be; a
    response may name the struct of its JSON as `model`.
    """

    summary: str
    description: str
    request: Mapping[str, Any]
    responses: Responses
    answers: tuple[type, ...] = ()
    tag: str = "inference"
    status_code: int = 200


@dataclass(frozen=True, slots=True)
class Route:
    """One route; `path` is also its label in metrics. A hot one has a way to answer without ASGI, too: `direct`.

    `access` is what it needs of a key. Without a `document`, the OpenAPI document leaves it out. A last part
    `{name:path}` stands for all that follows.
    """

    method: str
    path: str
    handler: ASGIApp
    document: Document | None
    direct: Direct | None = None
    access: Access = field(kw_only=True)
    parts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.path.split("/")))

    def match(self, parts: list[str]) -> dict[str, Any] | None:
        """Return the path parameters, or None if the path does not match."""
        found: dict[str, Any] = {}
        for expected, part in zip(self.parts, parts, strict=True):
            if expected.startswith("{"):
                if not part:
                    return None
                found[expected[1:-1]] = part
            elif expected != part:
                return None
        return found


def json_handler(answer: Callable[[Scope], Awaitable[Any]]) -> ASGIApp:
    """Wrap a function as a handler that sends its result as JSON; the middleware renders its errors."""

    async def handle(scope: Scope, _receive: Receive, send: Send) -> None:
        await send_answer(await answer(scope), send, context_of(scope) or RequestContext("", 0.0))

    return handle


class FastPath:
    """Dispatches requests to the handlers of the table, and all others to the application, which has none of its own.

    So what a route needs of a key is looked up by the same match as the route.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._routes: dict[tuple[int, str, str, str], list[Route]] = {}
        self._folders: list[tuple[str, str, Route]] = []
        for route in routes:
            last = "" if route.parts[-1].startswith("{") else route.parts[-1]
            if route.parts[-1].endswith(_REST):
                prefix, _, name = route.path.removesuffix(_REST).rpartition("{")
                self._folders.append((prefix, name, route))
            else:
                self._routes.setdefault((len(route.parts), route.parts[1], last, route.method), []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = self.find(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        route, scope["path_params"] = found
        scope["route"] = route
        await route.handler(scope, receive, send)

    def find(self, scope: Scope) -> tuple[Route, dict[str, Any]] | None:
        """The route that answers a request, and the path's parameters."""
        path, method = scope["path"], scope["method"]
        parts = path.split("/")
        if len(parts) < 2:
            return None
        for last in (parts[-1], ""):
            for route in self._routes.get((len(parts), parts[1], last, method), ()):
                if (found := route.match(parts)) is not None:
                    return route, found
        for prefix, name, route in self._folders:
            if path.startswith(prefix) and method == route.method:
                return route, {name: path[len(prefix) :]}
        return None


def add_routes(app: FastAPI, routes: Iterable[Route]) -> None:
    """Register the handlers and their documentation with FastAPI."""
    components: dict[str, Any] = {Problem.__name__: inline_schema(Problem)}
    for route in routes:
        _add_route(app, route, components)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(components)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


async def _not_found(scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answer for a route that FastAPI finds, but the table did not: nothing was asked of its caller."""
    raise NotFound(f"There is no {scope['path']!r}; see /docs for all routes.")


def _add_route(app: FastAPI, route: Route, components: dict[str, Any]) -> None:
    document = route.document
    if document is None:
        app.add_api_route(route.path, _endpoint(route.path), methods=[route.method], include_in_schema=False)
    else:
        _add_documented(app, route, document, components)
    registered = app.router.routes[-1]
    assert isinstance(registered, APIRoute)
    registered.app = _not_found


def _add_documented(app: FastAPI, route: Route, document: Document, components: dict[str, Any]) -> None:
    responses = {status: _response(response, components) for status, response in document.responses.items()}
    if document.status_code == 200:
        responses[200] = _success(document, components)
    app.add_api_route(
        route.path,
        _endpoint(route.path),
        methods=[route.method],
        response_class=Response,
        status_code=document.status_code,
        responses=responses,
        openapi_extra=dict(document.request),
        summary=document.summary,
        description=document.description,
        tags=[document.tag],
    )


def _endpoint(path: str) -> Callable[..., Any]:
    """A function with the path parameters in its signature, for FastAPI to document; it is never called."""

    async def endpoint() -> Any: ...

    names = [part[1:-1].partition(":")[0] for part in path.split("/") if part.startswith("{")]
    endpoint.__name__ = path.rpartition("/")[2].strip("{}").replace("-", "_")
    endpoint.__signature__ = Signature([Parameter(name, Parameter.KEYWORD_ONLY, annotation=str) for name in names])  # type: ignore[attr-defined]
    return endpoint


def _response(response: Mapping[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    described = {**response}
    if "model" in described:
        described["content"] = _json_content((described.pop("model"),), components)
    return described


def _success(document: Document, components: dict[str, Any]) -> dict[str, Any]:
    success = {"description": "Successful Response", **document.responses.get(200, {})}
    if document.answers:
        success["content"] = {**_json_content(document.answers, components), **success.get("content", {})}
    return success


def _json_content(kinds: tuple[type, ...], components: dict[str, Any]) -> dict[str, Any]:
    references, schemas = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS)
    for name, schema in schemas.items():
        if components.setdefault(name, schema) != schema:
            raise TypeError(f"Two different structs in the OpenAPI document are named {name!r}.")
    schema = references[0] if len(references) == 1 else {"anyOf": list(references)}
    return {"application/json": {"schema": schema}}
