"""What the OpenAPI document says of the routes of text generators: answers, bodies and an example of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from service.http.documentation import PROBLEMS, TIMEOUT_HEADER
from service.tasks.parameters import Parameter

FinishReason = Literal["stop", "length"]


class Candidate(BaseModel):
    """One token that may come next."""

    id: int
    text: str
    probability: float
    logprob: float


class GeneratedToken(BaseModel):
    """One generated token with its log probability, and the likeliest ones in its place."""

    id: int
    text: str
    logprob: float
    top: list[Candidate]


class Generation(BaseModel):
    """One answer; `finish_reason` is `stop` at a stop string or the end of the text, `length` at `max_tokens`."""

    text: str
    finish_reason: FinishReason
    tokens: list[int]
    logprobs: list[GeneratedToken] | None = None


class Usage(BaseModel):
    """Tokens of the prompt, with the one that begins it, and of all answers; null where it is not known."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    total_tokens: int


class Timing(BaseModel):
    """Seconds since the request's head came."""

    time_to_first_token_seconds: float | None
    seconds: float
    tokens_per_second: float


class Generated(BaseModel):
    """The answer of `generate`."""

    model: str
    version: str
    seed: int
    results: list[Generation]
    usage: Usage
    timing: Timing


class NextTokens(BaseModel):
    """The answer of `next-token`."""

    model: str
    version: str
    candidates: list[Candidate]


class PlacedToken(BaseModel):
    """One token of a text: its place in characters and its bytes, which may be a part of a character."""

    id: int
    text: str
    start: int
    end: int
    bytes: list[int]


class Tokenized(BaseModel):
    """The answer of `tokenize`."""

    model: str
    version: str
    num_tokens: int
    tokens: list[PlacedToken]


class Detokenized(BaseModel):
    """The answer of `detokenize`."""

    model: str
    version: str
    text: str


class ScoredToken(BaseModel):
    """One token of a scored text."""

    id: int
    text: str
    start: int
    end: int
    logprob: float


class Scored(BaseModel):
    """The answer of `score`; `num_windows` says in how many overlapping parts a long text was read."""

    model: str
    version: str
    num_tokens: int
    num_bytes: int
    num_windows: int
    nats: float
    nats_per_token: float
    perplexity: float
    bits_per_byte: float
    tokens: list[ScoredToken]


class AttendedToken(BaseModel):
    """One token of an explained text, the one that begins it among them."""

    id: int
    text: str


class Attended(BaseModel):
    """The answer of `attention`: `attention[layer][head][from][to]`, each row summing to 1."""

    model: str
    version: str
    tokens: list[AttendedToken]
    attention: list[list[list[list[float]]]]


class CompletionLogprobs(BaseModel):
    """OpenAI's lists on the tokens of a choice."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of OpenAI's choices."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CachedTokens(BaseModel):
    """How many of the prompt's tokens were not computed again."""

    cached_tokens: int


class CompletionUsage(BaseModel):
    """OpenAI's count of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | None = None


class Completion(BaseModel):
    """OpenAI's completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class OpenAiErrorBody(BaseModel):
    """What OpenAI says of an error."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAiError(BaseModel):
    """OpenAI's error object."""

    error: OpenAiErrorBody


GENERATE_EXAMPLE = {"prompt": "It was the best of", "max_tokens": 32, "temperature": 0.8, "seed": 7}
COMPLETION_EXAMPLE = {"model": "novelist", **GENERATE_EXAMPLE, "stop": ["\n\n"]}
TEXT_EXAMPLE = {"text": "It was the best of times"}
NEXT_TOKEN_EXAMPLE = {"text": "It was the best of", "top_k": 5}
TOKENS_EXAMPLE = {"tokens": [73, 116, 32]}

_STREAM = (
    'data: {"index":0,"text":" times","tokens":[311]}\n\n'
    'data: {"index":0,"text":".","tokens":[14],"finish_reason":"length"}\n\n'
    'event: end\ndata: {"model":"novelist","version":"1","seed":7,"usage":{...},"timing":{...}}\n\n'
)
_CHUNKS = (
    'data: {"id":"cmpl-1f","object":"text_completion","created":1,"model":"novelist","choices":'
    '[{"index":0,"text":" times","logprobs":null,"finish_reason":null}]}\n\ndata: [DONE]\n\n'
)
_CONTEXT = {"description": "The text is longer than the model's context, or a token id is not in its vocabulary."}


def _events(example: str) -> dict[int | str, dict[str, Any]]:
    content = {"text/event-stream": {"schema": {"type": "string"}, "example": example}}
    return {200: {"description": "The text; as events where `stream` is true.", "content": content}}


def _openai_problems() -> dict[int | str, dict[str, Any]]:
    told = {status: entry["description"] for status, entry in PROBLEMS.items() if status != 422}
    told[400] = "The body is not JSON, or a parameter is unknown or out of range; `param` names it."
    told["default"] = "Any other error, in the same form."
    return {status: {"model": OpenAiError, "description": text} for status, text in told.items()}


TEXT_PROBLEMS: dict[int | str, dict[str, Any]] = PROBLEMS | {400: PROBLEMS[400] | _CONTEXT}
GENERATE_RESPONSES = TEXT_PROBLEMS | _events(_STREAM)
COMPLETION_RESPONSES = _openai_problems() | _events(_CHUNKS)


def json_request(parameters: Mapping[str, Parameter], example: dict[str, Any]) -> dict[str, Any]:
    """The body that a route takes, from the parameters that it checks."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: parameter.described() for name, parameter in parameters.items()},
        "additionalProperties": False,
    }
    if required := [name for name, parameter in parameters.items() if parameter.required]:
        schema["required"] = required
    return {
        "parameters": [TIMEOUT_HEADER],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
    }
