"""OpenAI's wire format: parameters, answers and errors. Source: OpenAI's API reference.

vLLM's additions to it are taken too, as the clients that measure and evaluate send them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.schema import Answer, custom
from service.tasks.text_generation.schema import (
    MAX_INTEGER,
    MAX_TEXT_TOKENS,
    FinishReason,
    SamplingParameters,
    Token,
)

DEFAULT_MAX_TOKENS = 16
MAX_SEQUENCES = 64
MAX_MESSAGES = 1024
MAX_TOP_LOGPROBS = 20
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

NEUTRAL: Mapping[str, Sequence[Any] | None] = {
    # Records, billing and caches.
    **dict.fromkeys(("user", "metadata", "store", "service_tier", "safety_identifier", "request_id", "priority")),
    **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "include_obfuscation", "prediction")),
    # What is so anyway.
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "include_stop_str_in_output": (False,),
    "add_special_tokens": (True,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "length_penalty": (1,),
    "typical_p": (1,),
    "detokenize": (True,),
    "bad_words": ([],),
    "logits_processors": ([],),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (-1,),
    "guided_decoding_backend": None,
}

_Tokens = Annotated[list[Token], Meta(min_length=1, max_length=MAX_TEXT_TOKENS)]


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


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream tells beside the text; `include_obfuscation` is ignored."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False
    is_given: bool = False


_OPTIONS = [name for name in StreamOptions.__struct_fields__ if name != "is_given"]


def _stream_options(value: Any) -> StreamOptions:
    if not isinstance(value, dict) or not value.keys() <= set(_OPTIONS):
        raise ValueError
    given = {name: each for name, each in value.items() if each is not None}
    return msgspec.convert(given | {"is_given": True}, StreamOptions)


_TEXT: dict[str, Any] = {"type": "string"}
_TOKEN_IDS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0},
    "minItems": 1,
    "maxItems": MAX_TEXT_TOKENS,
}
_MANY = [{"type": "array", "items": item, "maxItems": MAX_SEQUENCES} for item in (_TEXT, _TOKEN_IDS)]
_PROMPTS = custom(
    "What to continue; several are answered together. Token ids are taken as they are, texts begin with BOS.",
    _prompts,
    f"a text, a list of up to {MAX_SEQUENCES} texts, a list of token ids, or a list of up to {MAX_SEQUENCES} such",
    {"anyOf": [_TEXT, _TOKEN_IDS, *_MANY]},
)
_STREAM_OPTIONS = custom(
    "Only with `stream`: the usage after the text, or with every chunk.",
    _stream_options,
    f"an object with any of {', '.join(_OPTIONS)}, each true or false",
    {"type": "object", "properties": {name: {"type": "boolean"} for name in _OPTIONS}, "additionalProperties": False},
)


class TextParameters(SamplingParameters, kw_only=True):
    """What completions and chats have in common."""

    neutral: ClassVar[Mapping[str, Sequence[Any] | None]] = NEUTRAL

    model: Annotated[str, Meta(description="`name` or `name@version` of a language model.")]
    max_tokens: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=MAX_INTEGER,
                description="Most tokens to generate; if absent, 16 of a completion, and of a chat what the context "
                "has room for. 0 only scores an echo.",
            ),
        ]
        | None
    ) = None
    max_completion_tokens: (
        Annotated[int, Meta(ge=0, le=MAX_INTEGER, description="Another name of `max_tokens`.")] | None
    ) = None
    n: Annotated[int, Meta(ge=1, le=MAX_SEQUENCES, description="How many answers to give.")] = 1
    stream: Annotated[bool, Meta(description="Send the text as it comes, as server-sent events.")] = False
    stream_options: Annotated[StreamOptions, _STREAM_OPTIONS] = msgspec.field(default_factory=StreamOptions)
    seed: (
        Annotated[
            int, Meta(ge=-(2**63), le=2**63 - 1, description="The same seed gives the same text; random if absent.")
        ]
        | None
    ) = None

    @property
    def num_candidates(self) -> int:
        """How many texts to generate for each prompt."""
        return self.n

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate, by either name; None if absent."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionParameters(TextParameters, kw_only=True):
    """The parameters of a completion."""

    prompt: Annotated[list[str | list[int]], _PROMPTS] = msgspec.field(default_factory=lambda: [""])
    logprobs: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=MAX_TOP_LOGPROBS,
                description="Log probability of each token, and of so many likeliest ones in its place.",
            ),
        ]
        | None
    ) = None
    best_of: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_SEQUENCES,
                description="So many texts are generated, of which the `n` likeliest by the token are the answers.",
            ),
        ]
        | None
    ) = None
    echo: Annotated[bool, Meta(description="Begin each answer with its prompt.")] = False
    suffix: Annotated[str, Meta(description="Not supported; must be empty.")] | None = None

    @property
    def num_candidates(self) -> int:
        """How many texts to generate for each prompt."""
        return self.n if self.best_of is None else self.best_of


def _messages(value: Any) -> list[dict[str, Any]]:
    """The messages of a conversation, each with its role and, as text, its content."""
    messages = msgspec.convert(value, Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_MESSAGES)])
    json.dumps(messages, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates
    if any(message.get("role") not in ROLES for message in messages):
        raise ValueError
    return [message | {"content": _content(message.get("content"), message["role"])} for message in messages]


def _content(value: Any, role: str) -> str:
    """The text of a message, which may be in parts; that of an assistant who called a tool may be absent."""
    if value is None and role == "assistant":
        return ""
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(msgspec.convert([part.get("text") for part in value], list[str]))
    if not isinstance(value, str):
        raise ValueError
    return value


_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": {"type": "object"}, "maxItems": 64}]},
    },
}
_MESSAGES = custom(
    "The conversation so far. The content of a message is a text, or a list of parts of the type `text`.",
    _messages,
    f"a list of 1 to {MAX_MESSAGES} messages, each with a role ({', '.join(ROLES)}) and a content, which is a text "
    "or a list of parts of the type text",
    {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": MAX_MESSAGES},
)


class ChatParameters(TextParameters, kw_only=True):
    """The parameters of a chat completion."""

    neutral: ClassVar[Mapping[str, Sequence[Any] | None]] = {
        **NEUTRAL,
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
        "parallel_tool_calls": None,
        "modalities": (["text"],),
        "verbosity": ("medium",),
        "reasoning_effort": ("none",),
        "echo": (False,),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "chat_template_kwargs": ({},),
        "documents": ([],),
    }

    messages: Annotated[list[dict[str, Any]], _MESSAGES]
    logprobs: Annotated[bool, Meta(description="Log probability of each token.")] = False
    top_logprobs: (
        Annotated[
            int,
            Meta(ge=0, le=MAX_TOP_LOGPROBS, description="So many likeliest tokens beside each; needs `logprobs`."),
        ]
        | None
    ) = None


class ChatToken(Answer):
    """A token with its log probability; `bytes` are those of its text, null for a token without one."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprobs(Answer):
    """A token of an answer, and the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[ChatToken]


class ChatLogprobs(Answer):
    """The tokens of an answer, or of a chunk of one."""

    content: list[ChatTokenLogprobs]
    refusal: None


class ChatMessage(Answer):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    """One of several answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletion(Answer):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: TextUsage


class ChatDelta(Answer):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(Answer):
    """What a chunk adds to an answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Answer):
    """A chunk of a chat completion; it has `usage` only if requested."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: TextUsage | UnsetType | None = UNSET


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


class TextUsage(Answer):
    """OpenAI's count of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Completion(Answer):
    """OpenAI's completion, or a chunk of one; a chunk has `usage` only if requested."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: TextUsage | UnsetType | None = UNSET


class OpenAiErrorBody(Answer):
    """The members of OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAiError(Answer):
    """OpenAI's error object."""

    error: OpenAiErrorBody
