"""The base of the routes in OpenAI's wire format; the model is in the request, not in the path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from starlette.types import Receive, Send

from service.engine.transport.client import ReadyModel
from service.http.answers import send_answer
from service.http.documentation import PROBLEMS
from service.http.problems import OPENAI_TAG
from service.http.request_context import RequestContext, Scope, context_of
from service.http.routing import Document, Route
from service.protocols.openai.schema import OpenAiError
from service.schema import Answer, Parameters
from service.tasks.task import Dependencies, json_document, resolve_for_task


class OpenAiRoute(ABC):
    """A route; in OpenAPI, the docstring of `answer` is the summary, followed by `description`."""

    path: ClassVar[str]
    parameters: ClassVar[type[Parameters]]
    answers: ClassVar[tuple[type[Answer], ...]]
    description: ClassVar[str]
    example: ClassVar[dict[str, Any]]

    def __init__(self, dependencies: Dependencies) -> None:
        self.client = dependencies.client
        self.settings = dependencies.settings
        self.tokenizers = dependencies.tokenizers
        self.grammars = dependencies.grammars

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors are rendered by the middleware."""
        context = context_of(scope) or RequestContext("", 0.0)
        await send_answer(await self.answer(scope, receive, context), send, context)

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """Compute the answer: a struct or an EventAnswer."""

    def find(self, reference: str, context: RequestContext, *tasks: str) -> ReadyModel:
        """The model that a request names, which does one of the tasks.

        Raises: UnknownModel, ModelNotReady, UnsupportedTask.
        """
        context.caller.check_model(reference, self.client.statuses)
        model = resolve_for_task(self.client, reference, *tasks)
        context.model = model.name
        context.precision = self.client.precision_of(model.name, model.version)
        return model

    def request_document(self) -> dict[str, Any]:
        """OpenAPI's `parameters` and `requestBody`."""
        return json_document(self.parameters, self.example)

    def success(self) -> dict[str, Any]:
        """What OpenAPI says of an answer."""
        return {"description": "Successful Response"}

    def route(self) -> Route:
        """The route with its documentation."""
        document = Document(
            summary=(type(self).answer.__doc__ or "").strip(),
            description=f"{self.description} Errors come in OpenAI's form too.",
            request=self.request_document(),
            responses={**_error_responses(), 200: self.success()},
            answers=self.answers,
            tag=OPENAI_TAG,
        )
        return Route("POST", self.path, self, document, access="infer")


def _error_responses() -> dict[int | str, Any]:
    described = {status: problem["description"] for status, problem in PROBLEMS.items() if status != 422}
    described[400] = "The body is not JSON, or a parameter is unknown or out of range; `param` names it."
    described["default"] = "Any other error, in the same form."
    return {status: {"description": text, "model": OpenAiError} for status, text in described.items()}
