"""Leads the inference routes past the framework: a look at the path, then the plain ASGI handler.

The same handlers stay registered in the FastAPI application, which answers everything else: other methods, odd paths,
documentation. It knows the shape of a path and nothing of what the handlers do.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Send

from service.api.exchange import Scope

PREFIX = "/v1/models/"


@dataclass(frozen=True, slots=True)
class HotRoute:
    """One inference route: the template of its path, by which it is counted, and its handler."""

    path: str
    handler: ASGIApp


class HotPath:
    """Dispatches `POST /v1/models/{model}/{verb}` and some whole paths itself; the rest goes to the application."""

    def __init__(self, app: ASGIApp, handlers: dict[str, ASGIApp], whole: dict[str, ASGIApp]) -> None:
        self._app = app
        self._routes = {verb: HotRoute(hot_path(verb), handler) for verb, handler in handlers.items()}
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
        elif (route := self._whole.get(path)) is not None and scope["method"] == "POST":
            scope["route"] = route
            await route.handler(scope, receive, send)
            return
        await self._app(scope, receive, send)


def hot_path(verb: str) -> str:
    """The template of an inference route's path."""
    return f"{PREFIX}{{model}}/{verb}"
