"""`POST /v1/models/{model}/generate`: text after a prompt, in one answer or as server-sent events.

Tokens, stop strings and ranges are the matter of `tasks/`; this says how an answer is written.
"""

from __future__ import annotations

import secrets
from time import perf_counter
from typing import Any

from starlette.types import Receive

from models.tokenizer import Tokenizer
from service.engine.transport.client import EngineClient, ReadyModel
from service.errors import ServiceError
from service.http.events import EventAnswer, EventStream
from service.http.inference import InferenceRoute, encode_json, request_timeout_seconds
from service.http.json_body import read_json_object
from service.http.problems import problem_of
from service.http.request_context import RequestContext, Scope
from service.settings import Settings
from service.tasks.parameters import Parameter, read_parameters
from service.tasks.text_generation import parameters as text_parameters
from service.tasks.text_generation import process as text
from service.tasks.text_generation.detokenization import Piece, TextToken
from service.tasks.text_generation.sequences import Running, Sequences, sampling_of
from service.tasks.text_generation.tokenizers import Tokenizers, language_of

# Seeds that we choose can be written and read by JavaScript, whose whole numbers end at 53 bits.
OWN_SEED_BITS = 53


class TextRoute(InferenceRoute):
    """What the routes of text generators share: a JSON object in, and the model's tokenizer."""

    task = "text-generation"

    def __init__(self, client: EngineClient, settings: Settings, tokenizers: Tokenizers) -> None:
        super().__init__(client, settings)
        self.tokenizers = tokenizers

    async def read(
        self, scope: Scope, receive: Receive, context: RequestContext, known: dict[str, Parameter]
    ) -> dict[str, Any]:
        """The checked members of the body."""
        body = await read_json_object(scope, receive, context, self.settings.max_body_bytes)
        return read_parameters(body, known)


class Generate(TextRoute):
    """`POST /v1/models/{model}/generate`."""

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """Text that goes on from a prompt; as server-sent events where `stream` is true."""
        members = await self.read(scope, receive, context, text_parameters.GENERATE)
        prompt = members.pop("prompt")
        wanted = text_parameters.Wanted(**members)
        tokenizer = await self.tokenizers.of(model)
        language = language_of(model)
        text.check_tokens(list(wanted.logit_bias), language.vocab_size, "logit_bias")
        encoded = await self.tokenizers.encode(tokenizer, prompt, language.context - 1)
        tokens = text.with_beginning(encoded, language)
        max_tokens = text.room(len(tokens), wanted.max_tokens, text_parameters.DEFAULT_MAX_TOKENS, language)
        seed = secrets.randbits(OWN_SEED_BITS) if wanted.seed is None else wanted.seed
        report = _Report(model, seed, tokenizer, wanted.logprobs is not None, context)
        sequences = Sequences(self.client, model, tokenizer, context, request_timeout_seconds(scope, self.settings))
        for index in range(wanted.n):
            sequences.start(list(tokens), sampling_of(wanted, max_tokens, seed, index), wanted.stop)
        if wanted.stream:
            return _Streamed(sequences, report)
        await sequences.run()
        return report.whole(sequences)


class _Streamed(EventAnswer):
    """One event for each piece of text, then `end` with the usage; `error` with a problem where it fails halfway."""

    def __init__(self, sequences: Sequences, report: _Report) -> None:
        self._sequences = sequences
        self._report = report

    async def write(self, events: EventStream) -> None:
        async def tell(running: Running, piece: Piece) -> None:
            await events.send(self._report.event(running, piece))

        try:
            await self._sequences.run(tell)
            await events.send(encode_json(self._report.summary(self._sequences)), b"end")
        except ServiceError as error:
            if not events.is_open:
                raise
            await events.send(encode_json(problem_of(error)), b"error")
        await events.close()


class _Report:
    """Writes what came of a request as JSON values."""

    def __init__(
        self, model: ReadyModel, seed: int, tokenizer: Tokenizer, tells_logprobs: bool, context: RequestContext
    ) -> None:
        self._head = {"model": model.name, "version": model.version, "seed": seed}
        self._tokenizer = tokenizer
        self._tells_logprobs = tells_logprobs
        self._exchange = context

    def event(self, running: Running, piece: Piece) -> bytes:
        event: dict[str, Any] = {"index": running.index, "text": piece.text, "tokens": [t.token for t in piece.tokens]}
        if self._tells_logprobs:
            event["logprobs"] = self._logprobs(piece.tokens)
        if running.finish_reason is not None:
            event["finish_reason"] = running.finish_reason
        return encode_json(event)

    def whole(self, sequences: Sequences) -> dict[str, Any]:
        results = []
        for running in sequences.all:
            tokens = [token for piece in running.pieces for token in piece.tokens]
            result: dict[str, Any] = {
                "text": running.text,
                "finish_reason": running.finish_reason,
                "tokens": [token.token for token in tokens],
            }
            if self._tells_logprobs:
                result["logprobs"] = self._logprobs(tokens)
            results.append(result)
        summary = self.summary(sequences)
        return self._head | {"results": results, "usage": summary["usage"], "timing": summary["timing"]}

    def summary(self, sequences: Sequences) -> dict[str, Any]:
        num_prompt_tokens = len(sequences.all[0].prompt)
        num_tokens = sequences.num_completion_tokens
        usage = {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_tokens,
            "cached_tokens": sequences.num_cached_tokens(len(sequences.all)),
            "total_tokens": num_prompt_tokens + num_tokens,
        }
        started, now = self._exchange.started_at, perf_counter()
        first = sequences.first_token_at
        timing = {
            "time_to_first_token_seconds": None if first is None else round(first - started, 6),
            "seconds": round(now - started, 6),
            "tokens_per_second": round(num_tokens / max(now - started, 1e-9), 3),
        }
        return self._head | {"usage": usage, "timing": timing}

    def _logprobs(self, tokens: list[TextToken]) -> list[dict[str, Any]]:
        return [
            {
                "id": token.token,
                "text": text.token_text(self._tokenizer, token.token),
                "logprob": token.logprob,
                "top": text.candidates(self._tokenizer, token.top),
            }
            for token in tokens
        ]
