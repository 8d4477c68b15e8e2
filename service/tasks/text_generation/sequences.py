"""Runs the sequences of one request concurrently and streams their text in chunks.

Sequences are cancelled in the engine at a stop string, when another one fails, and when the caller disconnects. It does
not know how a route formats the chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from models.tokenizer import Tokenizer
from service.engine.transport.calls import TextGeneration
from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import Finished, InferenceTiming, Sampling
from service.errors import InvalidParameter, ServiceError
from service.http.request_context import RequestContext
from service.tasks.text_generation.detokenization import Detokenizer, TextChunk
from service.tasks.text_generation.process import derived_seed
from service.tasks.text_generation.schema import FinishReason, SamplingParameters


class RunningSequence:
    """One sequence that the engine is generating."""

    def __init__(self, index: int, prompt: list[int], generation: TextGeneration, detokenizer: Detokenizer) -> None:
        self.index = index
        self.prompt = prompt
        self.generation = generation
        self.chunks: list[TextChunk] = []
        self.num_tokens = 0
        self.first_token_at: float | None = None
        self.finish_reason: FinishReason | None = None
        self._detokenizer = detokenizer

    async def follow(self, send: Send) -> None:
        """Receive tokens until the end or a stop string; send each chunk of text, and always a last one.

        Tokens that are available at once are sent as one chunk.
        """
        detokenizer, unsent = self._detokenizer, TextChunk("", [])
        async for token in self.generation:
            if self.first_token_at is None:
                self.first_token_at = perf_counter()
            self.num_tokens += 1
            unsent += detokenizer.feed(token.token, token.logprob, token.top)
            if detokenizer.is_stopped:
                break
            if unsent and not self.generation.num_pending:
                await send(self, unsent)
                unsent = TextChunk("", [])
        unsent += detokenizer.finish()
        is_at_end = self.finished is not None and self.finished.reason == "stop"
        self.finish_reason = "stop" if detokenizer.is_stopped or is_at_end else "length"
        await send(self, unsent)

    @property
    def finished(self) -> Finished | None:
        """The engine's report on the sequence; None if a stop string ended it."""
        return self.generation.finished

    @property
    def text(self) -> str:
        """The text of the collected chunks."""
        return "".join(chunk.text for chunk in self.chunks)


Send = Callable[[RunningSequence, TextChunk], Awaitable[None]]


async def collect(sequence: RunningSequence, chunk: TextChunk) -> None:
    """Collect a chunk, for an answer that is sent at the end."""
    sequence.chunks.append(chunk)


class Sequences:
    """The sequences of one request."""

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
        context.deadline = asyncio.get_running_loop().time() + timeout_seconds
        self._timeout_seconds = timeout_seconds
        self._request = client.next_id()
        self.all: list[RunningSequence] = []

    def start(self, prompt: list[int], sampling: Sampling, stops: Sequence[str] = ()) -> RunningSequence:
        """Start a sequence in the engine.

        Raises: EngineUnavailable; TooManyRequests.
        """
        account, seconds = self._context.account, self._timeout_seconds
        generation = self._client.generate_text(self._model, prompt, sampling, seconds, account, self._request)
        detokenizer = Detokenizer(
            self._tokenizer.text_bytes, stops, silent=sampling.stop_token_ids, min_tokens=sampling.min_tokens
        )
        sequence = RunningSequence(len(self.all), prompt, generation, detokenizer)
        self.all.append(sequence)
        return sequence

    async def run(self, send: Send = collect) -> None:
        """Follow all sequences to their ends.

        Raises: the first ServiceError of any sequence, which cancels the others.
        """
        try:
            with self._context.leaving(self.cancel):
                if len(self.all) == 1:
                    await self._follow(self.all[0], send)
                else:
                    await self._follow_all(send)
        finally:
            self.cancel()  # including sequences that no task follows yet
        self._context.timing = self._timing()

    async def _follow(self, sequence: RunningSequence, send: Send) -> None:
        try:
            await sequence.follow(send)
        finally:
            self._cancel(sequence)

    async def _follow_all(self, send: Send) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for sequence in self.all:
                    group.create_task(self._follow(sequence, send))
        except* ServiceError as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            failure = first
        else:
            return
        raise failure

    def cancel(self) -> None:
        """Cancel all unfinished sequences."""
        for sequence in self.all:
            self._cancel(sequence)

    def _cancel(self, sequence: RunningSequence) -> None:
        if sequence.finished is None:
            self._client.cancel(sequence.generation)

    def _timing(self) -> InferenceTiming | None:
        ended = [sequence.finished for sequence in self.all if sequence.finished is not None]
        if not ended:
            return None
        queue_seconds = max(finished.queue_seconds for finished in ended)
        compute_seconds = max(finished.prefill_seconds + finished.decode_seconds for finished in ended)
        return InferenceTiming(queue_seconds, compute_seconds, 0)

    @property
    def num_completion_tokens(self) -> int:
        """The number of generated tokens, including those of stop strings."""
        return sum(sequence.num_tokens for sequence in self.all)

    def num_cached_tokens(self, num_answers: int) -> int:
        """The number of cached prompt tokens, counted for the first of `num_answers` completions of each prompt."""
        return sum(sequence.generation.cached_tokens for sequence in self.all[::num_answers])

    @property
    def first_token_at(self) -> float | None:
        """When the first token of any sequence arrived, by `perf_counter`."""
        return min((r.first_token_at for r in self.all if r.first_token_at is not None), default=None)


def sampling_of(
    parameters: SamplingParameters,
    max_tokens: int,
    seed: int,
    index: int,
    *,
    num_logprobs: int | None = None,
    prompt_logprobs: int = -1,
    stop_token_ids: Sequence[int] = (),
) -> Sampling:
    """The engine's sampling settings for completion `index` of a request, which more `stop_token_ids` may end.

    Raises: InvalidParameter where `min_tokens` is more than `max_tokens`.
    """
    if parameters.min_tokens > max_tokens:
        raise InvalidParameter(
            f"min_tokens is {parameters.min_tokens}; it must be at most max_tokens, {max_tokens}.",
            parameter="min_tokens",
        )
    given = parameters.grammar()
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
        ignore_eos=parameters.ignore_eos,
        min_tokens=parameters.min_tokens,
        stop_token_ids=(*parameters.stop_token_ids, *stop_token_ids),
        grammar=None if given is None else given[1],
    )
