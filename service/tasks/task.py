"""Declares tasks and the base classes of their routes.

A task is a folder beside this file and a line in `registry.py`. A route is a class whose attributes declare its verb,
parameters and answers; the route table, OpenAPI and the READMEs are built from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar

from starlette.types import Receive, Send

from models.images import Invert
from service import schema
from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import Arrays
from service.errors import UnsupportedTask
from service.http.answers import send_answer
from service.http.body import Images, read_body, read_images, read_json, read_json_or_query, read_query
from service.http.direct import Direct
from service.http.documentation import BINARY, PROBLEMS, REQUEST_HEADERS
from service.http.request_context import RequestContext, Scope, context_of, request_timeout_seconds
from service.http.routing import Document, Responses, Route
from service.schema import Answer, P, Parameters
from service.settings import Settings
from service.tasks.engine_work import EngineWork
from service.tasks.grammars import GrammarChecks
from service.tasks.image_decoding import ImageDecoder, Pixels, raw_row
from service.tasks.tokenizers import Tokenizers
from service.telemetry.metrics import Metrics

PREFIX = "/v1/models/{model}/"
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
_TENSOR_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What all routes of an API process share."""

    client: EngineClient
    settings: Settings
    metrics: Metrics
    tokenizers: Tokenizers
    decoder: ImageDecoder
    grammars: GrammarChecks


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task.

    `graphs` are those that all its models have. With `takes_images`, the Open Inference Protocol accepts encoded images
    in place of pixels. `page` is its page in the playground.
    """

    name: str
    graphs: tuple[str, ...]
    routes: tuple[type[TaskRoute], ...]
    takes_images: bool = False
    page: str = ""


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A request and its resolved model."""

    model: ReadyModel
    scope: Scope
    receive: Receive
    context: RequestContext


class TaskRoute(ABC):
    """Base of the routes `/v1/models/{model}/...`, pure ASGI applications.

    In OpenAPI, the docstring of `answer` is the summary, followed by `description`. `files` are the media types of
    answers that are not JSON, `events` is an example of an answer of server-sent events.
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
    graphs: tuple[str, ...] = ()  # those of its task
    direct: Direct | None = None

    def __init__(self, dependencies: Dependencies) -> None:
        self.client = dependencies.client
        self.settings = dependencies.settings
        self.dependencies = dependencies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the middleware renders errors."""
        context = context_of(scope) or RequestContext("", 0.0)
        model = self.resolve(scope["path_params"]["model"])
        context.model = model.name
        context.precision = self.client.precision_of(model.name, model.version)
        await send_answer(await self.answer(TaskRequest(model, scope, receive, context)), send, context)

    @abstractmethod
    async def answer(self, request: TaskRequest) -> Any:
        """Compute the answer: a struct, a BinaryAnswer or an EventAnswer."""

    @classmethod
    @abstractmethod
    def request_document(cls) -> dict[str, Any]:
        """OpenAPI's `parameters` and `requestBody`."""

    def resolve(self, reference: str) -> ReadyModel:
        """Find the model and check its task.

        Raises: UnknownModel, ModelNotReady, UnsupportedTask, also where a graph of the task is missing.
        """
        model = resolve_for_task(self.client, reference, self.task)
        for graph in self.graphs:
            if graph not in model.manifest.graphs:
                raise UnsupportedTask(f"{model.name!r} has no graph {graph!r}, which {self.task} needs.")
        return model

    def timeout_seconds(self, request: TaskRequest, num_parts: int = 1) -> float:
        """The timeout of a request; where it names none, the default applies to each part, up to the maximum.

        Raises: InvalidParameter.
        """
        seconds = request_timeout_seconds(request.scope, self.settings)
        if num_parts == 1 or any(name == b"x-request-timeout" for name, _ in request.scope["headers"]):
            return seconds
        return min(seconds * num_parts, max(seconds, self.settings.max_request_timeout_seconds))

    def work(self, request: TaskRequest, num_parts: int = 1) -> EngineWork:
        """Start the deadline of a request: of what it decodes and has computed, in so many parts."""
        return EngineWork(self.client, request.model, request.context, self.timeout_seconds(request, num_parts))

    async def infer(
        self,
        request: TaskRequest,
        rows: Sequence[bytes | memoryview],
        outputs: tuple[str, ...],
        *,
        graph: str = "model",
        work: EngineWork | None = None,
    ) -> Arrays:
        """Compute outputs of a graph with one input; cancelled when the caller disconnects.

        Where images were decoded before, `work` has the time that is left.
        """
        context = request.context
        seconds = self.timeout_seconds(request) if work is None else work.seconds_left()
        call = self.client.infer(request.model, graph, outputs, rows, len(rows), seconds, account=context.account)
        with context.leaving(lambda: self.client.cancel(call)):
            arrays, context.timing = await call
        return arrays


