"""The engine's face in an API process: which models there are, inference as an awaitable, texts as iterators.

What waits for the engine, and what becomes of it when that dies, is kept by `in_flight.py`. This module knows nothing
of HTTP, nor of how the engine batches.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Sequence

from service.engine.transport.calls import Call, ReadyModel, error_of
from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.connection import Connection
from service.engine.transport.generation import Generation
from service.engine.transport.in_flight import Answer, InFlight
from service.engine.transport.known_models import KnownModels
from service.engine.transport.messages import (
    Control,
    Describe,
    Description,
    Failure,
    Infer,
    Message,
    ModelStatus,
    Released,
    Sampled,
    Sampling,
    frame,
)
from service.engine.transport.pending_queries import PendingQueries
from service.errors import Cancelled, EngineUnavailable
from service.settings import Settings

__all__ = ["Call", "EngineClient", "Generation", "ReadyModel"]

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.05
# Whoever lists the models must not wait for an engine that is busy or stopped.
DESCRIBE_SECONDS = 1.0


class EngineClient:
    """Sends inference to the engine process over its Unix socket."""

    def __init__(self, socket_path: str, settings: Settings) -> None:
        self._socket_path = socket_path
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._transport: CoalescingTransport | None = None
        self._calls = InFlight(self._write)
        self._questions = PendingQueries()
        self._last_id = 0
        self._models = KnownModels()
        self._closed = False
        self._lost = asyncio.Event()

    # --- connection ---

    async def run(self) -> None:
        """Stay connected to the engine, for ever; an engine that died is sought until it is back."""
        while not self._closed:
            try:
                await self._loop.create_unix_connection(lambda: Connection(self), self._socket_path)
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            await self._lost.wait()

    def close(self) -> None:
        """Leave the engine for good."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def connected(self, transport: CoalescingTransport) -> None:
        """Start to use a new connection; calls wait until the engine says that their model is ready."""
        self._transport = transport
        self._lost.clear()

    def disconnected(self) -> None:
        """Keep the calls that may be sent once more, fail the others."""
        self._transport = None
        self._models.is_settled = False
        self._lost.set()
        self._questions.fail(EngineUnavailable("The engine was lost meanwhile.", retry_after_seconds=1))
        self._calls.strand(self._settings.engine_restart_seconds)
        if self._calls:
            log.warning("the engine was lost; requests in flight wait for it", extra={"requests": len(self._calls)})

    @property
    def is_connected(self) -> bool:
        """Whether the engine can be reached now."""
        return self._transport is not None

    @property
    def num_in_flight(self) -> int:
        """Calls that are not answered yet."""
        return len(self._calls)

    # --- models ---

    @property
    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every version that the engine knows, without live statistics."""
        return self._models.statuses

    @property
    def is_settled(self) -> bool:
        """Whether the engine has tried to load all that it was started with."""
        return self._models.is_settled

    @property
    def unready(self) -> list[str]:
        """The wanted models without a ready version; all of them while the engine is away."""
        return sorted(self._models.wanted - (self._models.served if self.is_connected else set()))

    @property
    def is_ready(self) -> bool:
        """Whether every wanted model can be served now."""
        return self.is_connected and self.is_settled and not self.unready

    def resolve(self, reference: str) -> ReadyModel:
        """Find the model `name` (its newest ready version) or `name@version`.

        Whoever holds it keeps its version loaded.

        Raises: UnknownModel, ModelNotReady.
        """
        return self._models.resolve(reference)

    async def load(self, name: str, config: str = "") -> None:
        """Load a model, or load it again; `config` is JSON with members as in `config.toml`, in place of the file.

        Returns once the versions that its policy names are ready.

        Raises: UnknownModel, InvalidParameter, ModelNotReady saying which versions failed (what was served before still
        is), Unavailable where models are not controlled by callers, EngineUnavailable.
        """
        await self._ask(Control(self._next_id(), "load", name, config))

    async def unload(self, name: str) -> None:
        """Serve a model no longer; returns when its last request is answered and its memory is free.

        Raises: UnknownModel, Unavailable where models are not controlled by callers, EngineUnavailable.
        """
        await self._ask(Control(self._next_id(), "unload", name))

    async def refresh(self) -> None:
        """Look at the repositories again, so that `statuses` holds what is there now.

        Raises: EngineUnavailable.
        """
        await self._ask(Control(self._next_id(), "index"))

    async def describe(self) -> tuple[ModelStatus, ...]:
        """Every model with its live statistics; as they were last told while the engine is away."""
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                return await self.ask_statuses()
        except (TimeoutError, EngineUnavailable):
            return self.statuses

    async def ask_statuses(self) -> tuple[ModelStatus, ...]:
        """Every model with its live statistics.

        Raises: EngineUnavailable.
        """
        return await self._ask(Describe(self._next_id()))

    async def _ask(self, question: Control | Describe) -> tuple[ModelStatus, ...]:
        """Ask what is answered with a description; raise the error that comes instead."""
        self._tell(question)
        return await self._questions.answer_to(question.id)

    def _tell(self, message: Message) -> None:
        self._write(frame(message))

    # --- inference ---

    def infer(
        self,
        model: ReadyModel,
        graph: str,
        outputs: tuple[str, ...],
        payload: Sequence[bytes | memoryview],
        num_rows: int,
        timeout_seconds: float,
        *,
        row_shapes: tuple[tuple[int, ...], ...] = (),
        priority: int = 0,
    ) -> Call:
        """Compute some outputs of a graph for rows of raw tensors, inputs in the graph's order.

        `row_shapes`: the shape of one row of each input, where the manifest leaves a size open; of a graph that is not
        batched, whose `num_rows` is 1, the whole shapes. `priority`: 1 is served first, 0 is the usual one.

        Raises: EngineUnavailable at once while the engine is away; the rest comes through the awaited call.
        """
        id_ = self._next_id()
        infer = Infer(id_, model.name, model.version, graph, num_rows, outputs, timeout_seconds, row_shapes, priority)
        call = Call(infer, payload, self._loop.time() + timeout_seconds)
        self._calls.send(call, timeout_seconds)
        return call

    def cancel(self, call: Call) -> None:
        """Give up a call: its rows leave the queue."""
        if not call.done():
            self._calls.withdraw(call, Cancelled("The caller left."))

    # --- texts ---

    def generate(
        self, model: ReadyModel, prompt: Sequence[int], sampling: Sampling, timeout_seconds: float
    ) -> Generation:
        """Continue a prompt, whose first token is the beginning.

        Raises: EngineUnavailable at once while the engine is away; the rest comes through the iteration.
        """
        generation = Generation(self._next_id(), model, prompt, sampling, self._loop.time() + timeout_seconds)
        self._calls.send(generation, timeout_seconds)
        return generation

    def cancel_generation(self, generation: Generation) -> None:
        """Give up the rest of a text: its slot is free at the engine's next step."""
        self._calls.withdraw(generation, Cancelled("The caller left."))

    # --- messages ---

    def _next_id(self) -> int:
        if self._transport is None:
            raise EngineUnavailable("The engine is being restarted.", retry_after_seconds=1)
        self._last_id += 1
        return self._last_id

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def handle(self, message: Message, payload: memoryview) -> None:
        """Act on one message of the engine."""
        if isinstance(message, Sampled):
            self._calls.push(message)
        elif isinstance(message, Description):
            self._learn(message)
        elif isinstance(message, Answer):
            awaited = self._calls.receive(message, payload)
            if isinstance(message, Failure) and not awaited:
                self._questions.fail(error_of(message), message.id)

    def _learn(self, description: Description) -> None:
        for dropped in self._models.learn(description):
            # Whoever resolved the model may still ask things of it; the engine waits for the last to let go.
            weakref.finalize(dropped, self._released, dropped.name, dropped.version).atexit = False
        self._questions.answer(description.id, description.models)
        self._calls.resend(self._models, is_settled=self.is_settled)

    def _released(self, name: str, version: str) -> None:
        # The last reference may have been a thread's.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, Released(name, version))
