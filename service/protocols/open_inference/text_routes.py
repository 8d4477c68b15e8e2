"""`generate` and `generate_stream`: text after a prompt, in the form of Triton and the Open Inference Protocol.

Sources: Triton's extension_generate.md, generate_rest.yaml.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from msgspec import UNSET

from service.errors import InvalidParameter, ServiceError, UnsupportedTask
from service.http.answers import EventAnswer, EventStream, encode_json
from service.http.body import parse_json_object
from service.http.request_context import RequestContext
from service.protocols.open_inference.description import Target
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.route import (
    INFERENCE_ERRORS,
    MODEL,
    VERSION,
    OpenInferenceRequest,
    OpenInferenceRoute,
)
from service.protocols.open_inference.schema import (
    STREAM_EXAMPLE,
    TEXT_REQUEST,
    TextDetails,
    TextInput,
    TextParameters,
    TextResponse,
)
from service.schema import fields_of, json_bounds, read, shown
from service.tasks.text_generation import process as text
from service.tasks.text_generation.detokenization import TextChunk
from service.tasks.text_generation.routes import OWN_SEED_BITS
from service.tasks.text_generation.schema import DEFAULT_MAX_TOKENS
from service.tasks.text_generation.sequences import RunningSequence, Sequences, sampling_of
from service.tasks.tokenizers import language_of
from service.threads import by_size

_BOUNDS = json_bounds(TextInput, TextParameters)


@dataclass(frozen=True, slots=True)
class Prompted:
    """A request for text, over HTTP or gRPC: `body` holds `text_input` and the parameters."""

    model: str
    version: str | None
    body: Mapping[str, Any]
    context: RequestContext
    timeout_seconds: float


class Generate(OpenInferenceRoute):
    """`POST /v2/models/{model}/generate`."""

    method = "POST"
    paths = (f"{MODEL}/generate", f"{VERSION}/generate")
    access = "infer"
    description = "Parameters are members of `parameters`, or stand beside `text_input`."
    request_document = TEXT_REQUEST
    answers: ClassVar[tuple[Any, ...]] = (TextResponse,)
    responses = INFERENCE_ERRORS
    streams = False

    async def answer(self, request: OpenInferenceRequest) -> Any:
        """Continue a text, in one answer."""
        sequences, head = await self.start(request)
        await sequences.run()
        (sequence,) = sequences.all
        return TextResponse(**head, text_output=sequence.text, details=_details(sequence))

    async def start(self, request: OpenInferenceRequest) -> tuple[Sequences, dict[str, Any]]:
        """Begin to generate; return the sequence and the members that every answer begins with.

        Raises: ServiceError.
        """
        seconds = self.timeout_seconds(request)
        body = await by_size(partial(parse_json_object, bounds=_BOUNDS), request.body)
        prompted = Prompted(request.model, request.version, body, request.context, seconds)
        return await begin_text(self.execution, prompted, streams=self.streams)


class GenerateStream(Generate):
    """`POST /v2/models/{model}/generate_stream`."""

    paths = (f"{MODEL}/generate_stream", f"{VERSION}/generate_stream")
    access = "infer"
    description = "One event for each chunk of text; the last has `done` true."
    answers: ClassVar[tuple[Any, ...]] = ()
    responses = {
        **INFERENCE_ERRORS,
        200: {
            "description": "The text as it comes; an error after the first event is an event with `error`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": STREAM_EXAMPLE}},
        },
    }
    streams = True

    async def answer(self, request: OpenInferenceRequest) -> EventAnswer:
        """Continue a text, as server-sent events."""
        return _Events(*await self.start(request))


@dataclass(frozen=True, slots=True)
class _Events(EventAnswer):
    sequences: Sequences
    head: Mapping[str, Any]

    async def send_events(self, events: EventStream) -> None:
        async def send(sequence: RunningSequence, chunk: TextChunk) -> None:
            is_done = sequence.finish_reason is not None
            details = _details(sequence) if is_done else UNSET
            event = TextResponse(**self.head, text_output=chunk.text, done=is_done, details=details)
            await events.send(encode_json(event))

        await self.sequences.run(send)

    def error_event(self, error: ServiceError) -> tuple[bytes, bytes]:
        return encode_json({"error": error.message}), b""


def _details(sequence: RunningSequence) -> TextDetails:
    assert sequence.finish_reason is not None
    return TextDetails(finish_reason=sequence.finish_reason, generated_tokens=sequence.num_tokens)


async def begin_text(execution: Execution, prompted: Prompted, *, streams: bool) -> tuple[Sequences, dict[str, Any]]:
    """Begin to generate one sequence; return it and the members that every answer begins with.

    Raises: ServiceError.
    """
    given, parameters = read_members(prompted.body, streams=streams)
    target = execution.find(prompted.model, prompted.version, is_request=True)
    prompted.context.model = target.model.name
    _require_text(target)
    tokenizers, language = execution.tokenizers, language_of(target.model)
    tokenizer = await tokenizers.of(target.model)
    text.check_sampling(parameters, language.vocab_size)
    await execution.grammars.check(parameters.grammar(), prompted.context.origin)
    encoded = await tokenizers.encode(tokenizer, given.text_input, language.context - 1, "text_input")
    tokens = text.with_bos(encoded, language)
    max_tokens = text.num_new_tokens(len(tokens), parameters.max_tokens, DEFAULT_MAX_TOKENS, language)
    seed = secrets.randbits(OWN_SEED_BITS) if parameters.seed is None else parameters.seed
    sequences = Sequences(execution.client, target.model, tokenizer, prompted.context, prompted.timeout_seconds)
    sequences.start(tokens, sampling_of(parameters, max_tokens, seed, 0), parameters.stop)
    named = {} if given.id is None else {"id": given.id}
    return sequences, {**named, "model_name": target.name, "model_version": target.model.version}


def read_members(body: Mapping[str, Any], *, streams: bool) -> tuple[TextInput, TextParameters]:
    """The text and the parameters, which are members of `parameters` or, as Triton allows, stand beside it.

    Raises: InvalidParameter, also for a parameter given in both places.
    """
    nested = body.get("parameters")
    if nested is not None and not isinstance(nested, dict):
        raise InvalidParameter(f"parameters is {shown(nested)}; it must be an object.", parameter="parameters")
    members = {name: value for name, value in body.items() if name in fields_of(TextInput)}
    beside = {name: value for name, value in body.items() if name not in members and name != "parameters"}
    if twice := sorted(set(nested or {}) & set(beside)):
        raise InvalidParameter(f"{shown(twice[0])} is given twice; it belongs in parameters.", parameter=twice[0])
    given = read(TextInput, members)
    parameters = read(TextParameters, {**(nested or {}), **beside})
    if parameters.stream and not streams:
        raise InvalidParameter("stream is true; use generate_stream for a stream.", parameter="stream")
    return given, parameters


def _require_text(target: Target) -> None:
    if not target.writes_text:
        raise UnsupportedTask(f"{target.name!r} is not a text generator; use infer.")
