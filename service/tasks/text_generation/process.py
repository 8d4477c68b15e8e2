"""Pre- and postprocessing of text generation: context limits, seeds, windows and scores. No HTTP, no engine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.manifest import Language
from models.tokenizer import Tokenizer
from service.errors import ContextExceeded
from service.tasks.text_generation.schema import Candidate, PlacedToken, SamplingParameters
from service.tasks.tokenizers import check_tokens

NUM_SEEDS = 2**63


def check_sampling(parameters: SamplingParameters, vocab_size: int) -> None:
    """Check that the tokens that parameters name are in the vocabulary.

    Raises: UnknownToken.
    """
    check_tokens(list(parameters.logit_bias), vocab_size, "logit_bias")
    check_tokens(parameters.stop_token_ids, vocab_size, "stop_token_ids")


def with_bos(tokens: list[int], language: Language) -> list[int]:
    """Begin a text as those of the model do: with BOS, unless it is there already or they begin without."""
    if tokens and (tokens[0] == language.bos_token or not language.adds_bos):
        return tokens
    return [language.bos_token, *tokens]


def num_new_tokens(num_prompt_tokens: int, requested: int | None, default: int, language: Language) -> int:
    """How many tokens to generate: as requested, or by default at most what is left of the context.

    Raises: ContextExceeded.
    """
    left = language.context - num_prompt_tokens
    # `requested` may be 0: then the prompt may fill the context.
    if left < (1 if requested is None else requested):
        and_more = "" if requested is None else f" and max_tokens is {requested}"
        raise ContextExceeded(
            f"The prompt has {num_prompt_tokens} tokens including BOS{and_more}; "
            f"the context of this model is {language.context} tokens.",
            parameter="prompt" if left < 1 or requested is None else "max_tokens",
        )
    return min(default, left) if requested is None else requested


def derived_seed(seed: int, index: int) -> int:
    """The seed of completion `index`: the given one for the first, derived from it for the others."""
    if index == 0:
        return seed % NUM_SEEDS
    content = b"%d/%d" % (seed, index)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") % NUM_SEEDS


def token_rows(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[PlacedToken]:
    """Describe the tokens of a text."""
    rows = []
    for token, (start, end) in zip(tokens, tokenizer.offsets(tokens), strict=True):
        content = tokenizer.token_bytes[token]
        text = content.decode("utf-8", "replace")
        rows.append(PlacedToken(id=token, text=text, start=start, end=end, bytes=list(content)))
    return rows


def candidates(tokenizer: Tokenizer, top: Sequence[tuple[int, float]]) -> list[Candidate]:
    """Describe candidate tokens, most probable first."""
    return [
        Candidate(id=token, text=token_text(tokenizer, token), probability=math.exp(logprob), logprob=logprob)
        for token, logprob in top
    ]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of a single token: U+FFFD for part of a character, empty beyond the tokenizer's vocabulary."""
    return tokenizer.token_bytes[token].decode("utf-8", "replace") if token < tokenizer.vocab_size else ""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a long text: tokens `start` to `stop`, scored from `first` on."""

    start: int
    stop: int
    first: int


def windows(num_tokens: int, context: int) -> list[Window]:
    """Split tokens into windows of one context, half a context apart; each token is scored once.

    Token 0 is BOS and is not scored.
    """
    stride = context // 2
    parts = [Window(0, min(context, num_tokens), 1)]
    while (scored := parts[-1].stop) < num_tokens:
        stop = min(scored + stride, num_tokens)
        parts.append(Window(stop - context, stop, scored))
    return parts


def summary(logprobs: Sequence[float], num_bytes: int) -> dict[str, float]:
    """Summarize a scored text: nats, nats per token, perplexity, and bits per UTF-8 byte."""
    nats = -math.fsum(logprobs)
    return {
        "nats": nats,
        "nats_per_token": nats / len(logprobs),
        "perplexity": math.exp(min(nats / len(logprobs), 700.0)),
        "bits_per_byte": nats / math.log(2) / num_bytes,
    }
