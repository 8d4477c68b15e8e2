"""Leads the inference routes past the framework: a look at the path, then the plain ASGI handler.

The same handlers stay registered in the FastAPI application, which answers everything else: other methods, odd paths,
documentation. It knows the shape of a path and nothing of what the handlers do.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Send

from service.http.request_context import Scope

PREFIX = "/v1/models/"
OPEN_PREFIX = "/v2/models/"


@dataclass(frozen=True, slots=True)
class HotRoute:
    """One inference route: the template of its path, by which it is counted, and its handler."""

    path: str
    handler: ASGIApp


class HotPath:
    """Dispatches `POST /v1/models/{model}/{verb}` and some whole paths itself; the rest goes to the application.

    So it does `POST /v2/models/{model}[/versions/{version}]/{verb}` with the handlers in `open_inference`.
    """

    def __init__(
        self,
        app: ASGIApp,
        handlers: dict[str, ASGIApp],
        whole: dict[str, ASGIApp],
        open_inference: dict[str, ASGIApp] | None = None,
    ) -> None:
        self._app = app
        self._routes = {verb: HotRoute(hot_path(verb), handler) for verb, handler in handlers.items()}
        self._open = {
            (verb, is_named): HotRoute(open_path(verb, is_named=is_named), handler)
            for verb, handler in (open_inference or {}).items()
            for is_named in (False, True)
        }
        self._whole = {path: HotRoute(path, handler) for path, handler in whole.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope.get("path", "")
        if path.startswith(PREFIX) and scope["method"] == "POST":
            model, _, verb = path[len(PREFIX) :].partition("/")
            route = self._routes.get(verb)
            if route is not None and model:
                scope["route"] = route
                scope["path_params"] = {"model": model}
                await route.handler(scope, receive, send)
                return
        elif path.startswith(OPEN_PREFIX) and scope["method"] == "POST":
            parts = path[len(OPEN_PREFIX) :].split("/")
            is_named = len(parts) == 4 and parts[1] == "versions" and bool(parts[2])
            route = self._open.get((parts[-1], is_named)) if is_named or len(parts) == 2 else None
            if route is not None and parts[0]:
                scope["route"] = route
                scope["path_params"] = {"model": parts[0], "version": parts[2] if is_named else None}
                await route.handler(scope, receive, send)
                return
        elif (route := self._whole.get(path)) is not None and scope["method"] == "POST":
            scope["route"] = route
            await route.handler(scope, receive, send)
            return
        await self._app(scope, receive, send)


def hot_path(verb: str) -> str:
    """The template of an inference route's path."""
    return f"{PREFIX}{{model}}/{verb}"


def open_path(verb: str, *, is_named: bool) -> str:
    """The template of a route's path in the Open Inference Protocol, with or without a version that is named."""
    return f"{OPEN_PREFIX}{{model}}{'/versions/{version}' if is_named else ''}/{verb}"
