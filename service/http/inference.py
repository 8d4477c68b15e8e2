"""What the inference routes share: the model in the path, the deadline, and a call that ends when its caller leaves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Receive, Send

from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import Arrays
from service.errors import InvalidParameter, ServiceError, UnsupportedTask
from service.http.events import EventAnswer, EventStream
from service.http.problems import problem_response
from service.http.request_context import RequestContext, Scope, exchange_of
from service.settings import Settings

encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class BinaryAnswer:
    """An answer that is no JSON, in pieces; between two of them the caller may catch up."""

    media_type: str
    pieces: Sequence[bytes]
    headers: Sequence[tuple[bytes, bytes]] = ()

    async def write(self, send: Send) -> None:
        """Send it."""
        num_bytes = sum(map(len, self.pieces))
        headers = [(b"content-type", self.media_type.encode("ascii")), (b"content-length", b"%d" % num_bytes)]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, *self.headers]})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class InferenceRoute(ABC):
    """Base of the routes on `/v1/models/{model}/...`: a plain ASGI application, for it is the hot path."""

    task = ""

    def __init__(self, client: EngineClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or its error."""
        context = exchange_of(scope) or RequestContext("", 0.0)
        try:
            model = self.resolve(scope["path_params"]["model"])
            context.model = model.name
            await send_answer(await self.answer(model, scope, receive, context), send)
        except ServiceError as error:
            await problem_response(error)(scope, receive, send)

    @abstractmethod
    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """The answer as JSON values, as bytes or as events; each route's own."""

    def resolve(self, reference: str) -> ReadyModel:
        """The model, if it does this route's task.

        Raises: UnknownModel, ModelNotReady, UnsupportedTask.
        """
        return resolve_for_task(self.client, reference, self.task)

    async def infer(
        self,
        model: ReadyModel,
        scope: Scope,
        context: RequestContext,
        rows: Sequence[bytes | memoryview],
        outputs: tuple[str, ...],
        *,
        graph: str = "model",
    ) -> Arrays:
        """Compute outputs of a graph for rows of its only input."""
        timeout_seconds = request_timeout_seconds(scope, self.settings)
        call = self.client.infer(model, graph, outputs, rows, len(rows), timeout_seconds)
        if context.is_disconnected:
            self.client.cancel(call)
        context.on_disconnect = lambda: self.client.cancel(call)
        arrays, context.timing = await call
        return arrays


def resolve_for_task(client: EngineClient, reference: str, *tasks: str) -> ReadyModel:
    """The model `name` or `name@version`, if it does one of the tasks.

    Raises: UnknownModel, ModelNotReady, UnsupportedTask.
    """
    model = client.resolve(reference)
    if model.manifest.task not in tasks:
        raise UnsupportedTask(f"{model.name!r} does {model.manifest.task}; this route needs {' or '.join(tasks)}.")
    return model


async def send_answer(answer: Any, send: Send) -> None:
    """Send JSON values, a binary answer, or the events of an answer that comes in pieces.

    Raises: ServiceError, only as long as nothing was sent.
    """
    if isinstance(answer, EventAnswer):
        await answer.write(EventStream(send))
        return
    if isinstance(answer, BinaryAnswer):
        await answer.write(send)
        return
    body = encode_json(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def request_timeout_seconds(scope: Scope, settings: Settings) -> float:
    """The deadline that the caller asks for in `X-Request-Timeout`, in seconds, or the default.

    Raises: InvalidParameter.
    """
    for name, value in scope["headers"]:
        if name == b"x-request-timeout":
            largest = settings.max_request_timeout_seconds
            try:
                seconds = float(value)
            except ValueError:
                seconds = math.nan
            if not 0 < seconds <= largest:
                shown = value.decode("latin-1")[:40]
                raise InvalidParameter(
                    f"X-Request-Timeout is {shown!r}; it must be seconds, above 0 up to {largest:g}."
                )
            return seconds
    return settings.request_timeout_seconds
