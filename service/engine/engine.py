"""The engine: answers the messages of the API processes from the versions of a live repository.

It runs in the event loop of the engine process.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from time import monotonic
from typing import cast

import msgspec

from models.config import PRIORITIES
from service.background import Background
from service.engine.answers import Answers, encode
from service.engine.batching.batches import Request
from service.engine.batching.response_cache import key_of
from service.engine.compute_watch import ComputeThread
from service.engine.fairness import LAST_RANK
from service.engine.quarantine import Quarantine, TrialJournal
from service.engine.repository.live_repository import LiveRepository
from service.engine.repository.load_journal import Key, LoadJournal
from service.engine.repository.repository import FoundModel
from service.engine.repository.version import ServedGraph, Version
from service.engine.runtime.runtime import Device
from service.engine.shadowing import OnAnswer, Shadowing
from service.engine.transport.api_connection import ApiConnection, Send, SendPieces, until_acknowledged
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
    InferTarget,
    Message,
    ModelStatus,
    Released,
    Trace,
    Traced,
    frame,
)
from service.engine.waking import Waking
from service.errors import InvalidParameter, ModelNotReady, ServiceError, UnsupportedTask
from service.settings import Settings
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Answers that an API process has not read: more than all that its callers may wait for at any time.
MAX_UNREAD_BYTES = 2**28


class Engine:
    """Answers the messages of API processes with the models of a live repository."""

    def __init__(
        self,
        settings: Settings,
        device: Device,
        metrics: Metrics,
        journal: LoadJournal | None = None,
        trials: TrialJournal | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections: dict[ApiConnection, Answers] = {}
        self._background = Background()
        self._is_settled = False
        self._timeline = metrics.timeline
        self.device = device
        journal = journal or LoadJournal()
        self.repository = LiveRepository(settings, device, metrics, self._announce, self._connections, journal)
        self._shadowing = Shadowing(settings, self.repository, self._compute_copy, metrics)
        self._quarantine = Quarantine(self._connections, self._answer, self._is_idle, trials or TrialJournal())
        self._waking = Waking(self.repository.wake, self._answer, settings.max_queue_rows)
        self._shadow_timeout_seconds = settings.request_timeout_seconds

    async def load(self, models: dict[str, FoundModel]) -> None:
        """Load the models that are served from the start."""
        await self.repository.start(models)
        self._is_settled = True
        self._announce()

    def threads(self) -> Iterator[ComputeThread]:
        """The threads that compute."""
        for version in self.repository.versions.values():
            yield from version.threads

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

    def connect(self, send: Send, send_at_once: SendPieces) -> ApiConnection:
        """Register an API process, and send it the state of every model."""
        connection = ApiConnection(send, send_at_once)
        self._connections[connection] = Answers(connection)
        self._quarantine.watch(connection)
        connection.describe(self._description(0))
        return connection

    def disconnect(self, connection: ApiConnection) -> None:
        """Forget an API process, and cancel its requests."""
        self._connections.pop(connection, None)
        self.repository.release(connection)
        for cancel in list(connection.cancels.values()):
            cancel()
        if connection.on_settled is not None:
            connection.on_settled()

    def handle(self, connection: ApiConnection, message: Message, payload: memoryview) -> None:
        """Act on one message of an API process."""
        if isinstance(message, Infer | GenerateText):
            if message.num_losses or self._quarantine.is_on:
                self._quarantine.admit(connection, message, payload)
            else:
                self._answer(connection, message, payload)
        elif isinstance(message, Cancel):
            if message.id in connection.cancels:
                connection.cancels[message.id]()
        elif isinstance(message, Describe):
            connection.send(self._description(message.id))
        elif isinstance(message, Trace):
            now = monotonic()
            connection.send(frame(Traced(message.id, now, self._timeline.since(now - message.seconds))))
        elif isinstance(message, Released):
            self.repository.release(connection, (message.model, message.version))
        elif isinstance(message, DescriptionAcknowledged):
            connection.num_acknowledged += 1
        elif isinstance(message, Control):
            self._background.start(f"to {message.action} models", self._control(connection, message))

    def _answer(self, connection: ApiConnection, message: Infer | GenerateText, payload: memoryview) -> None:
        try:
            if isinstance(message, Infer):
                self._infer(connection, message, payload)
            else:
                self._generate_text(connection, message, payload)
        except _Idle as idle:
            self._waking.hold(idle.key, connection, message, payload)
        except Exception as error:  # it must not end the connection and every other request on it
            for id_ in message.ids if isinstance(message, Infer) else (message.id,):
                connection.fail(id_, error)

    def _is_idle(self) -> bool:
        graphs = (graph for version in self.repository.versions.values() for graph in version.graphs.values())
        return all(graph.queue.is_idle for graph in graphs)

    async def _control(self, connection: ApiConnection, message: Control) -> None:
        try:
            if message.action == "load":
                await self.repository.load(message.model, message.config)
                self._quarantine.pardon(message.model)
                await until_acknowledged(self._connections)
            elif message.action == "unload":
                await self.repository.unload(message.model)
            else:
                await self.repository.refresh()
        except Exception as error:
            connection.fail(message.id, error)
        else:
            connection.send(self._description(message.id))

    def _ready(self, model: str, name: str) -> Version:
        # An unloading version still answers those who have resolved it.
        version = self.repository.versions.get((model, name))
        if version is None or not version.is_loaded:
            if version is not None and version.is_served:
                raise _Idle((model, name))
            raise ModelNotReady(f"{model}@{name} is not loaded.", retry_after_seconds=1)
        return version

    def _generate_text(self, connection: ApiConnection, message: GenerateText, payload: memoryview) -> None:
        version = self._ready(message.model, message.version)
        version.used_at = self._loop.time()
        generator = version.generator
        if generator is None:
            raise UnsupportedTask(f"{message.model!r} is not a language model.")
        generator.generate(connection, message, payload, PRIORITIES[version.config.priority])

    def _infer(self, connection: ApiConnection, message: Infer, payload: memoryview) -> None:
        """Queue the requests of a message; each that cannot be queued fails alone."""
        target = message.target
        version = self._ready(target.model, target.version)
        served = _checked_graph(version, target)
        answers = self._connections[connection]
        is_observed = version.cache is not None or self._shadowing.is_on
        check = served.rules.checker(target.row_shapes)
        version.used_at = now = self._loop.time()
        whole = not served.graph.is_batched
        longest_seconds = version.config.request_timeout_seconds or math.inf
        outputs, shapes, priority = (
            target.outputs,
            target.row_shapes,
            target.priority or PRIORITIES[version.config.priority],
        )
        settle, settle_batch, cancels = answers.settle, answers.settle_batch, connection.cancels
        requests: list[Request] = []
        for id_, num_rows, rows, timeout_seconds, caller in message.each(payload):
            try:
                check(num_rows, rows)
                deadline = now + min(timeout_seconds, longest_seconds)
                request = Request(
                    num_rows,
                    rows,
                    outputs,
                    now,
                    deadline,
                    settle,
                    shapes,
                    priority,
                    settle_batch,
                    id_,
                    served.queue,
                    caller,
                )
                request.is_whole = whole
                if not is_observed or self._observe(version, target, request, answers):
                    cancels[id_] = request.cancel
                    requests.append(request)
            except Exception as error:  # it must not end the connection and every other request on it
                connection.fail(id_, error)
        if requests:
            served.queue.submit_all(requests, payload if len(requests) == len(message.ids) else b"")

    def _observe(self, version: Version, target: InferTarget, request: Request, answers: Answers) -> bool:
        """Answer a request from the cache, or have its answer cached and shadowed; whether it is to be computed."""
        record, payload, num_rows = version.graphs[target.graph].metrics.record, request.payload, request.num_rows
        key = None
        if version.cache is not None:
            domain = "" if version.config.cache_across_callers else request.caller.domain
            key = key_of(target, num_rows, payload, domain)
            if (cached := version.cache.get(key)) is not None:
                record.cache_hit(monotonic() - request.arrival)
                answers.send(request.id, InferenceTiming(0.0, 0.0, num_rows), cached)
                return False
            record.cache_miss(monotonic() - request.arrival)
        comparisons = self._shadowing.due(version, target)

        def on_done(request: Request, outcome: ServiceError | InferenceTiming) -> None:
            if isinstance(outcome, ServiceError):
                answers.settle(request, outcome)
                return
            try:
                answer = encode(request.joined())
                if key is not None and version.cache is not None:
                    version.cache.put(key, answer)
                answers.send(request.id, outcome, answer)
                if comparisons:
                    shadowed = (comparisons, version, target, num_rows, payload, answer, outcome.compute_seconds)
                    self._loop.call_soon(self._shadowing.keep, *shadowed)
            except Exception as error:  # the rest of its batch must still be answered
                answers.fail(request.id, error)

        if key is not None or comparisons:
            request.on_done, request.on_batch = on_done, None
        return True

    def _compute_copy(
        self, version: Version, target: InferTarget, num_rows: int, payload: bytes, on_answer: OnAnswer
    ) -> None:
        """Compute a request that another version has answered, behind all others."""
        served = _checked_graph(version, target)
        served.rules.check_payload(num_rows, target.row_shapes, payload)

        def on_done(request: Request, outcome: ServiceError | InferenceTiming) -> None:
            if isinstance(outcome, ServiceError):
                on_answer(outcome, 0.0)
                return
            try:
                answer = encode(request.joined())
            except Exception as error:  # the rest of its batch must still be answered
                on_answer(error, 0.0)
            else:
                on_answer(answer, outcome.compute_seconds)

        now = self._loop.time()
        deadline = now + self._shadow_timeout_seconds
        shapes = target.row_shapes
        request = Request(num_rows, payload, target.outputs, now, deadline, on_done, shapes, LAST_RANK)
        request.is_whole = not served.graph.is_batched
        served.queue.submit(request)


class _Idle(Exception):
    """A request is for a version that gave its memory back."""

    def __init__(self, key: Key) -> None:
        super().__init__(key)
        self.key = key


class EngineProtocol(asyncio.Protocol):
    """The engine's end of the connection to one API process; the answers of a batch leave in one write.

    While the API process does not read its answers, the engine reads no more of its requests; and where the answers to
    those that it has become too many, it ends the connection.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = FrameReader()
        self._transport: CoalescingTransport | None = None
        self._connection: ApiConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register with the engine."""
        loop = asyncio.get_running_loop()
        self._transport = CoalescingTransport(cast(asyncio.Transport, transport), loop)
        self._connection = self._engine.connect(self._transport.write, self._transport.writelines)

    def data_received(self, data: bytes) -> None:
        """Pass every complete message to the engine."""
        assert self._connection is not None
        assert self._transport is not None
        try:
            for message, payload in self._reader.feed(data):
                try:
                    self._engine.handle(self._connection, message, payload)
                except Exception:  # it must not end the connection and every other request on it
                    log.exception("a message of an API process failed unexpectedly")
        except FrameError:
            log.exception("an API process sent a broken frame")
            self._transport.abort()

    def pause_writing(self) -> None:
        """Read no more: the API process does not."""
        if self._transport is not None and self._connection is not None:
            self._connection.is_paused = True
            self._transport.pause(MAX_UNREAD_BYTES)

    def resume_writing(self) -> None:
        """Read again."""
        if self._transport is not None and self._connection is not None:
            self._transport.resume()
            self._connection.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel everything that the API process was waiting for."""
        if self._connection is not None:
            self._engine.disconnect(self._connection)


def _checked_graph(version: Version, target: InferTarget) -> ServedGraph:
    served = version.graphs.get(target.graph)
    if served is None:
        raise InvalidParameter(f"{target.model!r} has no graph {target.graph!r}; it has {list(version.graphs)}.")
    if not target.outputs or not served.output_names.issuperset(target.outputs):
        raise InvalidParameter(f"The outputs {list(target.outputs)} are not among {sorted(served.output_names)}.")
    return served
