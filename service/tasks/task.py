"""What a task declares, and what its routes share: the model in the path, the parameters, the deadline, the answer.

A task is one folder beside this file and one line in `registry.py`. A route is one class: its attributes declare the
verb, the parameters and the answers, from which the route table, OpenAPI and the READMEs are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar

from starlette.types import Receive, Send

from service import schema
from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import Arrays
from service.errors import ServiceError, UnsupportedTask
from service.http.answers import send_answer
from service.http.body import Images, read_body, read_images, read_json, read_json_or_query, read_query
from service.http.documentation import BINARY, PROBLEMS, TIMEOUT_HEADER
from service.http.problems import problem_response
from service.http.request_context import RequestContext, Scope, context_of, request_timeout_seconds
from service.http.routing import Document, Responses, Route
from service.schema import Answer, P, Parameters
from service.settings import Settings
from service.tasks.tokenizers import Tokenizers
from service.telemetry.metrics import Metrics

PREFIX = "/v1/models/{model}/"
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
_TENSOR_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the routes of one API process share."""

    client: EngineClient
    settings: Settings
    metrics: Metrics
    threads: ThreadPoolExecutor
    tokenizers: Tokenizers


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task: what its models must have, and how it is reached.

    `graphs`: those that every model of the task has. `takes_images`: the Open Inference Protocol may send encoded
    images in the place of pixels. `page`: its page in the playground.
    """

    name: str
    graphs: tuple[str, ...]
    routes: tuple[type[TaskRoute], ...]
    takes_images: bool = False
    page: str = ""


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One request of a route, its model found."""

    model: ReadyModel
    scope: Scope
    receive: Receive
    context: RequestContext


class TaskRoute(ABC):
    """Base of the routes on `/v1/models/{model}/...`: plain ASGI applications, for they are the hot path.

    The docstring of `answer` is the summary in OpenAPI, `description` says the rest. `files` are the media types of
    answers that are not JSON, `events` an example of those that come as server-sent events.
    """

    task: ClassVar[str]
    verb: ClassVar[str]
    method: ClassVar[str] = "POST"
    parameters: ClassVar[type[Parameters]]
    answers: ClassVar[tuple[type[Answer], ...]] = ()
    description: ClassVar[str] = ""
    example: ClassVar[Mapping[str, Any]] = {}
    files: ClassVar[tuple[str, ...]] = ()
    events: ClassVar[str] = ""
    responses: ClassVar[Responses] = PROBLEMS

    def __init__(self, dependencies: Dependencies) -> None:
        self.client = dependencies.client
        self.settings = dependencies.settings
        self.dependencies = dependencies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or its error."""
        context = context_of(scope) or RequestContext("", 0.0)
        try:
            model = self.resolve(scope["path_params"]["model"])
            context.model = model.name
            await send_answer(await self.answer(TaskRequest(model, scope, receive, context)), send)
        except ServiceError as error:
            await problem_response(error)(scope, receive, send)

    @abstractmethod
    async def answer(self, request: TaskRequest) -> Any:
        """The answer as a struct, as bytes or as events; each route's own."""

    @classmethod
    @abstractmethod
    def request_document(cls) -> dict[str, Any]:
        """OpenAPI's `parameters` and `requestBody`."""

    def resolve(self, reference: str) -> ReadyModel:
        """The model, if it does this route's task.

        Raises: UnknownModel, ModelNotReady, UnsupportedTask.
        """
        return resolve_for_task(self.client, reference, self.task)

    def timeout_seconds(self, request: TaskRequest) -> float:
        """The deadline of a request.

        Raises: InvalidParameter.
        """
        return request_timeout_seconds(request.scope, self.settings)

    async def infer(
        self,
        request: TaskRequest,
        rows: Sequence[bytes | memoryview],
        outputs: tuple[str, ...],
        *,
        graph: str = "model",
    ) -> Arrays:
        """Compute outputs of a graph for rows of its only input; a caller who leaves cancels it."""
        context = request.context
        call = self.client.infer(request.model, graph, outputs, rows, len(rows), self.timeout_seconds(request))
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


