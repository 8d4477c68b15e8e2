"""Compiles the grammars that texts are held to, with llguidance and within limits.

A few hundred bytes of a grammar can take minutes to compile and cannot be stopped: a process that can be ended tries
first (`decoding/`), then the engine compiles what passed. Libraries are imported when they are first needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from models.tokenizer import Tokenizer

MAX_GRAMMAR_BYTES = 2**17
# What the text of an answer in JSON may have between its parts: more would let a weak model fill the context with it.
JSON_SPACE = " "
# Below the library's own: a mask takes milliseconds, and the states of a grammar at most some 50 MB.
_MAX_STEP_ITEMS = 10_000
_MAX_LEXER_STATES = 50_000
_MAX_REASON = 300
_PLACE = re.compile(r"^at 1\(8\): (?=invalid regex)")  # in the grammar that a regular expression is put into

Kind = Literal["json", "regex", "choice", "lark"]


class Grammar(NamedTuple):
    """What a text must be: a JSON schema, a regular expression, a JSON list of texts, or a grammar in Lark's form."""

    kind: Kind
    text: str


class GrammarError(ValueError):
    """A grammar cannot be compiled, or no text meets it."""


class _Vocabulary:
    """A tokenizer as llguidance takes it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end_tokens: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_tokens[0]
        self.tokens = list(tokenizer.token_bytes)
        self.special_token_ids = sorted(tokenizer.special_tokens.union(end_tokens))

    def __call__(self, text: str | bytes) -> list[int]:
        from models.tokenizer import UnknownCharacter

        plain = text if isinstance(text, str) else text.decode("utf-8")
        try:
            return self._tokenizer.encode(plain)
        except UnknownCharacter as error:  # an exception would be a panic of the library
            return self._tokenizer.encode(plain[: error.position])


def vocabulary(tokenizer: Tokenizer, end_tokens: Iterable[int]) -> LLTokenizer:
    """The tokens of a tokenizer, of which some end a text."""
    from llguidance import LLTokenizer

    ends = sorted(end_tokens)
    return LLTokenizer(_Vocabulary(tokenizer, ends), eos_token=ends)  # type: ignore[arg-type]


def check(grammar: Grammar) -> None:
    """Compile a grammar for no model in particular; this may take for ever.

    Raises: GrammarError.
    """
    from llguidance import LLMatcher

    if message := LLMatcher.validate_grammar(_source(grammar), limits=_limits()):
        raise GrammarError(_line(message))


def compiled(grammar: Grammar, tokens: LLTokenizer) -> LLMatcher:
    """What follows a text in the grammar, token by token.

    Raises: GrammarError.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(tokens, _source(grammar), log_level=0, limits=_limits())
    if not matcher.is_error():
        matcher.compute_bitmask()  # finds out whether any token may come first
    if matcher.is_error():
        raise GrammarError(reason_of(matcher))
    return matcher


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(step_max_items=_MAX_STEP_ITEMS, max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)


def _source(grammar: Grammar) -> str:
    """The grammar as llguidance writes it."""
    from llguidance import LLMatcher, grammar_from

    if grammar.kind == "json":
        return LLMatcher.grammar_from_json_schema(grammar.text, defaults={"whitespace_pattern": JSON_SPACE})
    return grammar_from(grammar.kind, grammar.text)


def reason_of(matcher: LLMatcher) -> str:
    """Why a matcher has failed, in a line."""
    reason = _line(matcher.get_error())
    return "no text meets it" if reason.startswith("NoExtension") else reason


def _line(message: str) -> str:
    """A message of the library without its own state and its quotation of what was written for it."""
    for end in ("\n<state>", "<non-verbose/>", "\n   1 | start: /"):
        message = message.partition(end)[0]
    return " ".join(_PLACE.sub("", message).split())[:_MAX_REASON]


def as_json(value: object) -> str:
    """A schema or a list as JSON, its members in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
