"""The routes that inspect a language model: next-token, tokenize, detokenize and attention."""

from __future__ import annotations

import msgspec
import numpy as np

from service.engine.transport.messages import Sampling
from service.errors import UnsupportedTask
from service.http.answers import encode_json
from service.tasks.task import TaskRequest
from service.tasks.text_generation import process as text
from service.tasks.text_generation.routes import TextRoute
from service.tasks.text_generation.schema import (
    MAX_TEXT_TOKENS,
    AttendedToken,
    AttentionAnswer,
    DetokenizeAnswer,
    NextTokenAnswer,
    NextTokenParameters,
    TextParameters,
    TokenizeAnswer,
    TokensParameters,
)
from service.tasks.tokenizers import check_tokens, language_of
from service.threads import off_loop

# Five digits keep the JSON of all heads small, and are more than a heat map can show.
ATTENTION_DIGITS = 5
_TEXT_EXAMPLE = {"text": "It was the best of times"}


class NextToken(TextRoute):
    """`POST /v1/models/{model}/next-token`."""

    verb = "next-token"
    parameters = NextTokenParameters
    answers = (NextTokenAnswer,)
    example = {"text": "It was the best of", "top_k": 5}
    description = "Probabilities are those of the model at temperature 1, without top-k, top-p or penalties."

    async def answer(self, request: TaskRequest) -> NextTokenAnswer:
        """List the most probable next tokens after a text."""
        parameters = await self.read(request, NextTokenParameters)
        tokenizer, language = await self.tokenizers.of(request.model), language_of(request.model)
        encoded = await self.tokenizers.encode(tokenizer, parameters.text, language.context - 2, "text")
        sequences = self.sequences(request, tokenizer)
        num_top = min(parameters.top_k, language.vocab_size)
        sampling = Sampling(max_tokens=1, temperature=0.0, num_logprobs=num_top, ignore_eos=True)
        sequence = sequences.start(text.with_bos(encoded, language), sampling)
        await sequences.run()
        (token,) = [token for chunk in sequence.chunks for token in chunk.tokens]
        candidates = text.candidates(tokenizer, token.top)
        return NextTokenAnswer(model=request.model.name, version=request.model.version, candidates=candidates)


class Tokenize(TextRoute):
    """`POST /v1/models/{model}/tokenize`."""

    verb = "tokenize"
    parameters = TextParameters
    answers = (TokenizeAnswer,)
    example = _TEXT_EXAMPLE
    description = "Names of special tokens are plain text. Tokens that share a character have the same offsets."

    async def answer(self, request: TaskRequest) -> msgspec.Raw:
        """Encode a text to tokens, with their offsets and bytes."""
        parameters = await self.read(request, TextParameters)
        tokenizer = await self.tokenizers.of(request.model)
        tokens = await self.tokenizers.encode(tokenizer, parameters.text, MAX_TEXT_TOKENS, "text")

        def rendered() -> msgspec.Raw:
            name, version = request.model.name, request.model.version
            rows = text.token_rows(tokenizer, tokens)
            return msgspec.Raw(
                encode_json(TokenizeAnswer(model=name, version=version, num_tokens=len(tokens), tokens=rows))
            )

        return await off_loop(rendered)


class Detokenize(TextRoute):
    """`POST /v1/models/{model}/detokenize`."""

    verb = "detokenize"
    parameters = TokensParameters
    answers = (DetokenizeAnswer,)
    example = {"tokens": [73, 116, 32]}
    description = "Special tokens are decoded to their names, incomplete characters to U+FFFD."

    async def answer(self, request: TaskRequest) -> DetokenizeAnswer:
        """Decode tokens to text."""
        parameters = await self.read(request, TokensParameters)
        tokenizer = await self.tokenizers.of(request.model)
        check_tokens(parameters.tokens, tokenizer.vocab_size, "tokens")
        content = await off_loop(tokenizer.decode, parameters.tokens)
        return DetokenizeAnswer(model=request.model.name, version=request.model.version, text=content)


class Attention(TextRoute):
    """`POST /v1/models/{model}/attention`."""

    verb = "attention"
    parameters = TextParameters
    answers = (AttentionAnswer,)
    example = _TEXT_EXAMPLE
    description = "For Transformers, and texts of at most `language.attention_tokens` tokens (see the model card)."

    async def answer(self, request: TaskRequest) -> msgspec.Raw:
        """Compute the attention weights of every layer and head for a short text."""
        parameters = await self.read(request, TextParameters)
        model = request.model
        language = language_of(model)
        if "attention" not in model.manifest.graphs:
            raise UnsupportedTask(f"{model.name!r} has no attention graph; only Transformers do.")
        tokenizer = await self.tokenizers.of(model)
        encoded = await self.tokenizers.encode(tokenizer, parameters.text, language.attention_tokens - 1, "text")
        tokens = text.with_bos(encoded, language)
        row = np.full(language.attention_tokens, language.eos_token, np.int64)
        row[: len(tokens)] = tokens
        arrays = await self.infer(request, [row.data.cast("B")], ("attention",), graph="attention")
        weights = arrays["attention"][0, :, :, : len(tokens), : len(tokens)]

        def rendered() -> msgspec.Raw:
            rows = [AttendedToken(id=token, text=text.token_text(tokenizer, token)) for token in tokens]
            rounded = np.round(weights.astype(np.float64), ATTENTION_DIGITS).tolist()
            answer = AttentionAnswer(model=model.name, version=model.version, tokens=rows, attention=rounded)
            return msgspec.Raw(encode_json(answer))

        return await off_loop(rendered)
