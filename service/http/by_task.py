"""One verb that several tasks understand: each model's task says which route answers. It knows no task itself."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive

from service.engine.transport.client import ReadyModel
from service.http.inference import InferenceRoute, resolve_for_task
from service.http.request_context import RequestContext, Scope


class ByTask(InferenceRoute):
    """Hands each request to the route of its model's task."""

    def __init__(self, *routes: InferenceRoute) -> None:
        super().__init__(routes[0].client, routes[0].settings)
        self._routes = {route.task: route for route in routes}

    def resolve(self, reference: str) -> ReadyModel:
        """The model, if it does one of the tasks.

        Raises: UnknownModel, ModelNotReady, UnsupportedTask.
        """
        return resolve_for_task(self.client, reference, *self._routes)

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """What the route of the model's task answers."""
        return await self._routes[model.manifest.task].answer(model, scope, receive, context)
