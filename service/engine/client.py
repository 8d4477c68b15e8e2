"""The engine's face in an API process: which models there are, inference as an awaitable, texts as iterators.

It re-sends what was in flight once when the engine dies, and answers for it when it does not come back. It knows
nothing of HTTP, nor of how the engine batches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import cast

from service.coalescing import CoalescingTransport
from service.engine.calls import Call, Outstanding, ReadyModel
from service.engine.generation import Generation, Token
from service.engine.messages import (
    Cancel,
    Describe,
    Description,
    Failure,
    FrameReader,
    Infer,
    Message,
    ModelStatus,
    Sampled,
    Sampling,
    frame,
)
from service.errors import (
    BY_CODE,
    Cancelled,
    DeadlineExceeded,
    EngineUnavailable,
    ModelNotReady,
    ServiceError,
    UnknownModel,
)
from service.settings import Settings

__all__ = ["Call", "EngineClient", "Generation", "ReadyModel"]

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.05
# The engine answers at the deadline itself; this is for an engine that no longer answers at all.
DEADLINE_SLACK_SECONDS = 0.1


class EngineClient:
    """Sends inference to the engine process over its Unix socket."""

    def __init__(self, socket_path: str, settings: Settings) -> None:
        self._socket_path = socket_path
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._transport: CoalescingTransport | None = None
        self._calls: dict[int, Outstanding] = {}
        self._descriptions: dict[int, asyncio.Future[tuple[ModelStatus, ...]]] = {}
        self._last_id = 0
        self._models: dict[tuple[str, str], ReadyModel] = {}
        self._newest: dict[str, ReadyModel] = {}
        self._closed = False
        self._lost = asyncio.Event()
        self.statuses: tuple[ModelStatus, ...] = ()
        self.is_settled = False

    # --- connection ---

    async def run(self) -> None:
        """Stay connected to the engine, for ever; an engine that died is sought until it is back."""
        while not self._closed:
            try:
                await self._loop.create_unix_connection(lambda: _Connection(self), self._socket_path)
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
        self.is_settled = False
        self._lost.set()
        for waiter in self._descriptions.values():
            waiter.cancel()
        self._descriptions.clear()
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
    def unready(self) -> list[str]:
        """The wanted models without a ready version; all of them while the engine is away."""
        ready = self._newest if self.is_connected else {}
        return sorted({status.name for status in self.statuses} - set(ready))

    @property
    def is_ready(self) -> bool:
        """Whether every wanted model can be served now."""
        return self.is_connected and self.is_settled and bool(self.statuses) and not self.unready

    def resolve(self, reference: str) -> ReadyModel:
        """Find the model `name` (its newest ready version) or `name@version`.

        Raises: UnknownModel, ModelNotReady.
        """
        name, at, version = reference.partition("@")
        model = self._models.get((name, version)) if at else self._newest.get(name)
        if model is not None:
            return model
        versions = {status.version: status for status in self.statuses if status.name == name}
        if not versions:
            if not self.is_settled:
                raise ModelNotReady("The engine is starting; its models are not known yet.", retry_after_seconds=1)
            known = ", ".join(sorted({status.name for status in self.statuses}))
            raise UnknownModel(f"There is no model {name!r}; there are: {known}.")
        if at and version not in versions:
            raise UnknownModel(f"{name!r} has no version {version!r}; it has: {', '.join(sorted(versions))}.")
        status = versions[version] if at else next(iter(versions.values()))
        reason = f" ({status.reason})" if status.reason else ""
        raise ModelNotReady(f"{name}@{status.version} is {status.state}{reason}", retry_after_seconds=1)

    async def describe(self) -> tuple[ModelStatus, ...]:
        """Every model with its live statistics; the last known ones while the engine is away."""
        if self._transport is None:
            return self.statuses
        self._last_id += 1
        waiter = self._descriptions[self._last_id] = self._loop.create_future()
        self._transport.write(frame(Describe(self._last_id)))
        try:
            return await asyncio.wait_for(waiter, timeout=1.0)
        except (TimeoutError, asyncio.CancelledError):
            return self.statuses
        finally:
            self._descriptions.pop(self._last_id, None)

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
    ) -> Call:
        """Compute some outputs of a graph for rows of raw tensors, inputs in the graph's order.

        `row_shapes`: the shape of one row of each input, where the manifest leaves a size open.

        Raises: EngineUnavailable at once while the engine is away; the rest comes through the awaited call.
        """
        id_ = self._next_id()
        infer = Infer(id_, model.name, model.version, graph, num_rows, outputs, timeout_seconds, row_shapes)
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
        self._calls[call.id] = call
        call.num_sent += 1
        self._arm(call, call.deadline + DEADLINE_SLACK_SECONDS, DeadlineExceeded("The deadline passed."))
        self._transport.write(call.encode(timeout_seconds))

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
        elif (call := self._calls.get(message.id)) is not None:
            if isinstance(message, Failure):
                kind = BY_CODE.get(message.code, ServiceError)
                self._settle(call, kind(message.message, retry_after_seconds=message.retry_after_seconds))
            elif call.receive(message, payload):
                self._forget(call)

    def _learn(self, description: Description) -> None:
        if (waiter := self._descriptions.get(description.id)) is not None and not waiter.done():
            waiter.set_result(description.models)
        self.statuses = description.models
        self.is_settled = description.settled
        ready = [status for status in description.models if status.state == "ready"]
        for status in ready:
            known = self._models.get((status.name, status.version))
            if known is None or known.status.manifest != status.manifest:
                self._models[status.name, status.version] = ReadyModel(status)
            else:
                known.status = status
        keys = {(status.name, status.version) for status in ready}
        self._models = {key: model for key, model in self._models.items() if key in keys}
        self._newest = {}
        for name, version in sorted(keys, key=lambda key: int(key[1])):
            self._newest[name] = self._models[name, version]
        self._resend()

    def _resend(self) -> None:
        """Send again what the lost engine held, as soon as its model is ready."""
        now = self._loop.time()
        for call in [call for call in self._calls.values() if call.is_stranded]:
            if (call.model, call.version) in self._models:
                call.is_stranded = False
                self._send(call, call.deadline - now)
            elif self.is_settled:
                self._settle(call, ModelNotReady(f"{call.model}@{call.version} is no longer served."))


class _Connection(asyncio.Protocol):
    """Bytes to messages."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._reader = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        loop = asyncio.get_running_loop()
        self._client.connected(CoalescingTransport(cast(asyncio.Transport, transport), loop))

    def data_received(self, data: bytes) -> None:
        for message, payload in self._reader.feed(data):
            self._client.handle(message, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.disconnected()
