"""OpenAI's legacy completions: parameters and answers. Source: OpenAI's API reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.schema import Answer, custom
from service.tasks.text_generation.schema import (
    MAX_INTEGER,
    MAX_TEXT_TOKENS,
    FinishReason,
    SamplingParameters,
    Token,
    stops,
)

DEFAULT_MAX_TOKENS = 16
MAX_SEQUENCES = 64

_Tokens = Annotated[list[Token], Meta(max_length=MAX_TEXT_TOKENS)]


def _prompts(value: Any) -> list[str | list[int]]:
    """One or several prompts, as texts or token ids, as a list."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(each) is int for each in value)):
        value = [value]
    if not isinstance(value, list) or not 0 < len(value) <= MAX_SEQUENCES:
        raise ValueError
    if all(isinstance(each, str) for each in value):
        "".join(value).encode("utf-8")  # refuses lone surrogates
        return value
    prompts: list[str | list[int]] = msgspec.convert(value, list[_Tokens])
    return prompts


def _includes_usage(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"include_usage"}:
        raise ValueError
    return msgspec.convert(value.get("include_usage", False), bool)


_TEXT: dict[str, Any] = {"type": "string"}
_TOKEN_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MAX_TEXT_TOKENS}
_MANY = [{"type": "array", "items": item, "maxItems": MAX_SEQUENCES} for item in (_TEXT, _TOKEN_IDS)]
_PROMPTS = custom(
    "What to continue; several are answered together.",
    _prompts,
    f"a text, a list of up to {MAX_SEQUENCES} texts, a list of token ids, or a list of up to {MAX_SEQUENCES} such",
    {"anyOf": [_TEXT, _TOKEN_IDS, *_MANY]},
)
_STREAM_OPTIONS = custom(
    "Only with `stream`.",
    _includes_usage,
    "an object whose one member is include_usage, true or false",
    {"type": "object", "properties": {"include_usage": {"type": "boolean"}}, "additionalProperties": False},
)


class CompletionParameters(SamplingParameters, kw_only=True):
    """The parameters of a completion; `stream_options` becomes whether to send the usage."""

    model: Annotated[str, Meta(description="`name` or `name@version` of a language model.")]
    prompt: Annotated[list[str | list[int]], _PROMPTS] = msgspec.field(default_factory=lambda: [""])
    max_tokens: (
        Annotated[
            int, Meta(ge=0, le=MAX_INTEGER, description="Most tokens to generate; 16 if absent. 0 only scores an echo.")
        ]
        | None
    ) = None
    n: Annotated[int, Meta(ge=1, le=MAX_SEQUENCES, description="How many answers to give.")] = 1
    logprobs: (
        Annotated[
            int,
            Meta(ge=0, le=5, description="Log probability of each token, and of so many likeliest ones in its place."),
        ]
        | None
    ) = None
    stream: Annotated[bool, Meta(description="Send the text as it comes, as server-sent events.")] = False
    seed: (
        Annotated[
            int, Meta(ge=-(2**63), le=2**63 - 1, description="The same seed gives the same text; random if absent.")
        ]
        | None
    ) = None
    stop: Annotated[tuple[str, ...], stops(4)] = ()
    best_of: Annotated[int, Meta(ge=1, le=MAX_SEQUENCES, description="Must be `n` or absent.")] | None = None
    echo: Annotated[bool, Meta(description="Begin each answer with its prompt.")] = False
    suffix: Annotated[str, Meta(description="Not supported; must be empty.")] | None = None
    stream_options: Annotated[bool, _STREAM_OPTIONS] = False
    user: Annotated[str, Meta(description="Ignored.")] | None = None


class CompletionLogprobs(Answer):
    """OpenAI's lists on the tokens of a choice."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Answer):
    """One of OpenAI's choices."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CachedTokens(Answer):
    """How many of the prompt's tokens were not computed again."""

    cached_tokens: int


class CompletionUsage(Answer):
    """OpenAI's count of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | UnsetType = UNSET


class Completion(Answer):
    """OpenAI's completion, or a chunk of one; a chunk has `usage` only if requested."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | UnsetType | None = UNSET


class OpenAiErrorBody(Answer):
    """The members of OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAiError(Answer):
    """OpenAI's error object."""

    error: OpenAiErrorBody
