"""What completions and chats have in common: the course of a request, its usage, and its stream of events."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from msgspec import UNSET
from starlette.types import Receive

from models.tokenizer import Tokenizer
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, ServiceError
from service.http.answers import EventAnswer, EventStream, encode_json
from service.http.body import read_json
from service.http.problems import openai_error
from service.http.request_context import RequestContext, Scope, request_timeout_seconds
from service.protocols.openai.route import OpenAiRoute
from service.protocols.openai.schema import (
    MAX_SEQUENCES,
    CachedTokens,
    TextParameters,
    TextUsage,
)
from service.schema import Answer
from service.tasks.text_generation import process as text
from service.tasks.text_generation.detokenization import TextChunk
from service.tasks.text_generation.routes import OWN_SEED_BITS
from service.tasks.text_generation.sequences import RunningSequence, Sequences, sampling_of
from service.tasks.tokenizers import language_of

DONE = b"[DONE]"
P = TypeVar("P", bound=TextParameters)


class Prompt(NamedTuple):
    """The tokens of a prompt, of which the service has put the first `num_added` there, and what else ends its text."""

    tokens: list[int]
    num_added: int = 0
    stops: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


class Form(ABC, Generic[P]):
    """Writes the answers to one request, whole or in chunks."""

    id_prefix: ClassVar[str]

    def __init__(self, parameters: P, model: ReadyModel, tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> None:
        self.parameters = parameters
        self.tokenizer = tokenizer
        self.prompts = prompts
        self._started: set[int] = set()
        self.head: dict[str, Any] = {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": parameters.model,
            "system_fingerprint": _fingerprint(model),
        }

    @abstractmethod
    def whole(self, sequences: Sequences) -> Answer:
        """The answer in one piece."""

    @abstractmethod
    def events(self, sequence: RunningSequence, chunk: TextChunk, usage: Any, *, is_first: bool) -> Iterator[Answer]:
        """The events for a chunk of a choice."""

    @abstractmethod
    def usage_event(self, usage: TextUsage) -> Answer:
        """The event after the last chunk."""

    def usage(self, sequences: Sequences) -> TextUsage:
        """The tokens of prompts, each counted once, and of answers."""
        num_prompt_tokens = sum(len(prompt.tokens) for prompt in self.prompts)
        num_completion_tokens = sequences.num_completion_tokens
        num_cached = sequences.num_cached_tokens(self.parameters.num_candidates)
        return TextUsage(
            prompt_tokens=num_prompt_tokens,
            completion_tokens=num_completion_tokens,
            total_tokens=num_prompt_tokens + num_completion_tokens,
            prompt_tokens_details=CachedTokens(cached_tokens=num_cached),
        )

    def of_stream(self, sequences: Sequences, sequence: RunningSequence, chunk: TextChunk) -> Iterator[bytes]:
        """The events for a chunk of a choice, encoded; with the usage so far, if requested."""
        options = self.parameters.stream_options
        usage: Any = None if options.include_usage else UNSET
        if options.continuous_usage_stats:
            usage = self.usage(sequences)
        is_first = sequence.index not in self._started
        self._started.add(sequence.index)
        yield from map(encode_json, self.events(sequence, chunk, usage, is_first=is_first))


class Streamed(EventAnswer):
    """The events of each chunk of text, then the usage if requested, then `[DONE]`."""

    def __init__(self, sequences: Sequences, form: Form[Any]) -> None:
        self._sequences = sequences
        self._form = form

    async def send_events(self, events: EventStream) -> None:
        """Send every event."""

        async def send(sequence: RunningSequence, chunk: TextChunk) -> None:
            for event in self._form.of_stream(self._sequences, sequence, chunk):
                await events.send(event)

        await self._sequences.run(send)
        if self._form.parameters.stream_options.include_usage:
            await events.send(encode_json(self._form.usage_event(self._form.usage(self._sequences))))
        await events.send(DONE)

    def error_event(self, error: ServiceError) -> tuple[bytes, bytes]:
        """The error in OpenAI's form."""
        return encode_json(openai_error(error)), b""


