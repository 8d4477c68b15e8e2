"""Text generation without HTTP or the engine: prompts within a context, seeds, and scores from log probabilities."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.manifest import Language
from models.tokenizer import Tokenizer
from service.errors import ContextExceeded, UnknownToken
from service.tasks.text_generation.schema import Candidate, PlacedToken

MAX_WINDOWS = 32
NUM_SEEDS = 2**63


def check_tokens(tokens: Sequence[int], vocab_size: int, name: str) -> None:
    """Refuse ids that name no token.

    Raises: UnknownToken, naming the first.
    """
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise UnknownToken(
                f"{name} holds the token {token}; this model's tokens are 0 to {vocab_size - 1}.", parameter=name
            )


def with_beginning(tokens: list[int], language: Language) -> list[int]:
    """The tokens behind the one that begins a text, unless they have it already."""
    return tokens if tokens and tokens[0] == language.bos_token else [language.bos_token, *tokens]


def room(num_prompt_tokens: int, wanted: int | None, default: int, language: Language) -> int:
    """How many tokens may be generated: those wanted, or by default what is left of the context.

    Raises: ContextExceeded.
    """
    left = language.context - num_prompt_tokens
    # `wanted` may be 0: then the prompt may fill the context.
    if left < (1 if wanted is None else wanted):
        asked = "" if wanted is None else f" and max_tokens is {wanted}"
        raise ContextExceeded(
            f"The prompt has {num_prompt_tokens} tokens with the one that begins it{asked}; "
            f"the context of this model is {language.context} tokens.",
            parameter="prompt" if left < 1 or wanted is None else "max_tokens",
        )
    return min(default, left) if wanted is None else wanted


def derived_seed(seed: int, index: int) -> int:
    """The seed of answer `index` of several: the caller's own for the first, and one that follows from it for each."""
    if index == 0:
        return seed % NUM_SEEDS
    content = b"%d/%d" % (seed, index)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") % NUM_SEEDS


def token_rows(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[PlacedToken]:
    """Describe the tokens of an encoded text."""
    rows = []
    for token, (start, end) in zip(tokens, tokenizer.offsets(tokens), strict=True):
        content = tokenizer.token_bytes[token]
        text = content.decode("utf-8", "replace")
        rows.append(PlacedToken(id=token, text=text, start=start, end=end, bytes=list(content)))
    return rows


def candidates(tokenizer: Tokenizer, top: Sequence[tuple[int, float]]) -> list[Candidate]:
    """Describe tokens that may come next, likeliest first, from their log probabilities."""
    return [
        Candidate(id=token, text=token_text(tokenizer, token), probability=math.exp(logprob), logprob=logprob)
        for token, logprob in top
    ]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """What a token reads as alone: U+FFFD for a part of a character, nothing where the tokenizer has none."""
    return tokenizer.decode([token]) if token < tokenizer.vocab_size else ""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a long text: its tokens from `start` to `stop`, of which those from `first` on are scored."""

    start: int
    stop: int
    first: int


def windows(num_tokens: int, context: int) -> list[Window]:
    """Cut tokens into windows of one context, half a context apart: each token is scored once.

    The token at 0 begins the text and is not scored.

    Raises: ContextExceeded where more than 32 windows would be needed.
    """
    stride = context // 2
    parts = [Window(0, min(context, num_tokens), 1)]
    while (scored := parts[-1].stop) < num_tokens:
        if len(parts) == MAX_WINDOWS:
            largest = context + (MAX_WINDOWS - 1) * stride
            raise ContextExceeded(f"text has {num_tokens - 1} tokens; at most {largest - 1} are scored.")
        stop = min(scored + stride, num_tokens)
        parts.append(Window(stop - context, stop, scored))
    return parts


def max_scored_tokens(context: int) -> int:
    """The most tokens of a text, with the one that begins it, that `windows` can cut."""
    return context + (MAX_WINDOWS - 1) * (context // 2)


def summary(logprobs: Sequence[float], num_bytes: int) -> dict[str, float]:
    """Total nats, nats per token, perplexity, and bits per UTF-8 byte of a scored text."""
    nats = -math.fsum(logprobs)
    return {
        "nats": nats,
        "nats_per_token": nats / len(logprobs),
        "perplexity": math.exp(min(nats / len(logprobs), 700.0)),
        "bits_per_byte": nats / math.log(2) / num_bytes,
    }
