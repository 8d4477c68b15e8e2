"""`generate` and `generate_stream`: text after a prompt, in the shapes of Triton and the Open Inference Protocol.

How tokens are drawn is the matter of `tasks/`. Sources: Triton's extension_generate.md, generate_rest.yaml.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta
from starlette.types import Send

from service.errors import InvalidParameter, ServiceError, UnsupportedTask
from service.http.answers import EventStream, encode_json
from service.http.body import parse_json_object
from service.http.request_context import RequestContext
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.naming import Target
from service.protocols.open_inference.routes import Asked, OpenInferenceRoute
from service.schema import Parameters, fields_of, read, shown
from service.tasks.text_generation import process as text
from service.tasks.text_generation.detokenization import Piece
from service.tasks.text_generation.routes import OWN_SEED_BITS
from service.tasks.text_generation.schema import DEFAULT_MAX_TOKENS, MAX_INTEGER, SamplingParameters
from service.tasks.text_generation.sequences import Running, Sequences, sampling_of
from service.tasks.tokenizers import language_of


class OpenTextParameters(SamplingParameters):
    """The parameters of `generate` and `generate_stream`."""

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_INTEGER, description="Most tokens to generate.")] = 20
    best_of: Annotated[int, Meta(ge=1, le=1, description="Must be 1 or absent.")] = 1
    stream: Annotated[bool, Meta(description="Only `generate_stream` takes true.")] = False


class OpenTextInput(Parameters):
    """The members beside the parameters."""

    text_input: Annotated[str, Meta(description="The text to continue; empty begins a new one.")]
    id: Annotated[str, Meta(description="Repeated in the answer.")] | None = None


@dataclass(frozen=True, slots=True)
class Prompted:
    """A request for text: the model, `text_input` with its parameters, and the time for it."""

    model: str
    version: str | None
    body: Mapping[str, Any]
    context: RequestContext
    timeout_seconds: float


class Generate(OpenInferenceRoute):
    """`POST /v2/models/{model}[/versions/{version}]/generate`."""

    streams = False

    async def answer(self, asked: Asked, send: Send) -> None:
        """Go on with a text, in one answer."""
        sequences, head = await self._start(asked)
        await sequences.run()
        (running,) = sequences.all
        details = {"finish_reason": running.finish_reason, "generated_tokens": running.num_tokens}
        await self.send_json(head | {"text_output": running.text, "details": details}, asked, send)

    async def _start(self, asked: Asked) -> tuple[Sequences, dict[str, Any]]:
        body = parse_json_object(asked.body)
        prompted = Prompted(asked.model, asked.version, body, asked.context, self.timeout_seconds(asked))
        return await begin_text(self.execution, prompted, streams=self.streams)


class GenerateStream(Generate):
    """`POST /v2/models/{model}[/versions/{version}]/generate_stream`."""

    streams = True

    async def answer(self, asked: Asked, send: Send) -> None:
        """Go on with a text, as server-sent events."""
        sequences, head = await self._start(asked)
        events = EventStream(send)

        async def tell(running: Running, piece: Piece) -> None:
            is_done = running.finish_reason is not None
            event = head | {"text_output": piece.text, "done": is_done}
            if is_done:
                event["details"] = {
                    "finish_reason": running.finish_reason,
                    "generated_tokens": running.num_tokens,
                }
            await events.send(encode_json(event))

        try:
            await sequences.run(tell)
        except ServiceError as error:
            if not events.is_open:
                raise
            await events.send(encode_json({"error": error.message}))
        await events.close()


async def begin_text(execution: Execution, prompted: Prompted, *, streams: bool) -> tuple[Sequences, dict[str, Any]]:
    """Set one sequence going; return it and what every answer to it begins with.

    Raises: ServiceError.
    """
    given, parameters = read_members(prompted.body, streams=streams)
    target = execution.find(prompted.model, prompted.version)
    prompted.context.model = target.model.name
    _require_text(target)
    tokenizers, language = execution.tokenizers, language_of(target.model)
    tokenizer = await tokenizers.of(target.model)
    text.check_tokens(list(parameters.logit_bias), language.vocab_size, "logit_bias")
    encoded = await tokenizers.encode(tokenizer, given.text_input, language.context - 1, "text_input")
    tokens = text.with_beginning(encoded, language)
    max_tokens = text.room(len(tokens), parameters.max_tokens, DEFAULT_MAX_TOKENS, language)
    seed = secrets.randbits(OWN_SEED_BITS) if parameters.seed is None else parameters.seed
    sequences = Sequences(execution.client, target.model, tokenizer, prompted.context, prompted.timeout_seconds)
    sequences.start(tokens, sampling_of(parameters, max_tokens, seed, 0), parameters.stop)
    named = {} if given.id is None else {"id": given.id}
    return sequences, {**named, "model_name": target.name, "model_version": target.model.version}


def read_members(body: Mapping[str, Any], *, streams: bool) -> tuple[OpenTextInput, OpenTextParameters]:
    """The text and the parameters, which stand in `parameters` or beside it, as Triton's callers do.

    Raises: InvalidParameter, also for one that stands in both places.
    """
    nested = body.get("parameters")
    if nested is not None and not isinstance(nested, dict):
        raise InvalidParameter(f"parameters is {shown(nested)}; it must be an object.", parameter="parameters")
    members = {name: value for name, value in body.items() if name in fields_of(OpenTextInput)}
    beside = {name: value for name, value in body.items() if name not in members and name != "parameters"}
    if twice := sorted(set(nested or {}) & set(beside)):
        raise InvalidParameter(f"{shown(twice[0])} is given twice; it belongs in parameters.", parameter=twice[0])
    given = read(OpenTextInput, members)
    parameters = read(OpenTextParameters, {**(nested or {}), **beside})
    if parameters.stream and not streams:
        raise InvalidParameter("stream is true; use generate_stream for a stream.", parameter="stream")
    return given, parameters


def _require_text(target: Target) -> None:
    if not target.writes_text:
        raise UnsupportedTask(f"{target.name!r} computes tensors; this route needs a text generator, infer takes it.")
