"""Runs the answers of one request beside each other in the engine, and turns their tokens into pieces of text.

It ends the engine's work at a stop string, when one of the answers fails, and when the caller leaves. It knows nothing
of the form in which a route tells the pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from models.tokenizer import Tokenizer
from service.engine.transport.calls import TextGeneration
from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import Finished, InferenceTiming, Sampling
from service.errors import ServiceError
from service.http.request_context import RequestContext
from service.tasks.text_generation.detokenization import Answer, Piece
from service.tasks.text_generation.process import derived_seed
from service.tasks.text_generation.schema import FinishReason, SamplingParameters


class Running:
    """One answer that is being generated."""

    def __init__(self, index: int, prompt: list[int], generation: TextGeneration, answer: Answer) -> None:
        self.index = index
        self.prompt = prompt
        self.generation = generation
        self.pieces: list[Piece] = []
        self.num_tokens = 0
        self.first_token_at: float | None = None
        self.finish_reason: FinishReason | None = None
        self._answer = answer

    async def follow(self, tell: Tell) -> None:
        """Take the engine's tokens until the end or a stop string; tell each piece, the last one always.

        Tokens that are there together make one piece.
        """
        answer, untold = self._answer, Piece("", [])
        async for token in self.generation:
            if self.first_token_at is None:
                self.first_token_at = perf_counter()
            self.num_tokens += 1
            untold += answer.feed(token.token, token.logprob, token.top)
            if answer.is_stopped:
                break
            if untold and not self.generation.num_pending:
                await tell(self, untold)
                untold = Piece("", [])
        untold += answer.finish()
        is_at_end = self.finished is not None and self.finished.reason == "stop"
        self.finish_reason = "stop" if answer.is_stopped or is_at_end else "length"
        await tell(self, untold)

    @property
    def finished(self) -> Finished | None:
        """What the engine says of a sequence that it ended itself; None for one that a stop string ended."""
        return self.generation.finished

    @property
    def text(self) -> str:
        """The pieces that were collected."""
        return "".join(piece.text for piece in self.pieces)


Tell = Callable[[Running, Piece], Awaitable[None]]


async def collect(running: Running, piece: Piece) -> None:
    """Keep a piece for an answer that is told at its end."""
    running.pieces.append(piece)


class Sequences:
    """The answers of one request."""

    def __init__(
        self,
        client: EngineClient,
        model: ReadyModel,
        tokenizer: Tokenizer,
        context: RequestContext,
        timeout_seconds: float,
    ) -> None:
        self._client = client
        self._model = model
        self._tokenizer = tokenizer
        self._context = context
        self._timeout_seconds = timeout_seconds
        self.all: list[Running] = []

    def start(self, prompt: list[int], sampling: Sampling, stops: Sequence[str] = ()) -> Running:
        """Send one sequence to the engine.

        Raises: EngineUnavailable.
        """
        generation = self._client.generate_text(self._model, prompt, sampling, self._timeout_seconds)
        running = Running(len(self.all), prompt, generation, Answer(self._tokenizer.text_bytes, stops))
        self.all.append(running)
        return running

    async def run(self, tell: Tell = collect) -> None:
        """Follow every answer to its end.

        Raises: the first error of any of them; the others end with it.
        """
        self._context.on_disconnect = self.cancel
        try:
            if self._context.is_disconnected:
                self.cancel()
            if len(self.all) == 1:
                await self._follow(self.all[0], tell)
            else:
                await self._follow_all(tell)
        finally:
            self.cancel()  # also those that were not begun
        self._context.timing = self._timing()

    async def _follow(self, running: Running, tell: Tell) -> None:
        try:
            await running.follow(tell)
        finally:
            self._cancel(running)

    async def _follow_all(self, tell: Tell) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for running in self.all:
                    group.create_task(self._follow(running, tell))
        except* ServiceError as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            failure = first
        else:
            return
        raise failure

    def cancel(self) -> None:
        """End what the engine still works on."""
        for running in self.all:
            self._cancel(running)

    def _cancel(self, running: Running) -> None:
        if running.finished is None:
            self._client.cancel(running.generation)

    def _timing(self) -> InferenceTiming | None:
        ended = [running.finished for running in self.all if running.finished is not None]
        if not ended:
            return None
        queue_seconds = max(finished.queue_seconds for finished in ended)
        compute_seconds = max(finished.prefill_seconds + finished.decode_seconds for finished in ended)
        return InferenceTiming(queue_seconds, compute_seconds, 0)

    # --- what it came to ---

    @property
    def num_completion_tokens(self) -> int:
        """The tokens of all answers, also those of the stop strings."""
        return sum(running.num_tokens for running in self.all)

    def num_cached_tokens(self, num_answers: int) -> int | None:
        """Prompt tokens that the engine did not compute for the first answer to each prompt.

        None where a stop string ended one of them, for the engine tells it at its own end only.
        """
        counts = [r.finished.cached_tokens if r.finished else None for r in self.all[::num_answers]]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def first_token_at(self) -> float | None:
        """When the first token of any answer came, by the performance counter."""
        return min((r.first_token_at for r in self.all if r.first_token_at is not None), default=None)


def sampling_of(
    parameters: SamplingParameters,
    max_tokens: int,
    seed: int,
    index: int,
    *,
    num_logprobs: int | None = None,
    prompt_logprobs: int = -1,
) -> Sampling:
    """What the engine needs to know of answer `index` of a request."""
    return Sampling(
        max_tokens=max_tokens,
        temperature=parameters.temperature,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        min_p=parameters.min_p,
        repetition_penalty=parameters.repetition_penalty,
        presence_penalty=parameters.presence_penalty,
        frequency_penalty=parameters.frequency_penalty,
        logit_bias=parameters.logit_bias,
        seed=derived_seed(seed, index),
        num_logprobs=-1 if num_logprobs is None else num_logprobs,
        prompt_logprobs=prompt_logprobs,
    )
