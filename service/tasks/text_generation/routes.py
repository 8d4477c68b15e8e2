"""`POST /v1/models/{model}/generate` of language models: completes a prompt, whole or as server-sent events."""

from __future__ import annotations

import secrets
from time import perf_counter
from typing import Any

from msgspec import UNSET

from models.tokenizer import Tokenizer
from service.engine.transport.client import ReadyModel
from service.errors import ServiceError
from service.http.answers import EventAnswer, EventStream, encode_json
from service.http.documentation import PROBLEMS
from service.http.problems import problem_of
from service.http.request_context import RequestContext
from service.tasks.task import Dependencies, JsonRoute, TaskRequest
from service.tasks.text_generation import process as text
from service.tasks.text_generation.detokenization import TextChunk, TextToken
from service.tasks.text_generation.schema import (
    DEFAULT_MAX_TOKENS,
    EndEvent,
    GenerateAnswer,
    GeneratedText,
    GeneratedToken,
    GenerateParameters,
    TextEvent,
    Timing,
    Usage,
)
from service.tasks.text_generation.sequences import RunningSequence, Sequences, sampling_of
from service.tasks.tokenizers import language_of

# Random seeds stay within the integers that JavaScript represents exactly.
OWN_SEED_BITS = 53
_CONTEXT = {"description": "The text exceeds the context of the model, or a token id is not in its vocabulary."}
_STREAM = (
    'data: {"index":0,"text":" times","tokens":[311]}\n\n'
    'data: {"index":0,"text":".","tokens":[14],"finish_reason":"length"}\n\n'
    'event: end\ndata: {"model":"novelist","version":"1","seed":7,"usage":{...},"timing":{...}}\n\n'
)


class TextRoute(JsonRoute):
    """Base of the routes of language models."""

    task = "text-generation"
    responses = {**PROBLEMS, 400: {**PROBLEMS[400], **_CONTEXT}}

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self.tokenizers = dependencies.tokenizers
        self.grammars = dependencies.grammars

    def sequences(self, request: TaskRequest, tokenizer: Tokenizer) -> Sequences:
        """Create the sequences of a request; none is started yet."""
        timeout_seconds = self.timeout_seconds(request)
        return Sequences(self.client, request.model, tokenizer, request.context, timeout_seconds)


class Generate(TextRoute):
    """`POST /v1/models/{model}/generate`."""

    verb = "generate"
    parameters = GenerateParameters
    answers = (GenerateAnswer,)
    events = _STREAM
    example = {"prompt": "It was the best of", "max_tokens": 32, "temperature": 0.8, "seed": 7}
    description = (
        "Language models: with `stream`, each event has `index`, `text`, `tokens` and, if requested, `logprobs`; the "
        "last one of each completion has a `finish_reason`. The stream ends with an event `end` with `usage` and "
        "`timing`, or an event `error` with a problem."
    )

    async def answer(self, request: TaskRequest) -> GenerateAnswer | EventAnswer:
        """Complete a prompt; with `stream`, as server-sent events."""
        parameters = await self.read(request, GenerateParameters)
        model = request.model
        tokenizer, language = await self.tokenizers.of(model), language_of(model)
        text.check_sampling(parameters, language.vocab_size)
        await self.grammars.check(parameters.grammar(), request.context.origin)
        encoded = await self.tokenizers.encode(tokenizer, parameters.prompt, language.context - 1)
        tokens = text.with_bos(encoded, language)
        max_tokens = text.num_new_tokens(len(tokens), parameters.max_tokens, DEFAULT_MAX_TOKENS, language)
        seed = secrets.randbits(OWN_SEED_BITS) if parameters.seed is None else parameters.seed
        report = _Report(model, seed, tokenizer, parameters.logprobs is not None, request.context)
        sequences = self.sequences(request, tokenizer)
        for index in range(parameters.n):
            sampling = sampling_of(parameters, max_tokens, seed, index, num_logprobs=parameters.logprobs)
            sequences.start(list(tokens), sampling, parameters.stop)
        if parameters.stream:
            return _Streamed(sequences, report)
        await sequences.run()
        return report.whole(sequences)


class _Streamed(EventAnswer):
    """Sends an event for each chunk of text, then `end` with the usage, or `error` with a problem."""

    def __init__(self, sequences: Sequences, report: _Report) -> None:
        self._sequences = sequences
        self._report = report

    async def send_events(self, events: EventStream) -> None:
        async def send(sequence: RunningSequence, chunk: TextChunk) -> None:
            await events.send(encode_json(self._report.event(sequence, chunk)))

        await self._sequences.run(send)
        await events.send(encode_json(self._report.end(self._sequences)), b"end")

    def error_event(self, error: ServiceError) -> tuple[bytes, bytes]:
        return encode_json(problem_of(error)), b"error"


class _Report:
    """Builds the answer or the events of a request."""

    def __init__(
        self, model: ReadyModel, seed: int, tokenizer: Tokenizer, has_logprobs: bool, context: RequestContext
    ) -> None:
        self._head: dict[str, Any] = {"model": model.name, "version": model.version, "seed": seed}
        self._tokenizer = tokenizer
        self._has_logprobs = has_logprobs
        self._context = context

    def event(self, sequence: RunningSequence, chunk: TextChunk) -> TextEvent:
        return TextEvent(
            index=sequence.index,
            text=chunk.text,
            tokens=[token.token for token in chunk.tokens],
            logprobs=self._logprobs(chunk.tokens) if self._has_logprobs else UNSET,
            finish_reason=sequence.finish_reason or UNSET,
        )

    def end(self, sequences: Sequences) -> EndEvent:
        return EndEvent(**self._head, usage=_usage(sequences), timing=self._timing(sequences))

    def whole(self, sequences: Sequences) -> GenerateAnswer:
        results = []
        for sequence in sequences.all:
            tokens = [token for chunk in sequence.chunks for token in chunk.tokens]
            result = GeneratedText(
                text=sequence.text,
                finish_reason=sequence.finish_reason,
                tokens=[token.token for token in tokens],
                logprobs=self._logprobs(tokens) if self._has_logprobs else UNSET,
            )
            results.append(result)
        timing = self._timing(sequences)
        return GenerateAnswer(**self._head, results=results, usage=_usage(sequences), timing=timing)

    def _timing(self, sequences: Sequences) -> Timing:
        started, now = self._context.started_at, perf_counter()
        first = sequences.first_token_at
        return Timing(
            time_to_first_token_seconds=None if first is None else round(first - started, 6),
            seconds=round(now - started, 6),
            tokens_per_second=round(sequences.num_completion_tokens / max(now - started, 1e-9), 3),
        )

    def _logprobs(self, tokens: list[TextToken]) -> list[GeneratedToken]:
        return [
            GeneratedToken(
                id=token.token,
                text=text.token_text(self._tokenizer, token.token),
                logprob=token.logprob,
                top=text.candidates(self._tokenizer, token.top),
            )
            for token in tokens
        ]


def _usage(sequences: Sequences) -> Usage:
    num_prompt_tokens = len(sequences.all[0].prompt)
    num_tokens = sequences.num_completion_tokens
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_tokens,
        cached_tokens=sequences.num_cached_tokens(len(sequences.all)),
        total_tokens=num_prompt_tokens + num_tokens,
    )
