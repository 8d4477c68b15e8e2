"""One engine as an API process sees it: the connection, what it last said of its models, and what it is computing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

from service.budget import ByteBudget
from service.engine.transport.calls import Inference, InFlight, Outstanding, TextGeneration, error_of
from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.messages import (
    Control,
    Describe,
    Description,
    DescriptionAcknowledged,
    Failure,
    Finished,
    FrameError,
    FrameReader,
    Message,
    ModelStatus,
    Piece,
    Result,
    Sampled,
    Scored,
    Trace,
    Traced,
    frame,
)
from service.errors import EngineUnavailable, ServiceError

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.05
# What a row or a token is taken to cost before an engine has computed one, and how much of what was known a new
# measurement leaves.
UNKNOWN_SECONDS, KEPT = 1e-3, 0.9
STEP, MAX_SLOWNESS, REMEMBERED = 1.05, 32.0, 0.999

Key = tuple[str, str]
Kind = tuple[str, str, str]
"""The model, the version and, but for texts, the graph of a request."""


class Paces:
    """What requests cost, as all engines have shown; they share it, so that each is judged by the others."""

    def __init__(self) -> None:
        self._seconds_each: dict[Kind, float] = {}
        self._batch_seconds: dict[tuple[Kind, int], float] = {}

    def work_seconds(self, call: Outstanding) -> float:
        """What a request is expected to cost by its rows, or by the tokens of its text."""
        pace = self._seconds_each.get(_kind(call), UNKNOWN_SECONDS)
        if isinstance(call, TextGeneration):
            return pace * (len(call.prompt) + call.sampling.max_tokens)
        return pace * call.num_rows if isinstance(call, Inference) else pace

    def learn(self, kind: Kind, seconds: float, size: int) -> bool:
        """Learn what so many rows or tokens took; return whether others of about as many took less."""
        about = kind, size.bit_length()  # a row of a large batch costs less than that of a small one
        usual = self._batch_seconds.get(about, seconds)
        # By the same small steps: towards the median. Most runs are faster than their mean, and whoever computes most
        # of them would seem faster and faster.
        self._batch_seconds[about] = usual * (STEP if seconds > usual else 1 / STEP)
        each = seconds / max(size, 1)
        self._seconds_each[kind] = each + KEPT * (self._seconds_each.get(kind, each) - each)
        return seconds > usual


class EngineLink:
    """Sends requests to one engine process over its Unix socket, and keeps them while it is replaced.

    `on_change` is called when the engine has described its models, and when it is lost.
    """

    def __init__(
        self,
        socket_path: str,
        budget: ByteBudget,
        restart_seconds: float,
        paces: Paces,
        on_change: Callable[[], None],
    ) -> None:
        self._socket_path = socket_path
        self._on_change = on_change
        self._transport: CoalescingTransport | None = None
        self._queries = PendingQueries()
        self._closed = False
        self._lost = asyncio.Event()
        self.statuses: tuple[ModelStatus, ...] = ()
        self.is_described = self.is_settled = False
        """Whether the engine has said what it serves, and has tried to load all that it was started with."""
        self.usable: set[Key] = set()
        """The names and versions that it can compute; with those that it still computes for who has resolved them:"""
        self.held: set[Key] = set()
        self.calls = InFlight(self.write, self.usable, budget, restart_seconds)
        self._paces, self._slowness = paces, 1.0

    # --- connection ---

    async def run(self) -> None:
        """Stay connected to the engine until closed; where there is none, keep trying."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            try:
                await loop.create_unix_connection(lambda: LinkProtocol(self), self._socket_path)
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
        self._slowness = 1.0  # the next engine is another
        self.is_described = self.is_settled = False
        self.usable.clear()
        self.held.clear()
        self._on_change()
        self._lost.set()
        self._queries.fail(EngineUnavailable("The engine was lost meanwhile.", retry_after_seconds=1))
        self.calls.lose()
        if self.calls:
            log.warning("the engine was lost; requests in flight wait for it", extra={"requests": len(self.calls)})

    def pause(self) -> None:
        """Send no more requests: the engine does not read those that it has."""
        self.calls.pause()

    def resume(self) -> None:
        """Send the requests that wait."""
        self.calls.resume(is_settled=self.is_settled)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the engine."""
        return self._transport is not None

    # --- what to expect ---

    def expected_seconds(self, call: Outstanding) -> float:
        """How long a request would take here: what was sent before it, and its own work, at this engine's speed."""
        return (self.calls.work_seconds + call.work_seconds) * self._slowness

    def forget(self) -> None:
        """Take this engine a little more for one like the others: it was passed over, and may be judged wrongly."""
        self._slowness **= REMEMBERED

    def _learn(self, id_: int, seconds: float, size: int) -> None:
        """Judge this engine by what others took for as much: so many rows or tokens took so long.

        By small steps, for anything may hold up a single batch, and an engine that seems slow is judged seldom.
        """
        if (call := self.calls.find(id_)) is None or not call.work_seconds:
            return  # where there is one engine, there is nothing to choose
        is_slower = self._paces.learn(_kind(call), seconds / self._slowness, size)
        self._slowness = min(max(self._slowness * (STEP if is_slower else 1 / STEP), 1 / MAX_SLOWNESS), MAX_SLOWNESS)

    # --- messages ---

    def write(self, pieces: Sequence[Piece]) -> None:
        """Send the pieces of a frame, if there is an engine."""
        if self._transport is not None:
            self._transport.writelines(pieces)

    async def ask(self, query: Control | Describe | Trace) -> Any:
        """Send a query and wait for its answer.

        Raises: EngineUnavailable where there is no engine, or it ends meanwhile; what the engine answers.
        """
        if self._transport is None:
            raise EngineUnavailable("The engine is being restarted.", retry_after_seconds=1)
        self.write([frame(query)])
        return await self._queries.answer_to(query.id)

    def handle(self, message: Message, payload: memoryview) -> None:
        """Act on one message of the engine."""
        if isinstance(message, Result):
            self._learn(message.ids[0], message.compute_seconds, message.batch_size)
            self.calls.answer(message, payload)
        elif isinstance(message, Sampled):
            self.calls.push(message)
        elif isinstance(message, Scored | Finished):
            if isinstance(message, Finished):
                seconds = message.prefill_seconds + message.decode_seconds
                self._learn(message.id, seconds, message.prompt_tokens + message.steps)
            self.calls.receive(message, payload)
        elif isinstance(message, Description):
            self._describe(message)
        elif isinstance(message, Traced):
            self._queries.answer(message.id, message)
        elif isinstance(message, Failure) and not self.calls.fail(message):
            self._queries.fail(error_of(message), message.id)

    def _describe(self, description: Description) -> None:
        self.statuses, self.is_settled, self.is_described = description.models, description.settled, True
        self.usable.clear()
        self.usable.update((status.name, status.version) for status in self.statuses if status.is_usable)
        unloading = {(status.name, status.version) for status in self.statuses if status.state == "unloading"}
        self.held = self.usable | unloading
        self._on_change()
        self._queries.answer(description.id, description.models)
        if self._transport is not None and not self._transport.is_paused:
            self.resume()


