"""Requests from an API process to the engine, from the first send to the last answer.

A `Call` is one inference and is awaited; a `TextGeneration` is an asynchronous iterator of tokens. `InFlight` holds
those that are not finished, with their deadlines. When the engine dies, it sends them to the next engine once more. It
knows neither the connection nor HTTP.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from math import prod
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.engine.transport.known_models import ReadyModel
from service.engine.transport.messages import (
    Arrays,
    Cancel,
    Failure,
    Finished,
    GenerateText,
    Infer,
    InferenceTiming,
    Message,
    PromptScores,
    Result,
    Sampled,
    Sampling,
    Scored,
    Token,
    frame,
)
from service.engine.transport.strings import unpack_strings
from service.errors import BY_CODE, DeadlineExceeded, EngineUnavailable, ModelNotReady, ServiceError

# The engine answers at the deadline itself; the slack is for an engine that no longer answers at all.
DEADLINE_SLACK_SECONDS = 0.1
MAX_SENDS = 2

Answer = Result | Scored | Finished | Failure


class Outstanding(ABC):
    """A request that the engine has not finished."""

    id: int
    model: str
    version: str
    deadline: float
    num_sent: int = 0
    is_stranded: bool = False  # the engine that held it is gone
    timer: asyncio.TimerHandle | None = None

    @abstractmethod
    def encode(self, timeout_seconds: float) -> bytes:
        """The frame that requests what is still missing."""

    @abstractmethod
    def receive(self, message: Message, payload: memoryview) -> bool:
        """Take a message of the engine; return whether it is the last one."""

    @abstractmethod
    def fail(self, error: ServiceError) -> None:
        """Finish with an error, unless it is finished already."""


class Call(asyncio.Future[tuple[Arrays, InferenceTiming]], Outstanding):
    """One inference: await it for its outputs and its timing."""

    def __init__(self, infer: Infer, payload: Sequence[bytes | memoryview], deadline: float) -> None:
        super().__init__()
        self.id, self.model, self.version = infer.id, infer.model, infer.version
        self.infer = infer
        self.payload = payload
        self.deadline = deadline

    def encode(self, timeout_seconds: float) -> bytes:
        """The request with the time that is left."""
        infer = self.infer
        if timeout_seconds != infer.timeout_seconds:
            infer = msgspec.structs.replace(infer, timeout_seconds=timeout_seconds)
        return frame(infer, *self.payload)

    def receive(self, message: Message, payload: memoryview) -> bool:
        """Set the result that is awaited."""
        if isinstance(message, Result) and not self.done():
            timing = InferenceTiming(message.queue_seconds, message.compute_seconds, message.batch_size)
            self.set_result((_arrays(message, payload), timing))
        return isinstance(message, Result)

    def fail(self, error: ServiceError) -> None:
        """Raise the error where the call is awaited."""
        if not self.done():
            self.set_exception(error)


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

    def __init__(self, id_: int, model: ReadyModel, prompt: Sequence[int], sampling: Sampling, deadline: float) -> None:
        language = model.manifest.language
        self.id, self.model, self.version = id_, model.name, model.version
        self.prompt = prompt
        self.sampling = sampling
        self.deadline = deadline
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
        return frame(GenerateText(self.id, self.model, self.version, sampling, timeout_seconds), prompt.tobytes())

    def push(self, token: Token) -> None:
        """Deliver a token."""
        self._tokens.append(token)
        self._wake()

    def receive(self, message: Message, payload: memoryview) -> bool:
        """Take the prompt's scores, or the end."""
        if isinstance(message, Scored):
            self._score(message, payload)
        elif isinstance(message, Finished):
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

    `write` sends a frame to the engine, or drops it while there is none.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Outstanding] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def send(self, call: Outstanding, timeout_seconds: float) -> None:
        """Send a request, and fail it when its deadline has passed."""
        data = call.encode(timeout_seconds)
        self._calls[call.id] = call
        call.num_sent += 1
        self._arm(call, call.deadline + DEADLINE_SLACK_SECONDS, DeadlineExceeded("The deadline passed."))
        self._write(data)

    def withdraw(self, call: Outstanding, error: ServiceError) -> None:
        """Cancel a request and fail it, unless it is finished."""
        if call.id in self._calls:
            self._write(frame(Cancel(call.id)))
            self._settle(call, error)

    # --- messages of the engine ---

    def push(self, sampled: Sampled) -> None:
        """Deliver the tokens of one step."""
        for id_, token, logprob, top in sampled.items:
            if isinstance(generation := self._calls.get(id_), TextGeneration):
                generation.push(Token(token, logprob, top))

    def receive(self, message: Answer, payload: memoryview) -> bool:
        """Deliver an answer, or a part of one; return whether a request was waiting for it."""
        if (call := self._calls.get(message.id)) is None:
            return False
        if isinstance(message, Failure):
            self._settle(call, error_of(message))
        elif call.receive(message, payload):
            self._forget(call)
        return True

    # --- when the engine is lost ---

    def strand(self, restart_seconds: float) -> None:
        """Keep the requests that may be sent once more, for as long as a restart may take; fail the others."""
        for call in list(self._calls.values()):
            if isinstance(call, TextGeneration) and call.is_complete:
                self._forget(call)
                call.finish()
            elif call.num_sent >= MAX_SENDS:
                message = "The engine was lost twice while it held this request."
                self._settle(call, EngineUnavailable(message, retry_after_seconds=1))
            else:
                call.is_stranded = True
                limit = min(call.deadline, self._loop.time() + restart_seconds)
                self._arm(call, limit, EngineUnavailable("The engine is not back yet.", retry_after_seconds=1))

    def resend(self, ready: Container[tuple[str, str]], *, is_settled: bool) -> None:
        """Send again what the lost engine held, as soon as its model is ready.

        `ready` holds names and versions; `is_settled`: the engine has no more models to load.
        """
        now = self._loop.time()
        for call in [call for call in self._calls.values() if call.is_stranded]:
            if (call.model, call.version) in ready:
                call.is_stranded = False
                self.send(call, call.deadline - now)
            elif is_settled:
                self._settle(call, ModelNotReady(f"{call.model}@{call.version} is no longer served."))

    # --- deadlines and ends ---

    def _arm(self, call: Outstanding, when: float, error: ServiceError) -> None:
        if call.timer is not None:
            call.timer.cancel()
        call.timer = self._loop.call_at(when, self.withdraw, call, error)

    def _settle(self, call: Outstanding, error: ServiceError) -> None:
        self._forget(call)
        call.fail(error)

    def _forget(self, call: Outstanding) -> None:
        self._calls.pop(call.id, None)
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None


def error_of(failure: Failure) -> ServiceError:
    """The error that a failure stands for."""
    kind = BY_CODE.get(failure.code, ServiceError)
    return kind(failure.message, retry_after_seconds=failure.retry_after_seconds)
