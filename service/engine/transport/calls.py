"""Requests from an API process to the engine, from the first send to the last answer.

A `Call` is one inference and is awaited; a `TextGeneration` is an asynchronous iterator of tokens. `InFlight` holds
those that are not finished, with their deadlines; inferences that start in one turn of the event loop and have the same
target cross the socket together. When the engine dies, it sends all to the next engine once more. It knows neither the
connection nor HTTP.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from math import prod
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

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
from service.errors import BY_CODE, DeadlineExceeded, EngineUnavailable, ModelNotReady, ServiceError

# The engine answers at the deadline itself; the slack is for an engine that no longer answers at all.
DEADLINE_SLACK_SECONDS = 0.1
MAX_SENDS = 2
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
    num_sent: int = 0
    is_stranded: bool = False  # the engine that held it is gone

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

    `finished` is set when the iteration ends, `scored` before the first token. If the engine dies, the next one
    continues after the tokens that have arrived, and the reader notices nothing.
    """

    def __init__(
        self,
        id_: int,
        model: ReadyModel,
        prompt: Sequence[int],
        sampling: Sampling,
        deadline: float,
        caller: Caller = ANYONE,
    ) -> None:
        language = model.manifest.language
        self.id, self.model, self.version = id_, model.name, model.version
        self.prompt = prompt
        self.sampling = sampling
        self.deadline = deadline
        self.caller = caller
        self.finished: Finished | None = None
        self.scored: PromptScores | None = None
        self._end_tokens = frozenset[int]() if language is None or sampling.ignore_eos else language.end_tokens
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
    def is_complete(self) -> bool:
        """Whether the last token has arrived, and only `Finished` is missing."""
        if not self._tokens:
            return False
        return len(self._tokens) >= self.sampling.max_tokens or self._tokens[-1].token in self._end_tokens

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
        message = GenerateText(self.id, self.model, self.version, sampling, timeout_seconds, self.caller)
        return frame(message, prompt.tobytes())

    def push(self, token: Token) -> None:
        """Deliver a token."""
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

    `write` sends the pieces of a frame to the engine, or drops them while there is none.
    """

    def __init__(self, write: Callable[[Sequence[Piece]], None]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Outstanding] = {}
        self._starting: dict[InferTarget, list[Inference]] = {}
        self._num_starting = self._starting_bytes = 0
        # One timer for all: it fires at the earliest limit or, where that call has ended, for nothing.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __len__(self) -> int:
        return len(self._calls)

    def infer(self, call: Inference) -> None:
        """Send an inference at the end of this turn, and fail it when its deadline has passed."""
        check_length(call.payload_bytes)
        self._hold(call)
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
        now = self._loop.time()
        starting, self._starting, self._num_starting, self._starting_bytes = self._starting, {}, 0, 0
        for target, calls in starting.items():
            message = Infer(
                target,
                [call.id for call in calls],
                [call.num_rows for call in calls],
                [call.payload_bytes for call in calls],
                [call.deadline - now for call in calls],
                *_callers(calls),
            )
            self._write(pieces_of(message, [piece for call in calls for piece in call.payload]))

    def generate(self, call: TextGeneration) -> None:
        """Send a request for a text, and fail it when its deadline has passed."""
        self._hold(call)
        self._write([call.encode(call.deadline - self._loop.time())])

    def withdraw(self, call: Outstanding, error: ServiceError) -> None:
        """Cancel a request and fail it, unless it is finished."""
        if call.id in self._calls:
            self._flush()  # the engine must know what it is to cancel
            self._write([frame(Cancel(call.id))])
            self._settle(call, error)

    # --- messages of the engine ---

    def push(self, sampled: Sampled) -> None:
        """Deliver the tokens of one step."""
        for id_, token, logprob, top in sampled.items:
            if isinstance(generation := self._calls.get(id_), TextGeneration):
                generation.push(Token(token, logprob, top))

    def answer(self, result: Result, payload: memoryview) -> None:
        """Deliver the outputs of inferences, each its rows."""
        arrays = _arrays(result, payload)
        compute_seconds, batch_size = result.compute_seconds, result.batch_size
        if not result.num_rows:
            self._answer(result.ids[0], arrays, InferenceTiming(result.queue_seconds[0], compute_seconds, batch_size))
            return
        start = 0
        for id_, num_rows, queue_seconds in zip(result.ids, result.num_rows, result.queue_seconds, strict=True):
            end = start + num_rows
            rows = {name: array[start:end] for name, array in arrays.items()}
            self._answer(id_, rows, InferenceTiming(queue_seconds, compute_seconds, batch_size))
            start = end

    def _answer(self, id_: int, arrays: Arrays, timing: InferenceTiming) -> None:
        call = self._calls.pop(id_, None)
        if isinstance(call, Inference):
            call.answer(arrays, timing)

    def receive(self, message: Scored | Finished, payload: memoryview) -> None:
        """Deliver what comes of a text beside its tokens."""
        if isinstance(call := self._calls.get(message.id), TextGeneration) and call.receive(message, payload):
            del self._calls[call.id]

    def fail(self, failure: Failure) -> bool:
        """Fail a request; return whether there is one of this id."""
        if (call := self._calls.get(failure.id)) is None:
            return False
        self._settle(call, error_of(failure))
        return True

    # --- when the engine is lost ---

    def strand(self, restart_seconds: float) -> None:
        """Keep the requests that may be sent once more, for as long as a restart may take; fail the others."""
        for call in list(self._calls.values()):
            if isinstance(call, TextGeneration) and call.is_complete:
                del self._calls[call.id]
                call.finish()
            elif call.num_sent >= MAX_SENDS:
                message = "The engine was lost twice while it held this request."
                self._settle(call, EngineUnavailable(message, retry_after_seconds=1))
            else:
                call.is_stranded = True
                self._limit(call, min(call.deadline, self._loop.time() + restart_seconds))

    def resend(self, ready: Container[tuple[str, str]], *, is_settled: bool) -> None:
        """Send again what the lost engine held, as soon as its model is ready.

        `ready` holds names and versions; `is_settled`: the engine has no more models to load.
        """
        for call in [call for call in self._calls.values() if call.is_stranded]:
            if (call.model, call.version) in ready:
                call.is_stranded = False
                self._send_again(call)
            elif is_settled:
                self._settle(call, ModelNotReady(f"{call.model}@{call.version} is no longer served."))

    def _send_again(self, call: Outstanding) -> None:
        if isinstance(call, Inference):
            self.infer(call)
        elif isinstance(call, TextGeneration):
            self.generate(call)

    # --- deadlines and ends ---

    def _hold(self, call: Outstanding) -> None:
        self._calls[call.id] = call
        call.num_sent += 1
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
            if call.is_stranded:
                late = EngineUnavailable("The engine is not back yet.", retry_after_seconds=1)
            self.withdraw(call, late)
        if self._calls:
            earliest = min(self._calls.values(), key=lambda call: call.limit)
            self._limit(earliest, earliest.limit)

    def _settle(self, call: Outstanding, error: ServiceError) -> None:
        self._calls.pop(call.id, None)
        call.fail(error)


def error_of(failure: Failure) -> ServiceError:
    """The error that a failure stands for."""
    kind = BY_CODE.get(failure.code, ServiceError)
    return kind(failure.message, retry_after_seconds=failure.retry_after_seconds)
