"""Requests from an API process to the engine, from the first send to the last answer.

A `Call` is one inference and is awaited; a `TextGeneration` is an asynchronous iterator of tokens. `InFlight` holds
those that are not finished, with their deadlines; inferences that start in one turn of the event loop and have the same
target cross the socket together. What the engine cannot take waits here: while it is restarted, while a model is being
loaded again, while it does not read. When it dies, the next one gets all that it held. It knows neither the connection
nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from math import prod
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.budget import ByteBudget, Reservation
from service.engine.transport.known_models import ReadyModel
from service.engine.transport.messages import (
    ANYONE,
    Arrays,
    Caller,
    Cancel,
    Failure,
    Finished,
    GenerateText,
    Infer,
    InferenceTiming,
    InferTarget,
    Piece,
    PromptScores,
    Result,
    Sampled,
    Sampling,
    Scored,
    Token,
    check_length,
    frame,
    pieces_of,
)
from service.engine.transport.strings import unpack_strings
from service.errors import BY_CODE, DeadlineExceeded, EngineUnavailable, ServiceError
from service.quotas import NOBODY, Account

log = logging.getLogger(__name__)

# The engine answers at the deadline itself; the slack is for an engine that no longer answers at all.
DEADLINE_SLACK_SECONDS = 0.1
# The engine finds out which request ends it, with the second engine. The bound is for what ends engines now and then.
MAX_LOSSES = 10
MAX_WAITING = 4096
# So many requests of one turn share a message: fewer would cost more of them, with more the engine would wait for the
# last of them while it has nothing to do. Large ones gain nothing.
MAX_TOGETHER = 8
MAX_TOGETHER_BYTES = 2**20


class Outstanding(ABC):
    """A request that the engine has not finished; it is given up at `limit`."""

    id: int
    model: str
    version: str
    deadline: float
    limit: float
    num_losses: int = 0
    """How many engines have ended while they held it."""
    payload_bytes: int = 0
    work_seconds: float = 0.0
    """What it is expected to cost its engine, where there are several to choose from."""

    @abstractmethod
    def fail(self, error: ServiceError) -> None:
        """Finish with an error, unless it is finished already."""


class Inference(Outstanding):
    """One inference: `num_rows` rows of each input of its target, in the graph's order."""

    def __init__(
        self,
        id_: int,
        target: InferTarget,
        num_rows: int,
        payload: Sequence[Piece],
        deadline: float,
        caller: Caller = ANYONE,
    ) -> None:
        self.id = id_
        self.target = target
        self.model, self.version = target[0], target[1]
        self.num_rows = num_rows
        self.payload = payload
        self.payload_bytes = sum(map(len, payload))
        self.deadline = deadline
        self.caller = caller

    @abstractmethod
    def answer(self, arrays: Arrays, timing: InferenceTiming) -> None:
        """Take the outputs, unless it is finished already."""


class Call(asyncio.Future[tuple[Arrays, InferenceTiming]], Inference):
    """An inference to await for its outputs and its timing."""

    def __init__(self, *inference: Any) -> None:
        asyncio.Future.__init__(self)
        Inference.__init__(self, *inference)

    def answer(self, arrays: Arrays, timing: InferenceTiming) -> None:
        """Set the result that is awaited."""
        if not self.done():
            self.set_result((arrays, timing))

    def fail(self, error: ServiceError) -> None:
        """Raise the error where the call is awaited."""
        if not self.done():
            self.set_exception(error)


def _callers(calls: Sequence[Inference]) -> tuple[tuple[Caller, ...], list[int]]:
    """The callers of some inferences, and which of them each is from, as `Infer` has them."""
    first = calls[0].caller
    if all(call.caller is first for call in calls):
        return (first,), []
    places = {caller: place for place, caller in enumerate(dict.fromkeys(call.caller for call in calls))}
    return tuple(places), [places[call.caller] for call in calls]


def _arrays(result: Result, payload: memoryview) -> Arrays:
    """The tensors of a payload; BYTES become arrays of bytes objects."""
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, dtype, shape in result.outputs:
        count = prod(shape)
        if dtype == "|O":
            items, offset = unpack_strings(payload, count, offset)
            texts = np.empty(count, object)
            texts[:] = items
            arrays[name] = texts.reshape(shape)
            continue
        arrays[name] = np.frombuffer(payload, dtype, count, offset).reshape(shape)
        offset += arrays[name].nbytes
    return arrays


