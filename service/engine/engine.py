"""The engine: answers the messages of the API processes from the versions of a live repository.

It runs in the event loop of the engine process.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from time import monotonic
from typing import cast

import msgspec

from service.engine.batching.batches import Request
from service.engine.batching.response_cache import CachedAnswer, key_of
from service.engine.repository.live_repository import LiveRepository
from service.engine.repository.load_journal import LoadJournal
from service.engine.repository.repository import FoundModel
from service.engine.repository.version import ServedGraph, Version
from service.engine.runtime.runtime import Device
from service.engine.shadowing import LOWEST_PRIORITY, OnAnswer, Shadowing
from service.engine.transport.api_connection import ApiConnection, Send, until_acknowledged
from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.messages import (
    Cancel,
    Control,
    Describe,
    Description,
    DescriptionAcknowledged,
    FrameError,
    FrameReader,
    GenerateText,
    Infer,
    InferenceTiming,
    Message,
    ModelStatus,
    Released,
    Result,
    frame,
)
from service.engine.transport.strings import Payload, pack_strings
from service.errors import InvalidParameter, ModelNotReady, ServiceError, UnsupportedTask
from service.settings import Settings
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

OnDone = Callable[[Request, ServiceError | InferenceTiming], None]


class Engine:
    """Answers the messages of API processes with the models of a live repository."""

    def __init__(
        self, settings: Settings, device: Device, metrics: Metrics, journal: LoadJournal | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections: set[ApiConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_settled = False
        self.device = device
        journal = journal or LoadJournal()
        self.repository = LiveRepository(settings, device, metrics, self._announce, self._connections, journal)
        self._shadowing = Shadowing(settings, self.repository, self._compute_copy, metrics)
        self._shadow_timeout_seconds = settings.request_timeout_seconds

    async def load(self, models: dict[str, FoundModel]) -> None:
        """Load the models that are served from the start."""
        await self.repository.start(models)
        self._is_settled = True
        self._announce()

    def _announce(self) -> None:
        message = self._description(0)
        for connection in self._connections:
            connection.describe(message)

    def _description(self, id_: int) -> bytes:
        return frame(Description(id_, tuple(map(self._with_shadows, self.repository.describe())), self._is_settled))

    def _with_shadows(self, status: ModelStatus) -> ModelStatus:
        """The status with the reports in which the version is one of the two that are compared."""
        default = self.repository.defaults.of(status.name)
        reports = self._shadowing.reports(default) if default is not None else []
        of_version = tuple(report for report in reports if status.is_default or report.version == status.version)
        return msgspec.structs.replace(status, shadows=of_version) if of_version else status

    # --- connections ---

    def connect(self, send: Send) -> ApiConnection:
        """Register an API process, and send it the state of every model."""
        connection = ApiConnection(send)
        self._connections.add(connection)
        connection.describe(self._description(0))
        return connection

    def disconnect(self, connection: ApiConnection) -> None:
        """Forget an API process, and cancel its requests."""
        self._connections.discard(connection)
        self.repository.release(connection)
        for cancel in list(connection.cancels.values()):
            cancel()

    def handle(self, connection: ApiConnection, message: Message, payload: memoryview) -> None:
        """Act on one message of an API process."""
        if isinstance(message, Infer | GenerateText):
            try:
                if isinstance(message, Infer):
                    self._infer(connection, message, payload)
                else:
                    self._generate_text(connection, message, payload)
            except Exception as error:  # it must not end the connection and every other request on it
                connection.fail(message.id, error)
        elif isinstance(message, Cancel):
            if message.id in connection.cancels:
                connection.cancels[message.id]()
        elif isinstance(message, Describe):
            connection.send(self._description(message.id))
        elif isinstance(message, Released):
            self.repository.release(connection, (message.model, message.version))
        elif isinstance(message, DescriptionAcknowledged):
            connection.num_acknowledged += 1
        elif isinstance(message, Control):
            task = self._loop.create_task(self._control(connection, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _control(self, connection: ApiConnection, message: Control) -> None:
        try:
            if message.action == "load":
                await self.repository.load(message.model, message.config)
                await until_acknowledged(self._connections)
            elif message.action == "unload":
                await self.repository.unload(message.model)
            else:
                await self.repository.refresh()
        except Exception as error:
            connection.fail(message.id, error)
        else:
            connection.send(self._description(message.id))

    def _ready(self, message: Infer | GenerateText) -> Version:
        # An unloading version still answers those who have resolved it.
        version = self.repository.versions.get((message.model, message.version))
        if version is None or not version.is_loaded:
            raise ModelNotReady(f"{message.model}@{message.version} is not loaded.", retry_after_seconds=1)
        return version

    def _generate_text(self, connection: ApiConnection, message: GenerateText, payload: memoryview) -> None:
        generator = self._ready(message).generator
        if generator is None:
            raise UnsupportedTask(f"{message.model!r} is not a language model.")
        generator.generate(connection, message, payload)

    def _infer(self, connection: ApiConnection, message: Infer, payload: memoryview) -> None:
        version = self._ready(message)
        served = _checked_graph(version, message, payload)
        now = self._loop.time()
        key = None
        if version.cache is not None:
            key = key_of(message, payload)
            if (cached := version.cache.get(key)) is not None:
                served.metrics.record.cache_hit(monotonic() - now)
                connection.send(_result(message.id, InferenceTiming(0.0, 0.0, message.num_rows), cached))
                return
            served.metrics.record.cache_miss(monotonic() - now)
        comparisons = self._shadowing.due(version, message)

        def on_done(request: Request, outcome: ServiceError | InferenceTiming) -> None:
            if isinstance(outcome, ServiceError):
                connection.fail(message.id, outcome)
                return
            connection.cancels.pop(message.id, None)
            try:
                answer = _answer(request)
                if key is not None and version.cache is not None:
                    version.cache.put(key, answer)
                connection.send(_result(message.id, outcome, answer))
                if comparisons:
                    shadowed = (comparisons, version, message, payload, answer, outcome.compute_seconds)
                    self._loop.call_soon(self._shadowing.keep, *shadowed)
            except Exception as error:  # the rest of its batch must still be answered
                connection.fail(message.id, error)

        deadline = now + min(message.timeout_seconds, version.config.request_timeout_seconds or math.inf)
        request = _request(served, message, payload, now, deadline, on_done, message.priority)
        connection.cancels[message.id] = lambda: served.queue.cancel(request)
        served.queue.submit(request)

    def _compute_copy(self, version: Version, message: Infer, payload: bytes, on_answer: OnAnswer) -> None:
        """Compute a request that another version has answered, behind all others."""
        served = _checked_graph(version, message, memoryview(payload))

        def on_done(request: Request, outcome: ServiceError | InferenceTiming) -> None:
            if isinstance(outcome, ServiceError):
                on_answer(outcome, 0.0)
                return
            try:
                answer = _answer(request)
            except Exception as error:  # the rest of its batch must still be answered
                on_answer(error, 0.0)
            else:
                on_answer(answer, outcome.compute_seconds)

        now = self._loop.time()
        deadline = now + self._shadow_timeout_seconds
        served.queue.submit(_request(served, message, payload, now, deadline, on_done, LOWEST_PRIORITY))


class EngineProtocol(asyncio.Protocol):
    """The engine's end of the connection to one API process; the answers of a batch leave in one write."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = FrameReader()
        self._transport: CoalescingTransport | None = None
        self._connection: ApiConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register with the engine."""
        loop = asyncio.get_running_loop()
        self._transport = CoalescingTransport(cast(asyncio.Transport, transport), loop)
        self._connection = self._engine.connect(self._transport.write)

    def data_received(self, data: bytes) -> None:
        """Pass every complete message to the engine."""
        assert self._connection is not None
        assert self._transport is not None
        try:
            for message, payload in self._reader.feed(data):
                self._engine.handle(self._connection, message, payload)
        except FrameError:
            log.exception("an API process sent a broken frame")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel everything that the API process was waiting for."""
        if self._connection is not None:
            self._engine.disconnect(self._connection)


