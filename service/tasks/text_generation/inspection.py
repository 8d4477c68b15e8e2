"""The routes that look into a text generator: next-token, tokenize, detokenize, score and attention.

They answer with JSON; what the numbers mean is said in `tasks/text.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive

from models.tokenizer import Tokenizer
from service.engine.transport.client import ReadyModel
from service.engine.transport.messages import Sampling
from service.errors import InvalidParameter, UnsupportedTask
from service.http.inference import encode_json, request_timeout_seconds
from service.http.request_context import RequestContext, Scope
from service.tasks.text_generation import parameters as text_parameters
from service.tasks.text_generation import process as text
from service.tasks.text_generation.routes import TextRoute
from service.tasks.text_generation.sequences import Sequences
from service.tasks.text_generation.tokenizers import language_of

# Five digits keep the JSON of all heads small, and tell more than a picture of them shows.
ATTENTION_DIGITS = 5


class NextToken(TextRoute):
    """`POST /v1/models/{model}/next-token`."""

    async def answer(
        self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext
    ) -> dict[str, Any]:
        """The likeliest tokens after a text, with their probabilities."""
        members = await self.read(scope, receive, context, text_parameters.NEXT_TOKEN)
        tokenizer, language = await self.tokenizers.of(model), language_of(model)
        encoded = await self.tokenizers.encode(tokenizer, members["text"], language.context - 2, "text")
        sequences = Sequences(self.client, model, tokenizer, context, request_timeout_seconds(scope, self.settings))
        num_top = min(members["top_k"], language.vocab_size)
        asked = Sampling(max_tokens=1, temperature=0.0, num_logprobs=num_top, ignore_eos=True)
        running = sequences.start(text.with_beginning(encoded, language), asked)
        await sequences.run()
        (token,) = [token for piece in running.pieces for token in piece.tokens]
        return _head(model) | {"candidates": text.candidates(tokenizer, token.top)}


class Tokenize(TextRoute):
    """`POST /v1/models/{model}/tokenize`."""

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> msgspec.Raw:
        """The tokens of a text, with their places in it and their bytes."""
        members = await self.read(scope, receive, context, text_parameters.TEXT)
        tokenizer = await self.tokenizers.of(model)
        tokens = await self.tokenizers.encode(tokenizer, members["text"], text_parameters.MAX_TEXT_TOKENS, "text")

        def rendered() -> msgspec.Raw:
            answer = _head(model) | {"num_tokens": len(tokens), "tokens": text.token_rows(tokenizer, tokens)}
            return msgspec.Raw(encode_json(answer))

        return await asyncio.get_running_loop().run_in_executor(self.tokenizers.threads, rendered)


class Detokenize(TextRoute):
    """`POST /v1/models/{model}/detokenize`."""

    async def answer(
        self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext
    ) -> dict[str, Any]:
        """The text of some tokens; a part of a character becomes U+FFFD."""
        members = await self.read(scope, receive, context, text_parameters.TOKENS)
        tokenizer = await self.tokenizers.of(model)
        text.check_tokens(members["tokens"], tokenizer.vocab_size, "tokens")
        return _head(model) | {"text": tokenizer.decode(members["tokens"])}


class Score(TextRoute):
    """`POST /v1/models/{model}/score`."""

    async def answer(
        self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext
    ) -> dict[str, Any]:
        """The log probability of each token of a text, its perplexity and its bits per byte."""
        members = await self.read(scope, receive, context, text_parameters.TEXT)
        content = members["text"]
        if not content:
            raise InvalidParameter("text is empty; there is nothing to score.", parameter="text")
        tokenizer, language = await self.tokenizers.of(model), language_of(model)
        largest = text.max_scored_tokens(language.context) - 1
        encoded = await self.tokenizers.encode(tokenizer, content, largest, "text")
        tokens = [language.bos_token, *encoded]
        sequences = Sequences(self.client, model, tokenizer, context, request_timeout_seconds(scope, self.settings))
        parts = text.windows(len(tokens), language.context)
        for part in parts:
            sequences.start(tokens[part.start : part.stop], Sampling(max_tokens=0, prompt_logprobs=0))
        await sequences.run()
        logprobs: list[float] = []
        for part, running in zip(parts, sequences.all, strict=True):
            scores = running.generation.scored
            assert scores is not None  # asked for
            logprobs += scores.logprobs[part.first - part.start - 1 :].tolist()
        return _head(model) | _scored(tokenizer, encoded, logprobs, len(content.encode("utf-8")), len(parts))


def _scored(
    tokenizer: Tokenizer, tokens: list[int], logprobs: list[float], num_bytes: int, num_windows: int
) -> dict[str, Any]:
    rows = [
        {"id": token, "text": text.token_text(tokenizer, token), "start": start, "end": end, "logprob": logprob}
        for token, (start, end), logprob in zip(tokens, tokenizer.offsets(tokens), logprobs, strict=True)
    ]
    counts = {"num_tokens": len(tokens), "num_bytes": num_bytes, "num_windows": num_windows}
    return counts | text.summary(logprobs, num_bytes) | {"tokens": rows}


class Attention(TextRoute):
    """`POST /v1/models/{model}/attention`."""

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> msgspec.Raw:
        """What each head of each layer attends to, for every token of a short text."""
        members = await self.read(scope, receive, context, text_parameters.TEXT)
        language = language_of(model)
        if "attention" not in model.manifest.graphs:
            raise UnsupportedTask(f"{model.name!r} has no attention: it is not a Transformer.")
        tokenizer = await self.tokenizers.of(model)
        encoded = await self.tokenizers.encode(tokenizer, members["text"], language.attention_tokens - 1, "text")
        tokens = [language.bos_token, *encoded]
        row = np.full(language.attention_tokens, language.eos_token, np.int64)
        row[: len(tokens)] = tokens
        payload = [row.data.cast("B")]
        arrays = await self.infer(model, scope, context, payload, ("attention",), graph="attention")
        weights = arrays["attention"][0, :, :, : len(tokens), : len(tokens)]

        def rendered() -> msgspec.Raw:
            return msgspec.Raw(encode_json(_head(model) | _attention(tokenizer, tokens, weights)))

        return await asyncio.get_running_loop().run_in_executor(self.tokenizers.threads, rendered)


def _attention(tokenizer: Tokenizer, tokens: list[int], weights: NDArray[np.float32]) -> dict[str, Any]:
    rows = [{"id": token, "text": text.token_text(tokenizer, token)} for token in tokens]
    rounded = np.round(weights.astype(np.float64), ATTENTION_DIGITS)
    return {"tokens": rows, "attention": rounded.tolist()}


def _head(model: ReadyModel) -> dict[str, Any]:
    return {"model": model.name, "version": model.version}
