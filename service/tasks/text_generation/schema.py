"""What a caller may ask of a language model, and what comes back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.schema import Answer, Parameters, custom

DEFAULT_MAX_TOKENS = 128
MAX_TEXT_TOKENS = 2**16
MAX_INTEGER = 2**31 - 1
_MAX_BIASES = 1024
_MAX_BIAS = 100
_MAX_STOP_CHARACTERS = 256

Token = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
FinishReason = Literal["stop", "length"]


def stops(max_stops: int) -> Meta:
    """One stop string, or a list of up to `max_stops`; either becomes a tuple."""
    text = Annotated[str, Meta(min_length=1, max_length=_MAX_STOP_CHARACTERS)]

    def parse(value: Any) -> tuple[str, ...]:
        texts = tuple(msgspec.convert(value if isinstance(value, list) else [value], list[text]))
        if len(texts) > max_stops:
            raise ValueError
        "".join(texts).encode("utf-8")  # refuses lone surrogates
        return texts

    one = {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_CHARACTERS}
    return custom(
        "The text ends before any of these.",
        parse,
        f"a text of 1 to {_MAX_STOP_CHARACTERS} characters or a list of up to {max_stops}",
        {"oneOf": [one, {"type": "array", "items": one, "maxItems": max_stops}]},
    )


def _biases(value: Any) -> dict[int, float]:
    bias = Annotated[float, Meta(ge=-_MAX_BIAS, le=_MAX_BIAS)]
    biases = msgspec.convert(value, Annotated[dict[str, bias], Meta(max_length=_MAX_BIASES)])
    if not all(name.isascii() and name.isdigit() and len(name) < 10 for name in biases):
        raise ValueError
    return {int(name): amount for name, amount in biases.items()}


_BIASES = custom(
    "What to add to the logits of tokens, by token id.",
    _biases,
    f"an object of up to {_MAX_BIASES} token ids with numbers from {-_MAX_BIAS} to {_MAX_BIAS}",
    {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": -_MAX_BIAS, "maximum": _MAX_BIAS},
        "maxProperties": _MAX_BIASES,
    },
)


class SamplingParameters(Parameters):
    """How tokens are sampled."""

    temperature: Annotated[float, Meta(ge=0, le=2, description="0 always takes the likeliest token.")] = 1.0
    top_k: Annotated[
        int, Meta(ge=0, le=MAX_INTEGER, description="Sample among this many likeliest tokens; 0 among all.")
    ] = 0
    top_p: Annotated[
        float, Meta(gt=0, le=1, description="Sample among the likeliest tokens that together have this probability.")
    ] = 1.0
    min_p: Annotated[
        float, Meta(ge=0, le=1, description="Leave out tokens below this share of the likeliest token's probability.")
    ] = 0.0
    repetition_penalty: Annotated[
        float, Meta(gt=0, le=10, description="Divides the logits of tokens that occurred.")
    ] = 1.0
    presence_penalty: Annotated[
        float, Meta(ge=-2, le=2, description="Subtracted from the logits of tokens that were generated.")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Meta(ge=-2, le=2, description="The same, once for each time that they were generated.")
    ] = 0.0
    logit_bias: Annotated[dict[int, float], _BIASES] = {}
    seed: (
        Annotated[int, Meta(ge=0, le=2**63 - 1, description="The same seed gives the same text; random if absent.")]
        | None
    ) = None
    stop: Annotated[tuple[str, ...], stops(16)] = ()


class GenerateParameters(SamplingParameters):
    """The parameters of `generate` for language models."""

    prompt: Annotated[str, Meta(description="The text to continue; empty begins a new one.")] = ""
    max_tokens: (
        Annotated[
            int,
            Meta(
                ge=1, le=MAX_INTEGER, description="Most tokens to generate: 128 or what the context leaves, if absent."
            ),
        ]
        | None
    ) = None
    n: Annotated[int, Meta(ge=1, le=16, description="How many answers to give.")] = 1
    logprobs: (
        Annotated[
            int,
            Meta(ge=0, le=20, description="Log probability of each token, and of so many likeliest ones in its place."),
        ]
        | None
    ) = None
    stream: Annotated[bool, Meta(description="Send the text as it comes, as server-sent events.")] = False


class NextTokenParameters(Parameters):
    """The parameters of `next-token`."""

    text: Annotated[str, Meta(description="The text that the token follows.")]
    top_k: Annotated[int, Meta(ge=1, le=100, description="How many candidates to give.")] = 10


class TextParameters(Parameters):
    """The parameters of the routes that take one text."""

    text: Annotated[str, Meta(description="The text.")]


class TokensParameters(Parameters):
    """The parameters of `detokenize`."""

    tokens: Annotated[
        list[Token],
        Meta(
            max_length=MAX_TEXT_TOKENS,
            description="Token ids, as `tokenize` gives them.",
            extra={"valid": f"a list of up to {MAX_TEXT_TOKENS} token ids, whole numbers from 0 on"},
        ),
    ]


class Candidate(Answer):
    """One token that may come next."""

    id: int
    text: str
    probability: float
    logprob: float


class GeneratedToken(Answer):
    """One generated token with its log probability, and the likeliest ones in its place."""

    id: int
    text: str
    logprob: float | None
    top: list[Candidate]


class GeneratedText(Answer):
    """One answer; `finish_reason` is `stop` at a stop string or the end of the text, `length` at `max_tokens`."""

    text: str
    finish_reason: FinishReason | None
    tokens: list[int]
    logprobs: list[GeneratedToken] | UnsetType = UNSET


class Usage(Answer):
    """Tokens of the prompt, with the one that begins it, and of all answers; null where it is not known."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    total_tokens: int


class Timing(Answer):
    """Seconds since the request's head came."""

    time_to_first_token_seconds: float | None
    seconds: float
    tokens_per_second: float


class GenerateAnswer(Answer):
    """The answer of `generate` for language models."""

    model: str
    version: str
    seed: int
    results: list[GeneratedText]
    usage: Usage
    timing: Timing


class TextEvent(Answer):
    """One event of a stream: the next piece of an answer's text."""

    index: int
    text: str
    tokens: list[int]
    logprobs: list[GeneratedToken] | UnsetType = UNSET
    finish_reason: FinishReason | UnsetType = UNSET


class EndEvent(Answer):
    """The last event of a stream."""

    model: str
    version: str
    seed: int
    usage: Usage
    timing: Timing


class NextTokenAnswer(Answer):
    """The answer of `next-token`."""

    model: str
    version: str
    candidates: list[Candidate]


class PlacedToken(Answer):
    """One token of a text: its place in characters and its bytes, which may be a part of a character."""

    id: int
    text: str
    start: int
    end: int
    bytes: list[int]


class TokenizeAnswer(Answer):
    """The answer of `tokenize`."""

    model: str
    version: str
    num_tokens: int
    tokens: list[PlacedToken]


class DetokenizeAnswer(Answer):
    """The answer of `detokenize`."""

    model: str
    version: str
    text: str


class ScoredToken(Answer):
    """One token of a scored text."""

    id: int
    text: str
    start: int
    end: int
    logprob: float


class ScoreAnswer(Answer):
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


class AttendedToken(Answer):
    """One token of the text, with the one that begins it."""

    id: int
    text: str


class AttentionAnswer(Answer):
    """The answer of `attention`: `attention[layer][head][from][to]`, each row summing to 1."""

    model: str
    version: str
    tokens: list[AttendedToken]
    attention: list[list[list[list[float]]]]
