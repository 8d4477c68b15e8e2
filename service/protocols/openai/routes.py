"""`POST /v1/completions` in OpenAI's wire format: as `generate`, in another form.

Source: OpenAI's API reference, legacy completions.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from msgspec import UNSET
from starlette.types import Receive, Send

from models.tokenizer import Tokenizer
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, ServiceError
from service.http.answers import EventAnswer, EventStream, encode_json, send_answer
from service.http.body import read_json
from service.http.documentation import PROBLEMS
from service.http.problems import openai_error
from service.http.request_context import RequestContext, Scope, context_of, request_timeout_seconds
from service.http.routing import Document, Route
from service.protocols.openai.schema import (
    DEFAULT_MAX_TOKENS,
    MAX_SEQUENCES,
    CachedTokens,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionParameters,
    CompletionUsage,
    OpenAiError,
)
from service.tasks.task import Dependencies, json_document, resolve_for_task
from service.tasks.text_generation import process as text
from service.tasks.text_generation.detokenization import TextChunk, TextToken
from service.tasks.text_generation.routes import OWN_SEED_BITS
from service.tasks.text_generation.sequences import RunningSequence, Sequences, sampling_of
from service.tasks.tokenizers import language_of

COMPLETIONS = "/v1/completions"
DONE = b"[DONE]"
_EXAMPLE = {
    "model": "novelist",
    "prompt": "It was the best of",
    "max_tokens": 32,
    "temperature": 0.8,
    "seed": 7,
    "stop": ["\n\n"],
}
_CHUNKS = (
    'data: {"id":"cmpl-1f","object":"text_completion","created":1,"model":"novelist","choices":'
    '[{"index":0,"text":" times","logprobs":null,"finish_reason":null}]}\n\ndata: [DONE]\n\n'
)


class Completions:
    """`POST /v1/completions`."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._client = dependencies.client
        self._settings = dependencies.settings
        self._tokenizers = dependencies.tokenizers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors are rendered by the middleware."""
        context = context_of(scope) or RequestContext("", 0.0)
        await send_answer(await self.answer(scope, receive, context), send, context)

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> Completion | EventAnswer:
        """Continue one prompt or several, in OpenAI's wire format."""
        parameters = await read_json(scope, receive, context, CompletionParameters, self._settings.max_body_bytes)
        _check(parameters)
        context.caller.check_model(parameters.model, self._client.statuses)  # it is not in the path
        model = resolve_for_task(self._client, parameters.model, "text-generation")
        context.model = model.name
        tokenizer = await self._tokenizers.of(model)
        text.check_tokens(list(parameters.logit_bias), language_of(model).vocab_size, "logit_bias")
        prompts = [await self._encode(model, tokenizer, prompt) for prompt in parameters.prompt]
        form = _Form(parameters, model, tokenizer)
        timeout_seconds = request_timeout_seconds(scope, self._settings)
        sequences = Sequences(self._client, model, tokenizer, context, timeout_seconds)
        _start(sequences, prompts, parameters, model)
        if parameters.stream:
            return _Streamed(sequences, form, parameters.stream_options)
        await sequences.run()
        return form.whole(sequences)

    async def _encode(self, model: ReadyModel, tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
        language = language_of(model)
        if isinstance(prompt, str):
            tokens = await self._tokenizers.encode(tokenizer, prompt, language.context - 1)
            return [language.bos_token, *tokens]
        text.check_tokens(prompt, tokenizer.vocab_size, "prompt")
        return text.with_bos(prompt, language)


def completions_route(dependencies: Dependencies) -> Route:
    """The route of completions."""
    document = Document(
        summary=(Completions.answer.__doc__ or "").strip(),
        description="OpenAI's legacy completions, for their clients. Errors come in OpenAI's form too.",
        request=json_document(CompletionParameters, _EXAMPLE),
        responses=_responses(),
        answers=(Completion,),
    )
    return Route("POST", COMPLETIONS, Completions(dependencies), document, access="infer")


def _responses() -> dict[int | str, Any]:
    described = {status: problem["description"] for status, problem in PROBLEMS.items() if status != 422}
    described[400] = "The body is not JSON, or a parameter is unknown or out of range; `param` names it."
    described["default"] = "Any other error, in the same form."
    errors = {status: {"description": text, "model": OpenAiError} for status, text in described.items()}
    events = {"text/event-stream": {"schema": {"type": "string"}, "example": _CHUNKS}}
    return {**errors, 200: {"description": "The text; as events if `stream` is true.", "content": events}}


def _check(parameters: CompletionParameters) -> None:
    num_sequences = len(parameters.prompt) * parameters.n
    if num_sequences > MAX_SEQUENCES:
        raise InvalidParameter(
            f"prompt and n make {num_sequences} answers; at most {MAX_SEQUENCES} are allowed.", parameter="n"
        )
    if parameters.best_of not in (None, parameters.n):
        raise InvalidParameter(
            f"best_of is {parameters.best_of}; it must be n, which is {parameters.n}, or absent.", parameter="best_of"
        )
    if parameters.suffix:
        raise InvalidParameter("suffix is not supported; it must be absent.", parameter="suffix")
    if parameters.stream_options and not parameters.stream:
        raise InvalidParameter("stream_options are allowed only where stream is true.", parameter="stream_options")


def _start(sequences: Sequences, prompts: list[list[int]], parameters: CompletionParameters, model: ReadyModel) -> None:
    language = language_of(model)
    rooms = [
        text.num_new_tokens(len(prompt), parameters.max_tokens, DEFAULT_MAX_TOKENS, language) for prompt in prompts
    ]
    seed = secrets.randbits(OWN_SEED_BITS) if parameters.seed is None else parameters.seed
    num_logprobs = parameters.logprobs
    prompt_logprobs = num_logprobs if parameters.echo and num_logprobs is not None else -1
    for prompt, max_tokens in zip(prompts, rooms, strict=True):
        for index in range(parameters.n):
            sampling = sampling_of(
                parameters, max_tokens, seed, index, num_logprobs=num_logprobs, prompt_logprobs=prompt_logprobs
            )
            sequences.start(list(prompt), sampling, parameters.stop)


class _Form:
    """Writes completions, whole or in chunks."""

    def __init__(self, parameters: CompletionParameters, model: ReadyModel, tokenizer: Tokenizer) -> None:
        self._head: dict[str, Any] = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": parameters.model,
            "system_fingerprint": _fingerprint(model),
        }
        self._tokenizer = tokenizer
        self._parameters = parameters

    def completion(self, choices: list[CompletionChoice], usage: Any = UNSET) -> Completion:
        """A completion or a chunk of one, with these choices."""
        return Completion(**self._head, choices=choices, usage=usage)

    def whole(self, sequences: Sequences) -> Completion:
        """The answer in one chunk."""
        choices = []
        for sequence in sequences.all:
            tokens = [token for chunk in sequence.chunks for token in chunk.tokens]
            choices.append(self.choice(sequence, TextChunk(sequence.text, tokens), True))
        return self.completion(choices, self.usage(sequences))

    def choice(self, sequence: RunningSequence, chunk: TextChunk, is_first: bool) -> CompletionChoice:
        """What a chunk adds to one choice; the first begins with the echo."""
        echo, num_top = self._parameters.echo, self._parameters.logprobs
        prompt = self._tokenizer.decode(sequence.prompt[1:]) if echo else ""
        logprobs = None
        if num_top is not None:
            rows = _Logprobs(self._tokenizer, num_top)
            if echo and is_first:
                rows.add_prompt(sequence)
            rows.add(chunk.tokens, len(prompt))
            logprobs = rows.lists()
        content = prompt + chunk.text if is_first else chunk.text
        return CompletionChoice(
            index=sequence.index, text=content, logprobs=logprobs, finish_reason=sequence.finish_reason
        )

    def usage(self, sequences: Sequences) -> CompletionUsage:
        """The tokens of prompts, each counted once, and of answers."""
        num_answers = self._parameters.n
        num_prompt_tokens = sum(len(sequence.prompt) for sequence in sequences.all[::num_answers])
        num_completion_tokens = sequences.num_completion_tokens
        num_cached = sequences.num_cached_tokens(num_answers)
        return CompletionUsage(
            prompt_tokens=num_prompt_tokens,
            completion_tokens=num_completion_tokens,
            total_tokens=num_prompt_tokens + num_completion_tokens,
            prompt_tokens_details=UNSET if num_cached is None else CachedTokens(cached_tokens=num_cached),
        )


