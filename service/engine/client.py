"""The engine's face in an API process: which models there are, inference as an awaitable, texts as iterators.

It re-sends what was in flight once when the engine dies, and answers for it when it does not come back. It knows
nothing of HTTP, nor of how the engine batches.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Sequence

from service.coalescing import CoalescingTransport
from service.engine.calls import Call, Outstanding, ReadyModel, error_of
from service.engine.connection import Connection
from service.engine.generation import Generation, Token
from service.engine.known_models import KnownModels
from service.engine.messages import (
    Cancel,
    Control,
    Describe,
    Description,
    Failure,
    Infer,
    Learned,
    Message,
    ModelStatus,
    Released,
    Sampled,
    Sampling,
    frame,
)
from service.engine.questions import Questions
from service.errors import Cancelled, DeadlineExceeded, EngineUnavailable, ModelNotReady, ServiceError
from service.settings import Settings

__all__ = ["Call", "EngineClient", "Generation", "ReadyModel"]

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.05
# The engine answers at the deadline itself; this is for an engine that no longer answers at all.
DEADLINE_SLACK_SECONDS = 0.1
# Whoever lists the models must not wait for an engine that is busy or stopped.
DESCRIBE_SECONDS = 1.0


class EngineClient:
    """Sends inference to the engine process over its Unix socket."""

    def __init__(self, socket_path: str, settings: Settings) -> None:
        self._socket_path = socket_path
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._transport: CoalescingTransport | None = None
        self._calls: dict[int, Outstanding] = {}
        self._questions = Questions()
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
        for call in list(self._calls.values()):
            if isinstance(call, Generation) and call.is_complete:
                self._forget(call)
                call.finish()
            elif call.num_sent >= 2:
                message = "The engine was lost twice while it held this request."
                self._settle(call, EngineUnavailable(message, retry_after_seconds=1))
            else:
                call.is_stranded = True
                limit = min(call.deadline, self._loop.time() + self._settings.engine_restart_seconds)
                self._arm(call, limit, EngineUnavailable("The engine is not back yet.", retry_after_seconds=1))
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
        if self._transport is not None:
            self._transport.write(frame(message))

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
        self._send(call, timeout_seconds)
        return call

    def cancel(self, call: Call) -> None:
        """Give up a call: its rows leave the queue."""
        if not call.done():
            self._withdraw(call, Cancelled("The caller left."))

    # --- texts ---

    def generate(
        self, model: ReadyModel, prompt: Sequence[int], sampling: Sampling, timeout_seconds: float
    ) -> Generation:
        """Continue a prompt, whose first token is the beginning.

        Raises: EngineUnavailable at once while the engine is away; the rest comes through the iteration.
        """
        generation = Generation(self._next_id(), model, prompt, sampling, self._loop.time() + timeout_seconds)
        self._send(generation, timeout_seconds)
        return generation

    def cancel_generation(self, generation: Generation) -> None:
        """Give up the rest of a text: its slot is free at the engine's next step."""
        if generation.id in self._calls:
            self._withdraw(generation, Cancelled("The caller left."))

    # --- what both have in common ---

    def _next_id(self) -> int:
        if self._transport is None:
            raise EngineUnavailable("The engine is being restarted.", retry_after_seconds=1)
        self._last_id += 1
        return self._last_id

    def _send(self, call: Outstanding, timeout_seconds: float) -> None:
        assert self._transport is not None
        data = call.encode(timeout_seconds)
        self._calls[call.id] = call
        call.num_sent += 1
        self._arm(call, call.deadline + DEADLINE_SLACK_SECONDS, DeadlineExceeded("The deadline passed."))
        self._transport.write(data)

    def _arm(self, call: Outstanding, when: float, error: ServiceError) -> None:
        if call.timer is not None:
            call.timer.cancel()
        call.timer = self._loop.call_at(when, self._withdraw, call, error)

    def _withdraw(self, call: Outstanding, error: ServiceError) -> None:
        if self._transport is not None and call.id in self._calls:
            self._transport.write(frame(Cancel(call.id)))
        self._settle(call, error)

    def _settle(self, call: Outstanding, error: ServiceError) -> None:
        self._forget(call)
        call.fail(error)

    def _forget(self, call: Outstanding) -> None:
        self._calls.pop(call.id, None)
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None

    # --- messages ---

    def handle(self, message: Message, payload: memoryview) -> None:
        """Act on one message of the engine."""
        if isinstance(message, Sampled):
            for id_, token, logprob, top in message.items:
                if isinstance(generation := self._calls.get(id_), Generation):
                    generation.push(Token(token, logprob, top))
        elif isinstance(message, Description):
            self._learn(message)
        elif not isinstance(message, Released | Learned) and (call := self._calls.get(message.id)) is not None:
            if isinstance(message, Failure):
                self._settle(call, error_of(message))
            elif call.receive(message, payload):
                self._forget(call)
        elif isinstance(message, Failure):
            self._questions.fail(error_of(message), message.id)

    def _learn(self, description: Description) -> None:
        for dropped in self._models.learn(description):
            # Whoever resolved the model may still ask things of it; the engine waits for the last to let go.
            weakref.finalize(dropped, self._released, dropped.name, dropped.version).atexit = False
        self._questions.answer(description.id, description.models)
        self._resend()

    def _released(self, name: str, version: str) -> None:
        # The last reference may have been a thread's.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, Released(name, version))

    def _resend(self) -> None:
        """Send again what the lost engine held, as soon as its model is ready."""
        now = self._loop.time()
        for call in [call for call in self._calls.values() if call.is_stranded]:
            if (call.model, call.version) in self._models:
                call.is_stranded = False
                self._send(call, call.deadline - now)
            elif self.is_settled:
                self._settle(call, ModelNotReady(f"{call.model}@{call.version} is no longer served."))