class TextRoute(OpenAiRoute, Generic[P]):
    """Base of the routes that continue texts."""

    parameters: ClassVar[type[TextParameters]]
    chunks: ClassVar[str]
    default_max_tokens: ClassVar[int | None] = None

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> Answer | EventAnswer:
        """Continue what a request holds."""
        parameters: Any = await read_json(scope, receive, context, self.parameters, self.settings.max_body_bytes)
        self.check(parameters)
        model = self.find(parameters.model, context, "text-generation")
        tokenizer = await self.tokenizers.of(model)
        text.check_sampling(parameters, language_of(model).vocab_size)
        await self.grammars.check(parameters.grammar(), context.origin)
        prompts = await self.prompts(parameters, model, tokenizer)
        form = self.form(parameters, model, tokenizer, prompts)
        sequences = Sequences(self.client, model, tokenizer, context, request_timeout_seconds(scope, self.settings))
        self._start(sequences, prompts, parameters, model)
        if parameters.stream:
            return Streamed(sequences, form)
        await sequences.run()
        return form.whole(sequences)

    def check(self, parameters: P) -> None:
        """Check what parameters mean together.

        Raises: InvalidParameter.
        """
        if parameters.stream_options.is_given and not parameters.stream:
            raise InvalidParameter("stream_options are allowed only where stream is true.", parameter="stream_options")

    @abstractmethod
    async def prompts(self, parameters: P, model: ReadyModel, tokenizer: Tokenizer) -> list[Prompt]:
        """The prompts of a request."""

    @abstractmethod
    def form(self, parameters: P, model: ReadyModel, tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> Form[P]:
        """What writes the answer."""

    @abstractmethod
    def num_logprobs(self, parameters: P) -> tuple[int | None, int]:
        """How many likeliest tokens to list beside each generated one, and beside each of the prompt's (-1: none)."""

    def _start(self, sequences: Sequences, prompts: Sequence[Prompt], parameters: P, model: ReadyModel) -> None:
        num_sequences = len(prompts) * parameters.num_candidates
        if num_sequences > MAX_SEQUENCES:
            raise InvalidParameter(
                f"The request makes {num_sequences} answers; at most {MAX_SEQUENCES} are allowed.", parameter="n"
            )
        language, requested = language_of(model), parameters.token_limit
        default = self.default_max_tokens or language.context
        rooms = [text.num_new_tokens(len(prompt.tokens), requested, default, language) for prompt in prompts]
        seed = secrets.randbits(OWN_SEED_BITS) if parameters.seed is None else parameters.seed
        num_logprobs, prompt_logprobs = self.num_logprobs(parameters)
        for prompt, max_tokens in zip(prompts, rooms, strict=True):
            for index in range(parameters.num_candidates):
                sampling = sampling_of(
                    parameters,
                    max_tokens,
                    seed,
                    index,
                    num_logprobs=num_logprobs,
                    prompt_logprobs=prompt_logprobs,
                    stop_token_ids=prompt.stop_token_ids,
                )
                sequences.start(list(prompt.tokens), sampling, parameters.stop + prompt.stops)

    def success(self) -> dict[str, Any]:
        """What OpenAPI says of an answer."""
        events = {"text/event-stream": {"schema": {"type": "string"}, "example": self.chunks}}
        return {"description": "The text; as events if `stream` is true.", "content": events}


def _fingerprint(model: ReadyModel) -> str:
    graph = model.manifest.graphs["decode"]
    return f"fp_{(graph.weights.sha256 if graph.weights else graph.sha256)[:10]}"


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """A token as OpenAI writes it: its text, or its bytes where they are no characters."""
    if token >= tokenizer.vocab_size:
        return ""
    content = tokenizer.token_bytes[token]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