def _checked_graph(version: Version, message: Infer, payload: memoryview) -> ServedGraph:
    served = version.graphs.get(message.graph)
    if served is None:
        raise InvalidParameter(f"{message.model!r} has no graph {message.graph!r}; it has {list(version.graphs)}.")
    served.rules.check_payload(message.num_rows, message.row_shapes, payload)
    outputs = {spec.name for spec in served.graph.outputs}
    if not message.outputs or not outputs.issuperset(message.outputs):
        raise InvalidParameter(f"The outputs {list(message.outputs)} are not among {sorted(outputs)}.")
    return served


def _request(
    served: ServedGraph, message: Infer, payload: Payload, now: float, deadline: float, on_done: OnDone, priority: int
) -> Request:
    """A message as the queue of its graph takes it."""
    rows, outputs, shapes = message.num_rows, message.outputs, message.row_shapes
    request = Request(rows, payload, outputs, now, deadline, on_done, shapes, priority)
    request.is_whole = not served.graph.is_batched
    return request


def _answer(request: Request) -> CachedAnswer:
    arrays = request.joined()
    outputs = tuple(
        (name, "|O" if array.dtype.hasobject else array.dtype.str, array.shape) for name, array in arrays.items()
    )
    parts = (
        pack_strings(array.reshape(-1).tolist()) if array.dtype.hasobject else array.tobytes()
        for array in arrays.values()
    )
    return CachedAnswer(outputs, tuple(parts))


def _result(id_: int, timing: InferenceTiming, answer: CachedAnswer) -> bytes:
    result = Result(id_, timing.queue_seconds, timing.compute_seconds, timing.batch_size, answer.outputs)
    return frame(result, *answer.parts)
