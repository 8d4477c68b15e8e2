"""What a caller may ask of a text generator: the parameters of our own routes and of OpenAI's, each with its range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.tasks.parameters import (
    Biases,
    Flag,
    Number,
    Parameter,
    Text,
    Texts,
    TokenIds,
    Whole,
    are_token_ids,
)

DEFAULT_MAX_TOKENS = 128
OPENAI_DEFAULT_MAX_TOKENS = 16
MAX_ANSWERS = 16
MAX_SEQUENCES = 64
MAX_TEXT_TOKENS = 2**16
_MOST = 2**31 - 1
_A_TEXT = Text(about="")
_SOME_TOKENS = TokenIds(most=MAX_TEXT_TOKENS, about="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How tokens are drawn: the members that our route and OpenAI's share."""

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[int, float]
    seed: int | None
    stop: tuple[str, ...]
    n: int
    logprobs: int | None
    stream: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts(Parameter):
    """One prompt or several, as texts or as token ids; they become a list of texts and lists of ids."""

    most: int

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"a text, a list of up to {self.most} texts, a list of token ids, or a list of up to {self.most} such"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        if not isinstance(value, list):
            return _A_TEXT.accepts(value)
        if are_token_ids(value):
            return 0 < len(value) <= MAX_TEXT_TOKENS
        is_list_of_texts = all(_A_TEXT.accepts(item) for item in value)
        return len(value) <= self.most and (is_list_of_texts or all(_SOME_TOKENS.accepts(item) for item in value))

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        text, tokens = _A_TEXT.schema(), _SOME_TOKENS.schema()
        several = [{"type": "array", "items": item, "maxItems": self.most} for item in (text, tokens)]
        return {"anyOf": [text, tokens, *several]}

    def convert(self, value: Any) -> list[str | list[int]]:
        """A value that fits, as the program wants it."""
        return value if isinstance(value, list) and not are_token_ids(value) else [value]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions(Parameter):
    """OpenAI's object of that name; it becomes whether the usage is wanted."""

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return "an object whose one member is include_usage, true or false"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        return (
            isinstance(value, dict)
            and value.keys() <= {"include_usage"}
            and all(type(v) is bool for v in value.values())
        )

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        return {"type": "object", "properties": {"include_usage": {"type": "boolean"}}, "additionalProperties": False}

    def convert(self, value: Any) -> bool:
        """A value that fits, as the program wants it."""
        return bool(value.get("include_usage", False))


def _shared(most_stops: int, most_answers: int, most_logprobs: int, least_seed: int) -> dict[str, Parameter]:
    return {
        "temperature": Number(low=0, high=2, default=1.0, about="0 always takes the likeliest token."),
        "top_k": Whole(low=0, high=_MOST, default=0, about="Draw among this many likeliest tokens; 0 among all."),
        "top_p": Number(
            low=0, high=1, above=True, default=1.0, about="Draw among the likeliest tokens that have this share."
        ),
        "min_p": Number(low=0, high=1, default=0.0, about="Leave out tokens below this share of the likeliest's."),
        "repetition_penalty": Number(
            low=0, high=10, above=True, default=1.0, about="Divides the logits of tokens that were there."
        ),
        "presence_penalty": Number(low=-2, high=2, default=0.0, about="Taken from tokens that were generated."),
        "frequency_penalty": Number(low=-2, high=2, default=0.0, about="The same for each time they were."),
        "logit_bias": Biases(most=1024, largest=100, default={}, about="What to add to the logits of tokens."),
        "seed": Whole(low=least_seed, high=2**63 - 1, about="The same seed gives the same text; random if absent."),
        "stop": Texts(most=most_stops, most_characters=256, default=(), about="The text ends before any of these."),
        "n": Whole(low=1, high=most_answers, default=1, about="How many answers to give."),
        "logprobs": Whole(low=0, high=most_logprobs, about="Log probabilities of each token and of so many likeliest."),
        "stream": Flag(default=False, about="Send the text as it comes, as server-sent events."),
    }


GENERATE: dict[str, Parameter] = {
    "prompt": Text(default="", about="The text to go on with; empty begins a new one."),
    "max_tokens": Whole(low=1, high=_MOST, about="Most tokens to generate: 128 or what the context leaves, if absent."),
    **_shared(16, MAX_ANSWERS, 20, 0),
}
NEXT_TOKEN: dict[str, Parameter] = {
    "text": Text(required=True, about="The text that the token is to follow."),
    "top_k": Whole(low=1, high=100, default=10, about="How many candidates to give."),
}
TEXT: dict[str, Parameter] = {"text": Text(required=True, about="The text.")}
TOKENS: dict[str, Parameter] = {
    "tokens": TokenIds(most=MAX_TEXT_TOKENS, required=True, about="The tokens, as `tokenize` names them.")
}

OPENAI: dict[str, Parameter] = {
    "model": Text(required=True, about="`name` or `name@version` of a text generator."),
    "prompt": Prompts(most=MAX_SEQUENCES, default=[""], about="What to go on with; several are answered together."),
    "max_tokens": Whole(low=0, high=_MOST, about="Most tokens to generate; 16 if absent. 0 only scores an echo."),
    **_shared(4, MAX_SEQUENCES, 5, -(2**63)),
    "best_of": Whole(low=1, high=MAX_SEQUENCES, about="Must be `n` or absent."),
    "echo": Flag(default=False, about="Begin each answer with its prompt."),
    "suffix": Text(about="Not supported; must be empty."),
    "stream_options": StreamOptions(default=False, about="Only with `stream`."),
    "user": Text(about="Ignored."),
}