class JsonRoute(TaskRoute):
    """A route that takes its parameters as a JSON object."""

    async def read(self, request: TaskRequest, kind: type[P]) -> P:
        """The parameters.

        Raises: ServiceError.
        """
        max_bytes = self.settings.max_body_bytes
        return await read_json(request.scope, request.receive, request.context, kind, max_bytes)

    @classmethod
    def request_document(cls) -> dict[str, Any]:
        """OpenAPI's `parameters` and `requestBody`."""
        return json_document(cls.parameters, cls.example)


class JsonOrQueryRoute(JsonRoute):
    """A route that takes its parameters as a JSON object, or from the query where the body is empty."""

    async def read(self, request: TaskRequest, kind: type[P]) -> P:
        """The parameters.

        Raises: ServiceError.
        """
        max_bytes = self.settings.max_body_bytes
        return await read_json_or_query(request.scope, request.receive, request.context, kind, max_bytes)

    @classmethod
    def request_document(cls) -> dict[str, Any]:
        """OpenAPI's `parameters` and `requestBody`."""
        body = json_document(cls.parameters, cls.example)["requestBody"]
        return query_document(cls.parameters) | {"requestBody": {"content": body["content"]}}


class QueryRoute(TaskRoute):
    """A route that takes its parameters from the query; a body has no meaning."""

    method = "GET"

    async def read(self, request: TaskRequest, kind: type[P]) -> P:
        """The parameters.

        Raises: InvalidParameter.
        """
        return read_query(request.scope, kind)

    @classmethod
    def request_document(cls) -> dict[str, Any]:
        """OpenAPI's `parameters`."""
        return query_document(cls.parameters)


class ImagesRoute(TaskRoute):
    """A route that takes encoded images, and one raw tensor where `tensor_graph` names the graph that it is for."""

    tensor_graph: ClassVar[str] = ""

    async def read(
        self, request: TaskRequest, kind: type[P], maxima: Mapping[str, int] = MappingProxyType({})
    ) -> tuple[Images, P]:
        """The images or the tensor, and the parameters; `maxima` as in `schema.read`.

        Raises: ServiceError.
        """
        scope, settings = request.scope, self.settings
        body = await read_body(scope, request.receive, request.context, settings.max_body_bytes)
        raw_bytes = prod(self.row_shape(request.model)) if self.tensor_graph else None
        return await read_images(scope, body, kind, settings, raw_bytes=raw_bytes, maxima=maxima)

    def row_shape(self, model: ReadyModel) -> tuple[int, ...]:
        """The shape [H,W,C] of the images that the graph takes."""
        return model.manifest.graphs[self.tensor_graph].inputs[0].row_shape

    @classmethod
    def request_document(cls) -> dict[str, Any]:
        """OpenAPI's `parameters` and `requestBody`."""
        parameters = schema.properties(cls.parameters)
        files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
        texts = {"type": "array", "items": {"type": "string", "format": "byte"}, "minItems": 1}
        form = {"type": "object", "required": ["file"], "properties": {"file": files, **parameters}}
        body = {"type": "object", "required": ["images"], "properties": {"images": texts, **parameters}}
        content = {
            **dict.fromkeys((*_IMAGE_TYPES, *([_TENSOR_TYPE] if cls.tensor_graph else [])), BINARY),
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": body | {"additionalProperties": False}},
        }
        return query_document(cls.parameters) | {"requestBody": {"required": True, "content": content}}


