"""A text that the engine is continuing, as an API process sees it: an asynchronous iterator of tokens.

What was delivered stays delivered: if the engine dies, the rest is asked of the next one, and the text goes on as if
nothing had happened. It knows tokens, neither characters nor HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.engine.transport.calls import Outstanding, ReadyModel
from service.engine.transport.messages import Finished, Generate, Message, Sampling, Scored, frame
from service.errors import ServiceError


class Token(NamedTuple):
    """A generated token, its log probability and the likeliest tokens with theirs, as far as they were wanted."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class PromptScores(NamedTuple):
    """Log probabilities of the prompt's tokens after the first [P - 1], and the likeliest with theirs [P - 1, K]."""

    logprobs: NDArray[np.float32]
    top_tokens: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]


class Generation(Outstanding):
    """One continuation on its way: iterate over it for its tokens; one reader.

    `finished` says how it ended, once the iteration is over. `scored` is there before the first token.
    """

    def __init__(
        self,
        id_: int,
        model: ReadyModel,
        prompt: Sequence[int],
        sampling: Sampling,
        deadline: float,
    ) -> None:
        language = model.manifest.language
        self.id, self.model, self.version = id_, model.name, model.version
        self.prompt = prompt
        self.sampling = sampling
        self.deadline = deadline
        self.num_sent = 0
        self.is_stranded = False
        self.timer = None
        self.finished: Finished | None = None
        self.scored: PromptScores | None = None
        self._end_token = language.eos_token if language is not None and not sampling.ignore_eos else None
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
        """Tokens that have arrived and are not read: the next ones take no turn of the event loop."""
        return len(self._tokens) - self._num_read

    # --- the client's side ---

    @property
    def is_complete(self) -> bool:
        """Whether only the word that it is finished is missing."""
        if not self._tokens:
            return False
        return len(self._tokens) >= self.sampling.max_tokens or self._tokens[-1].token == self._end_token

    def encode(self, timeout_seconds: float) -> bytes:
        """The request for the tokens that are missing; those delivered are part of the prompt."""
        sampling, delivered = self.sampling, len(self._tokens)
        if delivered:
            sampling = msgspec.structs.replace(
                sampling,
                max_tokens=sampling.max_tokens - delivered,
                first_step=sampling.first_step + delivered,
                prompt_logprobs=-1,
            )
        elif self.scored is not None:
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=-1)
        prompt = np.array([*self.prompt, *(token.token for token in self._tokens)], np.int32)
        return frame(Generate(self.id, self.model, self.version, sampling, timeout_seconds), prompt.tobytes())

    def push(self, token: Token) -> None:
        """Deliver a token."""
        self._tokens.append(token)
        self._wake()

    def receive(self, message: Message, payload: memoryview) -> bool:
        """Take the prompt's scores, or the word that the text is finished."""
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
        """End the iteration after the tokens that are there; without the engine's word, by what was delivered."""
        if finished is None:
            reason = "stop" if self._tokens and self._tokens[-1].token == self._end_token else "length"
            finished = Finished(self.id, reason, len(self.prompt), 0, 0.0, 0.0, 0.0, len(self._tokens))
        # The prompt of an answer that was resumed holds part of the answer.
        self.finished = msgspec.structs.replace(finished, prompt_tokens=len(self.prompt))
        self._wake()

    def fail(self, error: ServiceError) -> None:
        """Raise the error after the tokens that are there."""
        if self.finished is None and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
