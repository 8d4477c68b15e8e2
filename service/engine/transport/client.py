"""The engines as an API process sees them: their models, inference as an awaitable, texts as iterators of tokens.

With several engines, one for each device, a request goes to the one that is expected to answer it first. It knows
nothing of HTTP, nor of how an engine batches.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any

from service.budget import ByteBudget
from service.engine.transport.calls import Call, Inference, Outstanding, TextGeneration
from service.engine.transport.known_models import KnownModels, ReadyModel
from service.engine.transport.link import EngineLink, Paces
from service.engine.transport.merging import merge_statuses, merge_traces
from service.engine.transport.messages import (
    Control,
    Describe,
    Description,
    InferTarget,
    ModelStatus,
    Piece,
    Released,
    RowShapes,
    Sampling,
    Trace,
    Traced,
    frame,
)
from service.errors import Cancelled, EngineUnavailable, ModelFailed
from service.quotas import NOBODY, Account
from service.settings import Settings

__all__ = ["Call", "EngineClient", "ReadyModel", "TextGeneration"]

# A list of the models must not wait for an engine that is busy or stopped.
DESCRIBE_SECONDS = 1.0

Statuses = tuple[ModelStatus, ...]


class EngineClient:
    """Sends inference to the engine processes over their Unix sockets.

    `budget` is the process's: requests that wait for an engine take from it.
    """

    def __init__(self, socket_paths: Sequence[str], settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._last_id = self._last_turn = 0
        self._models = KnownModels(settings.canary_splits)
        self.budget = ByteBudget(settings.max_buffered_bytes)
        self._paces, seconds = Paces(), settings.engine_restart_seconds
        self.links = [EngineLink(path, self.budget, seconds, self._paces, self._update) for path in socket_paths]
        self.described = asyncio.Event()
        """Set once an engine has said what it serves."""
        self._only = self.links[0] if len(self.links) == 1 else None

    # --- connections ---

    async def run(self) -> None:
        """Stay connected to the engines until closed."""
        await asyncio.gather(*(link.run() for link in self.links))

    def close(self) -> None:
        """Close the connections for good."""
        for link in self.links:
            link.close()

    def _update(self) -> None:
        """Learn what the engines serve, after one of them has described its models or was lost."""
        described = [link for link in self.links if link.is_described]
        if not described:
            self._models.lose()
            return
        self.described.set()
        is_settled = any(link.is_settled for link in described)
        merged = merge_statuses([link.statuses for link in described])
        for dropped in self._models.update(Description(0, merged, is_settled)):
            # Requests that resolved the model may still use it; an engine keeps it until the last reference is gone.
            weakref.finalize(dropped, self._released, dropped.name, dropped.version).atexit = False
        for link in described if self._only is None else ():
            for key in link.held - link.usable:
                if key in self._models:  # its requests go where it stays
                    link.write([frame(Released(*key))])

    def _released(self, name: str, version: str) -> None:
        # The last reference may have been dropped by another thread.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._release, frame(Released(name, version)))

    def _release(self, message: bytes) -> None:
        for link in self.links:
            link.write([message])

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to an engine."""
        return any(link.is_connected for link in self.links)

    @property
    def num_in_flight(self) -> int:
        """Calls that are not finished."""
        return sum(len(link.calls) for link in self.links)

    @property
    def num_waiting(self) -> int:
        """Calls in flight that no engine can take yet."""
        return sum(link.calls.num_waiting for link in self.links)

    def next_id(self) -> int:
        """The id of the next request."""
        self._last_id += 1
        return self._last_id

    # --- models ---

    @property
    def statuses(self) -> Statuses:
        """Every version that the engines know, without live statistics."""
        return self._models.statuses

    @property
    def is_settled(self) -> bool:
        """Whether an engine has tried to load all that it was started with."""
        return self._models.is_settled

    @property
    def unready(self) -> list[str]:
        """The models that should be served and have no ready version; all of them while no engine is there."""
        return sorted(self._models.active - (self._models.ready if self.is_connected else set()))

    @property
    def is_ready(self) -> bool:
        """Whether every model that should be served can be used now."""
        return self.is_connected and self.is_settled and not self.unready

    def serves(self, model: ReadyModel) -> bool:
        """Whether an engine can compute requests to this version now."""
        return (model.name, model.version) in self._models

    def resolve(self, reference: str) -> ReadyModel:
        """Find the model `name` (its default version) or `name@version`.

        Its version stays loaded for as long as the result is referenced. While an engine is restarted, requests may
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
        try:
            await self._control("load", name, config)
        except EngineUnavailable as error:  # not to be tried again: the load may be what ended it
            raise ModelFailed(
                f"The engine process ended while it was asked to load {name!r}; the index says what became of it."
            ) from error

    async def unload(self, name: str) -> None:
        """Stop serving a model, and wait until its last request is answered and its memory is free.

        Raises: UnknownModel, EngineUnavailable; Unavailable where `--model-control` does not let callers unload models.
        """
        await self._control("unload", name)

    async def refresh(self) -> None:
        """Scan the repositories again, so that `statuses` is up to date.

        Raises: EngineUnavailable.
        """
        await self._control("index")

    async def _control(self, action: str, name: str = "", config: str = "") -> None:
        """Have every engine change its models; where one of them cannot, the others still have."""
        if not all(link.is_connected for link in self.links):
            raise EngineUnavailable("The engine is being restarted.", retry_after_seconds=1)
        asked = [link.ask(Control(self.next_id(), action, name, config)) for link in self.links]
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

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
        answers = await self._ask_all([Describe(self.next_id()) for _ in self.links])
        return merge_statuses([*answers.values()])

    async def trace(self, seconds: float) -> Traced:
        """What the devices computed in the last seconds; of several engines, each instance has the name of its device.

        Raises: EngineUnavailable.
        """
        try:
            async with asyncio.timeout(self._settings.request_timeout_seconds):
                traced = await self._ask_all([Trace(self.next_id(), seconds) for _ in self.links])
        except TimeoutError:
            raise EngineUnavailable("The engine does not answer.", retry_after_seconds=1) from None
        return traced[0] if self._only else merge_traces(traced)

    async def _ask_all(self, queries: Sequence[Describe | Trace]) -> dict[int, Any]:
        """The answers of the engines that are there, by their numbers; at least one."""
        asked = [link.ask(query) for link, query in zip(self.links, queries, strict=True)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        answers = {i: outcome for i, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)}
        if not answers:
            raise next(outcome for outcome in outcomes if isinstance(outcome, BaseException))
        return answers

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
        self.start(call)
        return call

    def start(self, call: Inference) -> None:
        """Compute an inference that says itself what becomes of its answer; its id is of `next_id`."""
        link = self._only or self._best_for(call)
        link.calls.infer(call)

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
        link = self._only or self._best_for(generation)
        link.calls.generate(generation)
        return generation

    def cancel(self, call: Outstanding) -> None:
        """Cancel a call: its rows leave the queue, or its text frees its slot at the next step."""
        for link in self.links:
            link.calls.withdraw(call, Cancelled("The caller left."))

    def _best_for(self, call: Outstanding) -> EngineLink:
        """The engine that is expected to answer a request first, of those that can compute it now."""
        key = call.model, call.version
        able = [link for link in self.links if key in link.usable and link.calls.is_writable]
        able = able or [link for link in self.links if key in link.held] or self.links
        call.work_seconds = self._paces.work_seconds(call)
        self._last_turn += 1  # those that would take equally long take turns
        turn = self._last_turn % len(able)
        best = min(able[turn:] + able[:turn], key=lambda link: link.expected_seconds(call))
        for link in able:
            if link is not best:
                link.forget()
        return best
