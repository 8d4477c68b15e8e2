"""The engine: answers the messages of the API processes from the versions of a live repository.

It runs in the event loop of the engine process.
"""

from __future__ import annotations

import asyncio
import logging
import math
from time import monotonic
from typing import cast

from service.engine.batching.batches import Request
from service.engine.batching.response_cache import CachedAnswer, key_of
from service.engine.repository.live_repository import LiveRepository
from service.engine.repository.repository import FoundModel
from service.engine.repository.version import Version
from service.engine.runtime.runtime import Device
from service.engine.transport.api_connection import ApiConnection, Send, tell_failure, until_acknowledged
from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.messages import (
    Cancel,
    Control,
    Describe,
    Description,
    DescriptionAcknowledged,
    FrameError,
    FrameReader,
    Generate,
    Infer,
    InferenceTiming,
    Message,
    Released,
    Result,
    frame,
)
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter, ModelNotReady, ServiceError, UnsupportedTask
from service.settings import Settings
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class Engine:
    """Answers requests for the models of a live repository."""

    def __init__(self, settings: Settings, device: Device, metrics: Metrics) -> None:
        self._loop = asyncio.get_running_loop()
        self._peers: set[ApiConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_settled = False
        self.device = device
        self.repository = LiveRepository(settings, device, metrics, self._announce, self._peers)

    async def load(self, models: dict[str, FoundModel]) -> None:
        """Load what is to be served from the start; of each model the newest version that proves fit."""
        await self.repository.start(models)
        self._is_settled = True
        self._announce()

    def _announce(self) -> None:
        message = self._description(0)
        for peer in self._peers:
            peer.tell(message)

    def _description(self, id_: int) -> bytes:
        models = tuple(version.described() for version in self.repository.versions.values())
        return frame(Description(id_, models, self._is_settled))

    # --- peers ---

    def connect(self, send: Send) -> ApiConnection:
        """Greet an API process with the state of every model."""
        peer = ApiConnection(send)
        self._peers.add(peer)
        peer.tell(self._description(0))
        return peer

    def disconnect(self, peer: ApiConnection) -> None:
        """Forget an API process and all that it waited for."""
        self._peers.discard(peer)
        self.repository.released(peer)
        for cancel in list(peer.cancels.values()):
            cancel()

    def handle(self, peer: ApiConnection, message: Message, payload: memoryview) -> None:
        """Act on one message of an API process."""
        if isinstance(message, Infer | Generate):
            try:
                if isinstance(message, Infer):
                    self._infer(peer, message, payload)
                else:
                    self._generate(peer, message, payload)
            except Exception as error:  # else the connection would end, and with it all that the API process asked
                tell_failure(peer, message.id, error)
        elif isinstance(message, Cancel):
            if message.id in peer.cancels:
                peer.cancels[message.id]()
        elif isinstance(message, Describe):
            peer.send(self._description(message.id))
        elif isinstance(message, Released):
            self.repository.released(peer, (message.model, message.version))
        elif isinstance(message, DescriptionAcknowledged):
            peer.num_acknowledged += 1
        elif isinstance(message, Control):
            task = self._loop.create_task(self._control(peer, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _control(self, peer: ApiConnection, message: Control) -> None:
        try:
            if message.action == "load":
                await self.repository.load(message.model, message.config)
                await until_acknowledged(self._peers)
            elif message.action == "unload":
                await self.repository.unload(message.model)
            else:
                await self.repository.refresh()
        except Exception as error:
            tell_failure(peer, message.id, error)
        else:
            peer.send(self._description(message.id))

    def _ready(self, message: Infer | Generate) -> Version:
        # Also while it is unloading: whoever began on a version ends on it.
        version = self.repository.versions.get((message.model, message.version))
        if version is None or not version.is_loaded:
            raise ModelNotReady(f"{message.model}@{message.version} is not loaded.", retry_after_seconds=1)
        return version

    def _generate(self, peer: ApiConnection, message: Generate, payload: memoryview) -> None:
        generator = self._ready(message).generator
        if generator is None:
            raise UnsupportedTask(f"{message.model!r} is no language model.")
        generator.generate(peer, message, payload)

    def _infer(self, peer: ApiConnection, message: Infer, payload: memoryview) -> None:
        version = self._ready(message)
        served = version.graphs.get(message.graph)
        if served is None:
            raise InvalidParameter(f"{message.model!r} has no graph {message.graph!r}; it has {list(version.graphs)}.")
        served.rules.check_payload(message.num_rows, message.row_shapes, payload)
        known = {spec.name for spec in served.graph.outputs}
        if not message.outputs or not known.issuperset(message.outputs):
            raise InvalidParameter(f"The outputs {list(message.outputs)} are not among {sorted(known)}.")
        now = self._loop.time()
        key = None
        if version.cache is not None:
            key = key_of(message, payload)
            if (known_answer := version.cache.get(key)) is not None:
                served.metrics.record.found(monotonic() - now)
                peer.send(_result(message.id, InferenceTiming(0.0, 0.0, message.num_rows), known_answer))
                return
            served.metrics.record.missed(monotonic() - now)

        def on_done(request: Request, outcome: ServiceError | InferenceTiming) -> None:
            if isinstance(outcome, ServiceError):
                tell_failure(peer, message.id, outcome)
                return
            peer.cancels.pop(message.id, None)
            try:
                answer = _answer(request, is_batched=served.graph.is_batched)
                if key is not None and version.cache is not None:
                    version.cache.put(key, answer)
                peer.send(_result(message.id, outcome, answer))
            except Exception as error:  # the rest of its batch is answered behind it
                tell_failure(peer, message.id, error)

        timeout_seconds = min(message.timeout_seconds, version.config.request_timeout_seconds or math.inf)
        request = Request(
            message.num_rows,
            payload,
            message.outputs,
            now,
            now + timeout_seconds,
            on_done,
            message.row_shapes,
            message.priority,
        )
        peer.cancels[message.id] = lambda: served.queue.cancel(request)
        served.queue.submit(request)


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


def _answer(request: Request, *, is_batched: bool) -> CachedAnswer:
    arrays = request.joined()
    if not is_batched:
        arrays = {name: array[0, ...] for name, array in arrays.items()}  # a scalar stays an array
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