def resolve_for_task(client: EngineClient, reference: str, *tasks: str) -> ReadyModel:
    """Find the model that answers a request to `name` or `name@version`, and check that it does one of the tasks.

    Raises: UnknownModel, ModelNotReady, UnsupportedTask.
    """
    return _require_task(client.choose(reference), *tasks)


def _require_task(model: ReadyModel, *tasks: str) -> ReadyModel:
    if model.manifest.task not in tasks:
        raise UnsupportedTask(f"{model.name!r} does {model.manifest.task}; this route needs {' or '.join(tasks)}.")
    return model


class JsonRoute(TaskRoute):
    """A route with its parameters in a JSON body."""

    async def read(self, request: TaskRequest, kind: type[P]) -> P:
        """Read the parameters.

        Raises: ServiceError.
        """
        max_bytes = self.settings.max_body_bytes
        return await read_json(request.scope, request.receive, request.context, kind, max_bytes)

    @classmethod
    def request_document(cls) -> dict[str, Any]:
        """OpenAPI's `parameters` and `requestBody`."""
        return json_document(cls.parameters, cls.example)


class JsonOrQueryRoute(JsonRoute):
    """A route with its parameters in a JSON body, or in the query if the body is empty."""

    async def read(self, request: TaskRequest, kind: type[P]) -> P:
        """Read the parameters.

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
    """A route with its parameters in the query; the body is ignored."""

    method = "GET"

    async def read(self, request: TaskRequest, kind: type[P]) -> P:
        """Read the parameters.

        Raises: InvalidParameter.
        """
        return read_query(request.scope, kind)

    @classmethod
    def request_document(cls) -> dict[str, Any]:
        """OpenAPI's `parameters`."""
        return query_document(cls.parameters)


class ImagesRoute(TaskRoute):
    """A route with images in its body, or a raw tensor for the graph `tensor_graph` if it names one."""

    tensor_graph: ClassVar[str] = ""

    async def read(
        self, request: TaskRequest, kind: type[P], maxima: Mapping[str, int] = MappingProxyType({})
    ) -> tuple[Images, P]:
        """Read the images or the tensor, and the parameters; `maxima` as in `schema.read`.

        Raises: ServiceError.
        """
        scope, settings = request.scope, self.settings
        body = await read_body(scope, request.receive, request.context, settings.max_body_bytes)
        raw_bytes = prod(self.row_shape(request.model)) if self.tensor_graph else None
        return await read_images(scope, body, kind, settings, raw_bytes=raw_bytes, maxima=maxima)

    async def rows(self, request: TaskRequest, work: EngineWork, images: Images, invert: Invert) -> list[Pixels]:
        """Return the rows [H,W,C]: the raw tensor, or each image decoded and resized, within the time of `work`.

        Raises: ServiceError.
        """
        row_shape = self.row_shape(request.model)
        if images.raw is not None:
            return [raw_row(images.raw, row_shape)]
        request.context.reservation.grow(len(images.encoded) * prod(row_shape), "the decoded images")
        manifest, caller, decode = request.model.manifest, request.context.origin, self.dependencies.decoder.row

        async def decoded() -> list[Pixels]:
            return [await decode(body, manifest, row_shape, invert, caller=caller) for body in images.encoded]

        return await work.run(decoded())

    def row_shape(self, model: ReadyModel) -> tuple[int, ...]:
        """The input shape [H,W,C] of `tensor_graph`."""
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
    """Document parameters in a JSON body."""
    body = {"type": "object", "properties": schema.properties(kind), "additionalProperties": False}
    if required := schema.required(kind):
        body["required"] = required
    content = {"application/json": {"schema": body, "example": dict(example)}}
    return {"parameters": REQUEST_HEADERS, "requestBody": {"required": True, "content": content}}