class _Streamed(EventAnswer):
    """One event for each chunk of text, then the usage if requested, then `[DONE]`."""

    def __init__(self, sequences: Sequences, form: _Form, include_usage: bool) -> None:
        self._sequences = sequences
        self._form = form
        self._includes_usage = include_usage
        self._started: set[int] = set()

    async def send_events(self, events: EventStream) -> None:
        async def send(sequence: RunningSequence, chunk: TextChunk) -> None:
            choice = self._form.choice(sequence, chunk, sequence.index not in self._started)
            self._started.add(sequence.index)
            event = self._form.completion([choice], None if self._includes_usage else UNSET)
            await events.send(encode_json(event))

        await self._sequences.run(send)
        if self._includes_usage:
            await events.send(encode_json(self._form.completion([], self._form.usage(self._sequences))))
        await events.send(DONE)

    def error_event(self, error: ServiceError) -> tuple[bytes, bytes]:
        return encode_json(openai_error(error)), b""


class _Logprobs:
    """OpenAI's four lists on the tokens of a choice."""

    def __init__(self, tokenizer: Tokenizer, num_top: int) -> None:
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add_prompt(self, sequence: RunningSequence) -> None:
        """The prompt's tokens; the first has no probability, as in OpenAI's, although a beginning token precedes it."""
        scores = sequence.generation.scored
        tokens = sequence.prompt[1:]
        assert scores is not None or not tokens  # they were requested
        for rank, (token, (offset, _)) in enumerate(zip(tokens, self._tokenizer.offsets(tokens), strict=True)):
            self._tokens.append(self._name(token))
            self._offsets.append(offset)
            if rank == 0 or scores is None:
                self._logprobs.append(None)
                self._top.append(None)
                continue
            logprob = float(scores.logprobs[rank])
            top = zip(scores.top_tokens[rank].tolist(), scores.top_logprobs[rank].tolist(), strict=True)
            self._logprobs.append(logprob)
            self._top.append(self._named(token, logprob, list(top)))

    def add(self, tokens: list[TextToken], base: int) -> None:
        """Generated tokens, whose text begins at `base`."""
        for token in tokens:
            self._tokens.append(self._name(token.token))
            self._offsets.append(base + token.offset)
            self._logprobs.append(token.logprob)
            self._top.append(self._named(token.token, token.logprob or 0.0, token.top))

    def lists(self) -> CompletionLogprobs:
        """The four lists."""
        return CompletionLogprobs(
            tokens=self._tokens,
            token_logprobs=self._logprobs,
            top_logprobs=self._top if self._num_top else None,
            text_offset=self._offsets,
        )

    def _named(self, token: int, logprob: float, top: Any) -> dict[str, float]:
        named: dict[str, float] = {}
        for candidate, value in [*top, (token, logprob)]:
            named.setdefault(self._name(candidate), value)  # two tokens may have the same text: the likelier one counts
        return named

    def _name(self, token: int) -> str:
        if token >= self._tokenizer.vocab_size:
            return ""
        content = self._tokenizer.token_bytes[token]
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _fingerprint(model: ReadyModel) -> str:
    graph = model.manifest.graphs["decode"]
    return f"fp_{(graph.weights.sha256 if graph.weights else graph.sha256)[:10]}"