def json_document(kind: type[Parameters], example: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of a JSON body of parameters."""
    body = {"type": "object", "properties": schema.properties(kind), "additionalProperties": False}
    if required := schema.required(kind):
        body["required"] = required
    content = {"application/json": {"schema": body, "example": dict(example)}}
    return {"parameters": [TIMEOUT_HEADER], "requestBody": {"required": True, "content": content}}


def query_document(kind: type[Parameters]) -> dict[str, Any]:
    """What OpenAPI says of parameters in the query."""
    query = [{"name": name, "in": "query", "schema": each} for name, each in schema.properties(kind).items()]
    return {"parameters": [*query, TIMEOUT_HEADER]}


@dataclass(slots=True)
class _ByTask:
    """One verb that several tasks have: the model's task says which route answers."""

    routes: Mapping[str, TaskRoute]
    client: EngineClient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to the route of its model's task."""
        try:
            model = resolve_for_task(self.client, scope["path_params"]["model"], *self.routes)
        except ServiceError as error:
            await problem_response(error)(scope, receive, send)
            return
        await self.routes[model.manifest.task](scope, receive, send)


@dataclass(slots=True)
class _Merged:
    """The documents of one verb's routes, merged into one."""

    summaries: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    parameters: dict[tuple[str, str], Any] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    responses: dict[int | str, Any] = field(default_factory=dict)
    answers: list[type] = field(default_factory=list)

    def add(self, route: type[TaskRoute]) -> None:
        """Add one route's document."""
        request = route.request_document()
        self.summaries.append((route.answer.__doc__ or "").strip())
        self.descriptions.append(route.description)
        self.parameters |= {(each["in"], each["name"]): each for each in request["parameters"]}
        self.bodies += [request["requestBody"]] if "requestBody" in request else []
        self.responses |= {status: response for status, response in route.responses.items() if status != 200}
        self.answers += [answer for answer in route.answers if answer not in self.answers]
        success = self.responses.setdefault(200, {"description": "Successful Response", "content": {}})
        told = route.responses.get(200, {})
        success |= {key: value for key, value in told.items() if key != "content"}
        success["content"] |= dict.fromkeys(route.files, BINARY)
        if route.events:
            success["content"]["text/event-stream"] = {"schema": {"type": "string"}, "example": route.events}

    def document(self) -> Document:
        """The document of all."""
        request: dict[str, Any] = {"parameters": list(self.parameters.values())}
        if self.bodies:
            request["requestBody"] = _merged_bodies(self.bodies)
        return Document(
            summary=" Or: ".join(self.summaries),
            description=" ".join(filter(None, self.descriptions)),
            request=request,
            responses=self.responses,
            answers=tuple(self.answers),
        )


def _merged_bodies(bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Bodies of one media type may be either's; where all have examples, they are named by their number."""
    merged: dict[str, Any] = {**bodies[0], "content": dict(bodies[0]["content"])}
    for number, body in enumerate(bodies[1:], 2):
        for media_type, content in body["content"].items():
            before = merged["content"].get(media_type)
            if before is None or before == content:
                merged["content"][media_type] = content
                continue
            choices = before["schema"].get("anyOf", [before["schema"]])
            both: dict[str, Any] = {"schema": {"anyOf": [*choices, content["schema"]]}}
            if "example" in content:
                examples = before.get("examples") or {"1": {"value": before["example"]}}
                both["examples"] = {**examples, str(number): {"value": content["example"]}}
            merged["content"][media_type] = both
        if not body.get("required"):
            merged.pop("required", None)
    return merged


def routes_of(tasks: Iterable[Task], dependencies: Dependencies) -> list[Route]:
    """The route table of all tasks; a verb that several have is one route."""
    by_verb: dict[tuple[str, str], list[TaskRoute]] = {}
    for task in tasks:
        for kind in task.routes:
            by_verb.setdefault((kind.method, kind.verb), []).append(kind(dependencies))
    table = []
    for (method, verb), routes in by_verb.items():
        merged = _Merged()
        for route in routes:
            merged.add(type(route))
        by_task = _ByTask({route.task: route for route in routes}, dependencies.client)
        table.append(Route(method, PREFIX + verb, routes[0] if len(routes) == 1 else by_task, merged.document()))
    return table