def query_document(kind: type[Parameters]) -> dict[str, Any]:
    """Document parameters in the query."""
    query = [{"name": name, "in": "query", "schema": each} for name, each in schema.properties(kind).items()]
    return {"parameters": [*query, *REQUEST_HEADERS]}


@dataclass(slots=True)
class _ByTask:
    """A verb that several tasks have; dispatches by the task of the model."""

    routes: Mapping[str, TaskRoute]
    client: EngineClient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the route of its model's task."""
        model = _require_task(self.client.resolve(scope["path_params"]["model"]), *self.routes)
        await self.routes[model.manifest.task](scope, receive, send)


@dataclass(slots=True)
class _Merged:
    """The merged documentation of all routes of one verb."""

    summaries: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    parameters: dict[tuple[str, str], Any] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    responses: dict[int | str, Any] = field(default_factory=dict)
    answers: list[type] = field(default_factory=list)

    def add(self, route: type[TaskRoute]) -> None:
        """Add a route."""
        request = route.request_document()
        for told, text in ((self.summaries, route.answer.__doc__ or ""), (self.descriptions, route.description)):
            told += [text.strip()] if text.strip() not in told else []
        self.parameters |= {(each["in"], each["name"]): each for each in request["parameters"]}
        self.bodies += [request["requestBody"]] if "requestBody" in request else []
        self.responses |= {status: response for status, response in route.responses.items() if status != 200}
        self.answers += [answer for answer in route.answers if answer not in self.answers]
        success = self.responses.setdefault(200, {"description": "Successful Response", "content": {}})
        declared = route.responses.get(200, {})
        success |= {key: value for key, value in declared.items() if key != "content"}
        success["content"] |= dict.fromkeys(route.files, BINARY)
        if route.events:
            success["content"]["text/event-stream"] = {"schema": {"type": "string"}, "example": route.events}

    def document(self) -> Document:
        """Return the merged documentation."""
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
    """Merge request bodies: schemas of the same media type become `anyOf`, their examples are numbered."""
    merged: dict[str, Any] = {**bodies[0], "content": dict(bodies[0]["content"])}
    for number, body in enumerate(bodies[1:], 2):
        for media_type, content in body["content"].items():
            existing = merged["content"].get(media_type)
            if existing is None or existing == content:
                merged["content"][media_type] = content
                continue
            choices = existing["schema"].get("anyOf", [existing["schema"]])
            both: dict[str, Any] = {"schema": {"anyOf": [*choices, content["schema"]]}}
            if "example" in content:
                examples = existing.get("examples") or (
                    {"1": {"value": existing["example"]}} if "example" in existing else {}
                )
                both["examples"] = {**examples, str(number): {"value": content["example"]}}
            merged["content"][media_type] = both
        if not body.get("required"):
            merged.pop("required", None)
    return merged


def routes_of(tasks: Iterable[Task], dependencies: Dependencies) -> list[Route]:
    """Build the routes of all tasks; tasks with the same verb share one route."""
    by_verb: dict[tuple[str, str], list[TaskRoute]] = {}
    for task in tasks:
        for kind in task.routes:
            route = kind(dependencies)
            route.graphs = task.graphs
            by_verb.setdefault((kind.method, kind.verb), []).append(route)
    table = []
    for (method, verb), routes in by_verb.items():
        merged = _Merged()
        for route in routes:
            merged.add(type(route))
        by_task = _ByTask({route.task: route for route in routes}, dependencies.client)
        is_one = len(routes) == 1
        handler, direct = (routes[0], routes[0].direct) if is_one else (by_task, None)
        table.append(Route(method, PREFIX + verb, handler, merged.document(), direct, access="infer"))
    return table