class TextGeneration(Outstanding):
    """One continuation of a prompt: iterate over it for its tokens, with one reader.

    `finished` is set when the iteration ends, `scored` and `cached_tokens` before the first token. If the engine dies,
    the next one continues after the tokens that have arrived, and the reader notices nothing.
    """

    def __init__(
        self,
        id_: int,
        model: ReadyModel,
        prompt: Sequence[int],
        sampling: Sampling,
        deadline: float,
        account: Account = NOBODY,
        request: int = 0,
    ) -> None:
        language = model.manifest.language
        self.id, self.model, self.version = id_, model.name, model.version
        self.prompt = prompt
        self.payload_bytes = 4 * len(prompt)
        self.sampling = sampling
        self.deadline = deadline
        self.account = account
        self.request = request
        self.finished: Finished | None = None
        self.scored: PromptScores | None = None
        self.cached_tokens = 0
        self._end_tokens = sampling.end_tokens(frozenset() if language is None else language.end_tokens)
        self._tokens: list[Token] = []
        self._num_read = 0
        self._error: ServiceError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # --- the reader's side ---

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        while self._num_read == len(self._tokens):
            if self._error is not None:
                raise self._error
            if self.finished is not None:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._num_read += 1
        return self._tokens[self._num_read - 1]

    @property
    def num_pending(self) -> int:
        """Tokens that have arrived and are not read yet; reading them does not wait."""
        return len(self._tokens) - self._num_read

    # --- the client's side ---

    @property
    def has_begun(self) -> bool:
        """Whether a token has arrived."""
        return bool(self._tokens)

    @property
    def is_complete(self) -> bool:
        """Whether the last token has arrived, and only `Finished` is missing."""
        if not self._tokens:
            return False
        if self._tokens[-1].token in self._end_tokens:
            return True
        # Whether the last token completes a grammar, the engine knows.
        return len(self._tokens) >= self.sampling.max_tokens and self.sampling.grammar is None

    def encode(self, timeout_seconds: float) -> bytes:
        """The request for the missing tokens; those that have arrived become part of the prompt."""
        sampling, num_tokens = self.sampling, len(self._tokens)
        if num_tokens:
            sampling = msgspec.structs.replace(
                sampling,
                max_tokens=sampling.max_tokens - num_tokens,
                first_step=sampling.first_step + num_tokens,
                prompt_logprobs=-1,
            )
        elif self.scored is not None:
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=-1)
        prompt = np.array([*self.prompt, *(token.token for token in self._tokens)], np.int32)
        message = GenerateText(
            self.id,
            self.model,
            self.version,
            sampling,
            timeout_seconds,
            self.account.caller,
            self.num_losses,
            self.account.priority,
            self.request,
        )
        return frame(message, prompt.tobytes())

    def push(self, token: Token) -> None:
        """Deliver a token."""
        self.account.charge_token()
        self._tokens.append(token)
        self._wake()

    def receive(self, message: Scored | Finished, payload: memoryview) -> bool:
        """Take the prompt's scores, or the end; return whether it is the end."""
        if isinstance(message, Scored):
            self._score(message, payload)
        else:
            self.finish(message)
        return isinstance(message, Finished)

    def _score(self, scored: Scored, payload: memoryview) -> None:
        num_scores = len(self.prompt) - 1
        num_top, size = scored.num_top, 4 * num_scores
        logprobs = np.frombuffer(payload[:size], np.float32)
        tokens = np.frombuffer(payload[size : size * (1 + num_top)], np.int32)
        values = np.frombuffer(payload[size * (1 + num_top) :], np.float32)
        shape = (num_scores, num_top)
        self.scored = PromptScores(logprobs, tokens.reshape(shape), values.reshape(shape))

    def finish(self, finished: Finished | None = None) -> None:
        """End the iteration after the tokens that have arrived; without `Finished`, derive it from them."""
        if finished is None:
            reason = "stop" if self._tokens and self._tokens[-1].token in self._end_tokens else "length"
            finished = Finished(self.id, reason, len(self.prompt), 0, 0.0, 0.0, 0.0, len(self._tokens))
        if not self._tokens:
            self.cached_tokens = finished.cached_tokens
        # The prompt of a request that was sent again holds part of the answer.
        self.finished = msgspec.structs.replace(finished, prompt_tokens=len(self.prompt))
        self._wake()

    def fail(self, error: ServiceError) -> None:
        """Raise the error after the tokens that have arrived."""
        if self.finished is None and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class InFlight:
    """The requests that are not finished, by their id.

    `write` sends the pieces of a frame to the engine. `ready` holds the names and versions that the engine can compute.
    Requests that it cannot take yet wait for at most `restart_seconds` after it was lost, within `budget`.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Piece]], None],
        ready: Container[tuple[str, str]],
        budget: ByteBudget,
        restart_seconds: float,
    ) -> None:
        self._write = write
        self._ready = ready
        self._budget = budget
        self._restart_seconds = restart_seconds
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Outstanding] = {}
        self._waiting: dict[int, Reservation] = {}
        self._gives_up_at = math.inf  # until then, requests wait for an engine
        self.is_writable = self._is_settled = False
        self.work_seconds = 0.0
        """What these requests are expected to cost the engine."""
        self._starting: dict[InferTarget, list[Inference]] = {}
        self._num_starting = self._starting_bytes = 0
        # One timer for all: it fires at the earliest limit or, where that call has ended, for nothing.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __len__(self) -> int:
        return len(self._calls)

    def find(self, id_: int) -> Outstanding | None:
        """The request with this id, unless it is finished."""
        return self._calls.get(id_)

    @property
    def num_waiting(self) -> int:
        """Requests that the engine cannot take yet."""
        return len(self._waiting)

    def infer(self, call: Inference) -> None:
        """Send an inference at the end of this turn, and fail it when its deadline has passed.

        Raises: EngineUnavailable where it may not wait for the engine any more; Busy.
        """
        check_length(call.payload_bytes)
        if self._can_take(call):
            self._hold(call)
            self._start(call)
        else:
            self._wait(call)

    def generate(self, call: TextGeneration) -> None:
        """Send a request for a text, and fail it when its deadline has passed.

        Raises: EngineUnavailable where it may not wait for the engine any more; Busy.
        """
        if self._can_take(call):
            self._hold(call)
            self._write([call.encode(call.deadline - self._loop.time())])
        else:
            self._wait(call)

    def withdraw(self, call: Outstanding, error: ServiceError) -> None:
        """Cancel a request and fail it, unless it is finished."""
        if call.id not in self._calls:
            return
        if call.id not in self._waiting:
            self._flush()  # the engine must know what it is to cancel
            self._write([frame(Cancel(call.id))])
        self._settle(call, error)

    # --- sending ---

    def _can_take(self, call: Outstanding) -> bool:
        # Once the engine has settled, it is the one to refuse.
        return self.is_writable and (self._is_settled or (call.model, call.version) in self._ready)

    def _start(self, call: Inference) -> None:
        if call.num_losses:
            self._send(call.target, [call])
            return
        starting = self._starting.get(call.target)
        if starting is not None:
            starting.append(call)
        else:
            if not self._starting:
                self._loop.call_soon(self._flush)
            self._starting[call.target] = [call]
        self._starting_bytes += call.payload_bytes
        self._num_starting += 1
        if self._num_starting >= MAX_TOGETHER or self._starting_bytes > MAX_TOGETHER_BYTES:
            self._flush()

    def _flush(self) -> None:
        starting, self._starting, self._num_starting, self._starting_bytes = self._starting, {}, 0, 0
        for target, calls in starting.items():
            if self.is_writable:
                self._send(target, calls)
                continue
            for call in calls:
                self._wait_or_fail(call)

    def _send(self, target: InferTarget, calls: Sequence[Inference]) -> None:
        now = self._loop.time()
        message = Infer(
            target,
            [call.id for call in calls],
            [call.num_rows for call in calls],
            [call.payload_bytes for call in calls],
            [call.deadline - now for call in calls],
            *_callers(calls),
            calls[0].num_losses,
        )
        self._write(pieces_of(message, [piece for call in calls for piece in call.payload]))

    # --- waiting ---

    def _wait(self, call: Outstanding) -> None:
        """Keep a request until the engine can take it."""
        if self._loop.time() >= self._gives_up_at:
            raise EngineUnavailable("The engine is being restarted.", retry_after_seconds=1)
        if len(self._waiting) >= MAX_WAITING:
            raise EngineUnavailable(f"{MAX_WAITING} requests wait for the engine already.", retry_after_seconds=1)
        self._waiting[call.id] = self._budget.reserve(call.payload_bytes, "a message to the engine")
        self._hold(call)
        self._limit(call, min(call.limit, self._gives_up_at))

    def _wait_or_fail(self, call: Outstanding) -> None:
        try:
            self._wait(call)
        except ServiceError as error:
            self._settle(call, error)

    def pause(self) -> None:
        """Send nothing until `resume`: the engine does not read."""
        self.is_writable = False

    def resume(self, *, is_settled: bool) -> None:
        """Send what waits, as far as its model is ready; `is_settled`: the engine has no more models to load."""
        self.is_writable, self._is_settled = True, is_settled
        if is_settled:
            self._gives_up_at = math.inf
        for call in [self._calls[id_] for id_ in self._waiting]:
            if not self.is_writable:
                return  # it has enough for now
            if self._can_take(call):
                self._waiting.pop(call.id).release()
                self._send_late(call)

    def _send_late(self, call: Outstanding) -> None:
        try:
            self._hold(call)
            if isinstance(call, Inference):
                self._start(call)
            elif isinstance(call, TextGeneration):
                self._write([call.encode(call.deadline - self._loop.time())])
        except Exception as error:  # the others must still be sent
            log.exception("a request could not be sent to the engine")
            self._settle(call, error if isinstance(error, ServiceError) else ServiceError("It could not be sent."))

    def lose(self) -> None:
        """Keep all requests for the next engine: what this one held, and what never reached it."""
        self.is_writable = self._is_settled = False
        self._gives_up_at = self._loop.time() + self._restart_seconds
        unsent = {call.id for calls in self._starting.values() for call in calls} | self._waiting.keys()
        self._starting, self._num_starting, self._starting_bytes = {}, 0, 0
        for call in list(self._calls.values()):
            if call.id not in unsent:
                call.num_losses += 1
            self._strand(call)

    def _strand(self, call: Outstanding) -> None:
        if isinstance(call, TextGeneration) and call.is_complete:
            self._forget(call.id)
            call.finish()
        elif call.num_losses > MAX_LOSSES:
            message = f"{call.num_losses} engines ended while they held this request."
            self._settle(call, EngineUnavailable(message, retry_after_seconds=1))
        else:
            self._waiting.setdefault(call.id, Reservation())  # what was accepted is not refused any more
            self._limit(call, min(call.deadline + DEADLINE_SLACK_SECONDS, self._gives_up_at))

    # --- messages of the engine ---

    def push(self, sampled: Sampled) -> None:
        """Deliver the tokens of one step."""
        for id_, num_cached in sampled.cached_tokens.items():
            generation = self._calls.get(id_)
            if isinstance(generation, TextGeneration) and not generation.has_begun:
                generation.cached_tokens = num_cached
        for id_, token, logprob, top in sampled.items:
            if isinstance(generation := self._calls.get(id_), TextGeneration):
                generation.push(Token(token, logprob, top))

    def answer(self, result: Result, payload: memoryview) -> None:
        """Deliver the outputs of inferences, each its rows."""
        arrays = _arrays(result, payload)
        compute_seconds, batch_size = result.compute_seconds, result.batch_size
        if not result.num_rows:
            timing = InferenceTiming(result.queue_seconds[0], compute_seconds, batch_size, result.precision)
            self._answer(result.ids[0], arrays, timing)
            return
        start = 0
        for id_, num_rows, queue_seconds in zip(result.ids, result.num_rows, result.queue_seconds, strict=True):
            end = start + num_rows
            rows = {name: array[start:end] for name, array in arrays.items()}
            self._answer(id_, rows, InferenceTiming(queue_seconds, compute_seconds, batch_size, result.precision))
            start = end

    def _answer(self, id_: int, arrays: Arrays, timing: InferenceTiming) -> None:
        call = self._calls.pop(id_, None)
        if isinstance(call, Inference):
            self.work_seconds -= call.work_seconds
            try:
                call.answer(arrays, timing)
            except Exception:  # the others of its batch must still be answered
                log.exception("an answer could not be delivered")

    def receive(self, message: Scored | Finished, payload: memoryview) -> None:
        """Deliver what comes of a text beside its tokens."""
        if isinstance(call := self._calls.get(message.id), TextGeneration) and call.receive(message, payload):
            self._forget(call.id)

    def fail(self, failure: Failure) -> bool:
        """Fail a request; return whether there is one of this id."""
        if (call := self._calls.get(failure.id)) is None:
            return False
        self._settle(call, error_of(failure))
        return True

    # --- deadlines and ends ---

    def _hold(self, call: Outstanding) -> None:
        if call.id not in self._calls:  # one that waited is held a second time
            self.work_seconds += call.work_seconds
        self._calls[call.id] = call
        call.limit = call.deadline + DEADLINE_SLACK_SECONDS
        if call.limit < self._timer_at:
            self._limit(call, call.limit)

    def _limit(self, call: Outstanding, when: float) -> None:
        call.limit = when
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        now = self._loop.time()
        self._timer, self._timer_at = None, math.inf
        for call in [call for call in self._calls.values() if call.limit <= now]:
            late: ServiceError = DeadlineExceeded("The deadline passed.")
            if self._gives_up_at <= now and call.id in self._waiting:
                late = EngineUnavailable("The engine is not back yet.", retry_after_seconds=1)
            self.withdraw(call, late)
        if self._calls:
            earliest = min(self._calls.values(), key=lambda call: call.limit)
            self._limit(earliest, earliest.limit)

    def _forget(self, id_: int) -> None:
        if (call := self._calls.pop(id_, None)) is not None:
            self.work_seconds -= call.work_seconds
        if self._waiting and (reservation := self._waiting.pop(id_, None)) is not None:
            reservation.release()

    def _settle(self, call: Outstanding, error: ServiceError) -> None:
        self._forget(call.id)
        try:
            call.fail(error)
        except Exception:  # the others must still be told
            log.exception("an error could not be delivered")


def error_of(failure: Failure) -> ServiceError:
    """The error that a failure stands for."""
    kind = BY_CODE.get(failure.code, ServiceError)
    return kind(failure.message, retry_after_seconds=failure.retry_after_seconds)
