"""Parameters and answers of the text-generation routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import InvalidParameter
from service.grammar import Grammar
from service.schema import Answer, Parameters, custom
from service.tasks import grammars

DEFAULT_MAX_TOKENS = 128
MAX_TEXT_TOKENS = 2**16
MAX_INTEGER = 2**31 - 1
_MAX_BIASES = 1024
_MAX_BIAS = 100
_MAX_STOP_TOKENS = 256
_MAX_TEXTS = 1024
_MAX_STOP_CHARACTERS = 256

GRAMMARS = (
    *("response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),
)
"""The parameters of which one may say what a text must be."""

Token = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
FinishReason = Literal["stop", "length"]


def stops(max_stops: int) -> Meta:
    """A stop string or a list of up to `max_stops`, parsed to a tuple."""
    text = Annotated[str, Meta(min_length=1, max_length=_MAX_STOP_CHARACTERS)]

    def parse(value: Any) -> tuple[str, ...]:
        texts = tuple(msgspec.convert(value if isinstance(value, list) else [value], list[text]))
        if len(texts) > max_stops:
            raise ValueError
        "".join(texts).encode("utf-8")  # refuses lone surrogates
        return texts

    one = {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_CHARACTERS}
    return custom(
        "Stop strings; the text ends before the first of them.",
        parse,
        f"a string of 1 to {_MAX_STOP_CHARACTERS} characters or a list of up to {max_stops}",
        {"oneOf": [one, {"type": "array", "items": one, "maxItems": max_stops}]},
    )


def _biases(value: Any) -> dict[int, float]:
    bias = Annotated[float, Meta(ge=-_MAX_BIAS, le=_MAX_BIAS)]
    biases = msgspec.convert(value, Annotated[dict[str, bias], Meta(max_length=_MAX_BIASES)])
    if not all(name.isascii() and name.isdigit() and len(name) < 10 for name in biases):
        raise ValueError
    return {int(name): amount for name, amount in biases.items()}


_BIASES = custom(
    "Values to add to the logits, by token id.",
    _biases,
    f"an object of up to {_MAX_BIASES} token ids with numbers from {-_MAX_BIAS} to {_MAX_BIAS}",
    {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": -_MAX_BIAS, "maximum": _MAX_BIAS},
        "maxProperties": _MAX_BIASES,
    },
)


class SamplingParameters(Parameters):
    """The sampling parameters."""

    temperature: Annotated[float, Meta(ge=0, le=2, description="0 is greedy: always the most probable token.")] = 1.0
    top_k: Annotated[
        int, Meta(ge=0, le=MAX_INTEGER, description="Sample from this many most probable tokens; 0 from all.")
    ] = 0
    top_p: Annotated[
        float, Meta(gt=0, le=1, description="Sample from the most probable tokens whose probabilities add up to this.")
    ] = 1.0
    min_p: Annotated[
        float, Meta(ge=0, le=1, description="Exclude tokens below this fraction of the highest probability.")
    ] = 0.0
    repetition_penalty: Annotated[
        float, Meta(gt=0, le=10, description="Divides the logits of tokens in the prompt or the text so far.")
    ] = 1.0
    presence_penalty: Annotated[
        float,
        Meta(
            ge=-2, le=2, description="Subtracted from the logits of tokens generated so far; the prompt does not count."
        ),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Meta(
            ge=-2,
            le=2,
            description="Subtracted once for each time that a token was generated; the prompt does not count.",
        ),
    ] = 0.0
    logit_bias: Annotated[dict[int, float], _BIASES] = {}
    seed: (
        Annotated[int, Meta(ge=0, le=2**63 - 1, description="The same seed gives the same text; random by default.")]
        | None
    ) = None
    stop: Annotated[tuple[str, ...], stops(16)] = ()
    stop_token_ids: Annotated[
        list[Token],
        Meta(
            max_length=_MAX_STOP_TOKENS,
            description="Tokens that end the text, beside those of the model; their own text is left out.",
            extra={"valid": f"a list of up to {_MAX_STOP_TOKENS} token ids, whole numbers from 0"},
        ),
    ] = []
    min_tokens: Annotated[
        int,
        Meta(ge=0, le=MAX_INTEGER, description="So many tokens come before one that ends the text, or a stop."),
    ] = 0
    ignore_eos: Annotated[bool, Meta(description="Go on after the model's own end tokens, up to `max_tokens`.")] = False
    response_format: Annotated[Grammar, grammars.RESPONSE_FORMAT] | None = None
    guided_json: Annotated[Grammar, grammars.GUIDED_JSON] | None = None
    guided_regex: Annotated[Grammar, grammars.GUIDED_REGEX] | None = None
    guided_choice: Annotated[Grammar, grammars.GUIDED_CHOICE] | None = None
    guided_grammar: Annotated[Grammar, grammars.GUIDED_GRAMMAR] | None = None
    structured_outputs: Annotated[Grammar, grammars.STRUCTURED_OUTPUTS] | None = None

    def grammar(self) -> tuple[str, Grammar] | None:
        """The parameter that says what the text must be, and what it says.

        Raises: InvalidParameter where several do.
        """
        given = {name: grammar for name in GRAMMARS if (grammar := getattr(self, name)) is not None}
        if len(given) > 1:
            first, second = list(given)[:2]
            raise InvalidParameter(f"{first} and {second} are both given; a text has one grammar.", parameter=second)
        return next(iter(given.items()), None)


class GenerateParameters(SamplingParameters):
    """The parameters of `generate` for language models."""

    prompt: Annotated[str, Meta(description="The text to complete; may be empty.")] = ""
    max_tokens: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_INTEGER,
                description="Maximum number of tokens to generate; 128 by default, or what is left of the context.",
            ),
        ]
        | None
    ) = None
    n: Annotated[int, Meta(ge=1, le=16, description="Number of completions.")] = 1
    logprobs: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=20,
                description="Return the log probability of each token and of this many most probable alternatives.",
            ),
        ]
        | None
    ) = None
    stream: Annotated[bool, Meta(description="Stream the text as server-sent events.")] = False


class NextTokenParameters(Parameters):
    """The parameters of `next-token`."""

    text: Annotated[str, Meta(description="The text before the token.")]
    top_k: Annotated[int, Meta(ge=1, le=100, description="Number of candidates.")] = 10


class TextParameters(Parameters):
    """The parameters of the routes that take one text."""

    text: Annotated[str, Meta(description="The text.")]


def _texts(value: Any) -> str | list[str]:
    texts = msgspec.convert(value if isinstance(value, list) else [value], list[str])
    if not 1 <= len(texts) <= _MAX_TEXTS:
        raise ValueError
    "".join(texts).encode("utf-8")  # refuses lone surrogates
    return texts if isinstance(value, list) else texts[0]


class ScoreParameters(Parameters):
    """The parameters of `score`."""

    text: Annotated[
        str | list[str],
        custom(
            "The text, or several.",
            _texts,
            f"a text of Unicode characters, or a list of 1 to {_MAX_TEXTS}",
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": _MAX_TEXTS},
                ]
            },
        ),
    ]
    tokens: Annotated[bool, Meta(description="List the tokens, each with its log probability.")] = True
    stream: Annotated[bool, Meta(description="Stream the tokens of each window as server-sent events.")] = False


class TokensParameters(Parameters):
    """The parameters of `detokenize`."""

    tokens: Annotated[
        list[Token],
        Meta(
            max_length=MAX_TEXT_TOKENS,
            description="Token ids, as returned by `tokenize`.",
            extra={"valid": f"a list of up to {MAX_TEXT_TOKENS} token ids, whole numbers from 0"},
        ),
    ]


class Candidate(Answer):
    """A candidate for a token."""

    id: int
    text: str
    probability: float
    logprob: float


class GeneratedToken(Answer):
    """A generated token with its log probability and the most probable alternatives."""

    id: int
    text: str
    logprob: float | None
    top: list[Candidate]


class GeneratedText(Answer):
    """One completion; `finish_reason` is `stop` at a stop string or the EOS token, `length` at `max_tokens`."""

    text: str
    finish_reason: FinishReason | None
    tokens: list[int]
    logprobs: list[GeneratedToken] | UnsetType = UNSET


class Usage(Answer):
    """Token counts of the prompt, including BOS, and of all completions."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int


