"""The engine as an API process sees it: its models, inference as an awaitable, texts as iterators of tokens.

It knows nothing of HTTP, nor of how the engine batches.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Sequence
from typing import Any, cast

from service.budget import ByteBudget
from service.engine.transport.calls import Call, Inference, InFlight, Outstanding, TextGeneration, error_of
from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.known_models import KnownModels, ReadyModel
from service.engine.transport.messages import (
    Control,
    Describe,
    Description,
    DescriptionAcknowledged,
    Failure,
    Finished,
    FrameError,
    FrameReader,
    InferTarget,
    Message,
    ModelStatus,
    Piece,
    Released,
    Result,
    RowShapes,
    Sampled,
    Sampling,
    Scored,
    Trace,
    Traced,
    frame,
)
from service.errors import Cancelled, EngineUnavailable, ModelFailed, ServiceError
from service.quotas import NOBODY, Account
from service.settings import Settings

__all__ = ["Call", "EngineClient", "ReadyModel", "TextGeneration"]

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.05
# A list of the models must not wait for an engine that is busy or stopped.
DESCRIBE_SECONDS = 1.0

Statuses = tuple[ModelStatus, ...]


class EngineClient:
    """Sends inference to the engine process over its Unix socket.

    `budget` is the process's: requests that wait for the engine take from it.
    """

    def __init__(self, socket_path: str, settings: Settings) -> None:
        self._socket_path = socket_path
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._transport: CoalescingTransport | None = None
        self._queries = PendingQueries()
        self._last_id = 0
        self._models = KnownModels(settings.canary_splits)
        self.budget = ByteBudget(settings.max_buffered_bytes)
        self._calls = InFlight(self._write, self._models, self.budget, settings.engine_restart_seconds)
        self._closed = False
        self._lost = asyncio.Event()

    # --- connection ---

    async def run(self) -> None:
        """Stay connected to the engine until closed; where there is none, keep trying."""
        while not self._closed:
            try:
                await self._loop.create_unix_connection(lambda: ClientProtocol(self), self._socket_path)
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            await self._lost.wait()

    def close(self) -> None:
        """Close the connection for good."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def connected(self, transport: CoalescingTransport) -> None:
        """Use a new connection; what is in flight waits until the engine says that its model is ready."""
        self._transport = transport
        self._lost.clear()

    def disconnected(self) -> None:
        """Keep what is in flight for the next engine."""
        self._transport = None
        self._models.lose()
        self._lost.set()
        self._queries.fail(EngineUnavailable("The engine was lost meanwhile.", retry_after_seconds=1))
        self._calls.lose()
        if self._calls:
            log.warning("the engine was lost; requests in flight wait for it", extra={"requests": len(self._calls)})

    def pause(self) -> None:
        """Send no more requests: the engine does not read those that it has."""
        self._calls.pause()

    def resume(self) -> None:
        """Send the requests that wait."""
        self._calls.resume(is_settled=self.is_settled)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the engine."""
        return self._transport is not None

    @property
    def num_in_flight(self) -> int:
        """Calls that are not finished."""
        return len(self._calls)

    @property
    def num_waiting(self) -> int:
        """Calls in flight that the engine cannot take yet."""
        return self._calls.num_waiting

    # --- models ---

    @property
    def statuses(self) -> Statuses:
        """Every version that the engine knows, without live statistics."""
        return self._models.statuses

    @property
    def is_settled(self) -> bool:
        """Whether the engine has tried to load all that it was started with."""
        return self._models.is_settled

    @property
    def unready(self) -> list[str]:
        """The models that should be served and have no ready version; all of them while the engine is away."""
        return sorted(self._models.active - (self._models.ready if self.is_connected else set()))

    @property
    def is_ready(self) -> bool:
        """Whether every model that should be served can be used now."""
        return self.is_connected and self.is_settled and not self.unready

    def serves(self, model: ReadyModel) -> bool:
        """Whether the engine can compute requests to this version now."""
        return (model.name, model.version) in self._models

    def resolve(self, reference: str) -> ReadyModel:
        """Find the model `name` (its default version) or `name@version`.

        Its version stays loaded for as long as the result is referenced. While the engine is restarted, requests may
        refer to what was ready before, and wait for it.

        Raises: UnknownModel, ModelNotReady, ModelFailed.
        """
        return self._models.resolve(reference)

    @property
    def plans(self) -> dict[Any, Any]:
        """What callers have worked out of the models that are ready now; emptied whenever these change."""
        return self._models.plans

    def precision_of(self, name: str, version: str) -> str:
        """The precision that serves a version with variants; empty for any other."""
        return self._models.precisions.get((name, version), "")

    def has_canary(self, reference: str) -> bool:
        """Whether another version takes a share of the requests to a model."""
        return self._models.has_canary(reference)

    def choose(self, reference: str) -> ReadyModel:
        """Find the model that answers a request: as `resolve`, but a canary takes its share. Call it once a request.

        Raises: UnknownModel, ModelNotReady.
        """
        return self._models.choose(reference)

    async def load(self, name: str, config: str = "") -> None:
        """Load a model, or load it again, and wait until the versions that its policy names are ready.

        `config` is JSON with the members of `config.toml`, and replaces that file.

        Raises: UnknownModel, InvalidParameter, EngineUnavailable; ModelFailed with the versions that failed (those
        that were served before still are), or where the engine ended meanwhile; Unavailable where `--model-control`
        does not let callers load models.
        """
        query = Control(self.next_id(), "load", name, config)
        try:
            await self._query(query)
        except EngineUnavailable as error:  # not to be tried again: the load may be what ended it
            raise ModelFailed(
                f"The engine process ended while it was asked to load {name!r}; the index says what became of it."
            ) from error

    async def unload(self, name: str) -> None:
        """Stop serving a model, and wait until its last request is answered and its memory is free.

        Raises: UnknownModel, EngineUnavailable; Unavailable where `--model-control` does not let callers unload models.
        """
        await self._query(Control(self.next_id(), "unload", name))

    async def refresh(self) -> None:
        """Scan the repositories again, so that `statuses` is up to date.

        Raises: EngineUnavailable.
        """
        await self._query(Control(self.next_id(), "index"))

    async def describe(self) -> Statuses:
        """Every model with its live statistics; without them while the engine does not answer."""
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                return await self.ask_statuses()
        except (TimeoutError, EngineUnavailable):
            return self.statuses

    async def ask_statuses(self) -> Statuses:
        """Every model with its live statistics.

        Raises: EngineUnavailable.
        """
        return await self._query(Describe(self.next_id()))

    async def trace(self, seconds: float) -> Traced:
        """What the device computed in the last seconds.

        Raises: EngineUnavailable.
        """
        try:
            async with asyncio.timeout(self._settings.request_timeout_seconds):
                traced: Traced = await self._ask(Trace(self.next_id(), seconds))
        except TimeoutError:
            raise EngineUnavailable("The engine does not answer.", retry_after_seconds=1) from None
        return traced

    async def _query(self, query: Control | Describe) -> Statuses:
        statuses: Statuses = await self._ask(query)
        return statuses

    async def _ask(self, query: Control | Describe | Trace) -> Any:
        if self._transport is None:
            raise EngineUnavailable("The engine is being restarted.", retry_after_seconds=1)
        self._write([frame(query)])
        return await self._queries.answer_to(query.id)

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
        row_shapes: RowShapes = (),
        priority: int = 0,
        account: Account = NOBODY,
    ) -> Call:
        """Compute some outputs of a graph; `payload` holds the rows of its inputs, in the graph's order.

        `row_shapes`: the shape of one row of each input, where the manifest leaves a size open. A graph that is not
        batched takes `num_rows` 1 and whole shapes. `priority`: 1 is served first, 0 is the default.

        Raises: EngineUnavailable at once where there has been no engine for too long, Busy where too much waits for it;
        TooManyRequests where `account` has no rows left;
        any other error where the call is awaited.
        """
        target = InferTarget(model.name, model.version, graph, outputs, row_shapes, priority)
        return self.compute(target, payload, num_rows, timeout_seconds, account)

    def compute(
        self,
        target: InferTarget,
        payload: Sequence[Piece],
        num_rows: int,
        timeout_seconds: float,
        account: Account = NOBODY,
    ) -> Call:
        """As `infer`, where it is known what the request has in common with others."""
        target, deadline = account.spend_rows(target, num_rows), self._loop.time() + timeout_seconds
        call = Call(self.next_id(), target, num_rows, payload, deadline, account.caller)
        self._calls.infer(call)
        return call

    def start(self, call: Inference) -> None:
        """Compute an inference that says itself what becomes of its answer; its id is of `next_id`."""
        self._calls.infer(call)

    def generate_text(
        self,
        model: ReadyModel,
        prompt: Sequence[int],
        sampling: Sampling,
        timeout_seconds: float,
        account: Account = NOBODY,
        request: int = 0,
    ) -> TextGeneration:
        """Continue a prompt, which starts with the model's beginning token.

        The texts of a `request` take turns with those of others.

        Raises: EngineUnavailable or Busy at once, as `infer`, TooManyRequests where `account` has no tokens left; any
        other error in the iteration.
        """
        account.spend_tokens(len(prompt))
        deadline = self._loop.time() + timeout_seconds
        generation = TextGeneration(self.next_id(), model, prompt, sampling, deadline, account, request)
        self._calls.generate(generation)
        return generation

    def cancel(self, call: Outstanding) -> None:
        """Cancel a call: its rows leave the queue, or its text frees its slot at the next step."""
        self._calls.withdraw(call, Cancelled("The caller left."))

    # --- messages ---

    def next_id(self) -> int:
        """The id of the next request."""
        self._last_id += 1
        return self._last_id

    def _write(self, pieces: Sequence[Piece]) -> None:
        if self._transport is not None:
            self._transport.writelines(pieces)

    def handle(self, message: Message, payload: memoryview) -> None:
        """Act on one message of the engine."""
        if isinstance(message, Result):
            self._calls.answer(message, payload)
        elif isinstance(message, Sampled):
            self._calls.push(message)
        elif isinstance(message, Scored | Finished):
            self._calls.receive(message, payload)
        elif isinstance(message, Description):
            self._update(message)
        elif isinstance(message, Traced):
            self._queries.answer(message.id, message)
        elif isinstance(message, Failure) and not self._calls.fail(message):
            self._queries.fail(error_of(message), message.id)

    def _update(self, description: Description) -> None:
        for dropped in self._models.update(description):
            # Requests that resolved the model may still use it; the engine keeps it until the last reference is gone.
            weakref.finalize(dropped, self._released, dropped.name, dropped.version).atexit = False
        self._queries.answer(description.id, description.models)
        if self._transport is not None and not self._transport.is_paused:
            self.resume()

    def _released(self, name: str, version: str) -> None:
        # The last reference may have been dropped by another thread.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._write, [frame(Released(name, version))])


class ClientProtocol(asyncio.Protocol):
    """The API process's end of the connection: bytes to messages, and the acknowledgement of descriptions."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._reader = FrameReader()
        self._transport: CoalescingTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the connection to the client."""
        loop = asyncio.get_running_loop()
        self._transport = CoalescingTransport(cast(asyncio.Transport, transport), loop)
        self._client.connected(self._transport)

    def data_received(self, data: bytes) -> None:
        """Pass every complete message to the client."""
        assert self._transport is not None
        try:
            for message, payload in self._reader.feed(data):
                self._handle(message, payload)
                if isinstance(message, Description) and message.id == 0:
                    self._transport.write(frame(DescriptionAcknowledged()))
        except FrameError:
            log.exception("the engine sent a broken frame")
            self._transport.abort()

    def _handle(self, message: Message, payload: memoryview) -> None:
        try:
            self._client.handle(message, payload)
        except Exception:  # it must not end the connection and every request on it
            log.exception("a message of the engine failed unexpectedly")
            for id_ in message.ids if isinstance(message, Result) else ():
                self._client.handle(Failure(id_, ServiceError.code, "The answer is unreadable.", None), payload)

    def pause_writing(self) -> None:
        """Have the client keep its requests: the engine does not read."""
        if self._transport is not None:
            self._transport.is_paused = True
            self._client.pause()

    def resume_writing(self) -> None:
        """Let the client send again."""
        if self._transport is not None:
            self._transport.is_paused = False
            self._client.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the client that the connection is gone."""
        self._client.disconnected()


class PendingQueries:
    """The queries that wait for their answer, by their id."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def answer_to(self, id_: int) -> Any:
        """Wait for the answer to a query that has just been sent, or raise its error."""
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = waiter
        try:
            return await waiter
        finally:
            self._waiting.pop(id_, None)

    def answer(self, id_: int, answer: Any) -> None:
        """Answer a query, if it is still waiting."""
        if (waiter := self._waiting.get(id_)) is not None and not waiter.done():
            waiter.set_result(answer)

    def fail(self, error: ServiceError, id_: int | None = None) -> None:
        """Fail one query, or all of them."""
        for each, waiter in self._waiting.items():
            if id_ in (None, each) and not waiter.done():
                waiter.set_exception(error)