def _kind(call: Outstanding) -> Kind:
    return call.model, call.version, call.target.graph if isinstance(call, Inference) else ""


class LinkProtocol(asyncio.Protocol):
    """The API process's end of the connection: bytes to messages, and the acknowledgement of descriptions."""

    def __init__(self, link: EngineLink) -> None:
        self._link = link
        self._reader = FrameReader()
        self._transport: CoalescingTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the connection to the link."""
        loop = asyncio.get_running_loop()
        self._transport = CoalescingTransport(cast(asyncio.Transport, transport), loop)
        self._link.connected(self._transport)

    def data_received(self, data: bytes) -> None:
        """Pass every complete message to the link."""
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
            self._link.handle(message, payload)
        except Exception:  # it must not end the connection and every request on it
            log.exception("a message of the engine failed unexpectedly")
            for id_ in message.ids if isinstance(message, Result) else ():
                self._link.handle(Failure(id_, ServiceError.code, "The answer is unreadable.", None), payload)

    def pause_writing(self) -> None:
        """Have the link keep its requests: the engine does not read."""
        if self._transport is not None:
            self._transport.is_paused = True
            self._link.pause()

    def resume_writing(self) -> None:
        """Let the link send again."""
        if self._transport is not None:
            self._transport.is_paused = False
            self._link.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the link that the connection is gone."""
        self._link.disconnected()


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