class Timing(Answer):
    """Seconds since the request arrived."""

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
    """One event of a stream: the next chunk of a completion."""

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
    """A token of a text: its offsets in characters, and its bytes, which may be part of a character."""

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
    """A token of a scored text."""

    id: int
    text: str
    start: int
    end: int
    logprob: float


class Likelihood(Answer):
    """How likely a model finds some text."""

    num_tokens: int
    num_bytes: int
    num_windows: int
    nats: float
    nats_per_token: float
    perplexity: float
    bits_per_byte: float


class TextScore(Likelihood, kw_only=True):
    """The score of one text; `num_windows` is the number of overlapping windows."""

    tokens: list[ScoredToken] | UnsetType = UNSET


class ScoreAnswer(Answer):
    """The answer of `score` to one text: as a `TextScore`."""

    model: str
    version: str
    num_tokens: int
    num_bytes: int
    num_windows: int
    nats: float
    nats_per_token: float
    perplexity: float
    bits_per_byte: float
    tokens: list[ScoredToken] | UnsetType = UNSET


class ScoresAnswer(Answer):
    """The answer of `score` to a list of texts, and the last event of a stream: each text, and all together."""

    model: str
    version: str
    results: list[TextScore]
    total: Likelihood


class ScoreEvent(Answer):
    """One event of a stream of scores: the next tokens of text `index`, and its nats so far."""

    index: int
    num_tokens: int
    nats: float
    tokens: list[ScoredToken] | UnsetType = UNSET


class AttendedToken(Answer):
    """A token of the text or its BOS token."""

    id: int
    text: str


class AttentionAnswer(Answer):
    """The answer of `attention`: `attention[layer][head][from][to]`, each row summing to 1."""

    model: str
    version: str
    tokens: list[AttendedToken]
    attention: list[list[list[list[float]]]]
