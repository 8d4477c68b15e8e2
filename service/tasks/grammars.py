"""What a text must be, in the forms in which clients say it: OpenAI's `response_format`, and vLLM's.

A grammar is checked before the engine sees it, in a process that is ended when it takes too long. It knows no route.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Meta

from service.decoding.decoders import Decoders
from service.decoding.jobs import CheckGrammar
from service.errors import InvalidGrammar
from service.grammar import MAX_GRAMMAR_BYTES, Grammar, GrammarError, as_json
from service.schema import custom

_MAX_CHOICES = 4096
_NUM_REMEMBERED = 4096
_ANY_OBJECT = Grammar("json", '{"type":"object"}')
_TEXT = {"type": "string", "maxLength": MAX_GRAMMAR_BYTES}
_SCHEMA = {"anyOf": [{"type": "object"}, {"type": "boolean"}, _TEXT]}
_CHOICES = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": _MAX_CHOICES}


def _bounded(grammar: Grammar) -> Grammar:
    if len(grammar.text.encode("utf-8")) > MAX_GRAMMAR_BYTES:  # a lone surrogate is a ValueError
        raise ValueError
    return grammar


def _json(value: Any, *, is_lenient: bool = False) -> Grammar:
    """The grammar of a schema, which may be given as its text."""
    schema = msgspec.json.decode(value) if isinstance(value, str) else value
    if not isinstance(schema, dict | bool):
        raise ValueError
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    elif is_lenient:
        schema = schema | {"x-guidance": {"lenient": True}}
    return _bounded(Grammar("json", as_json(schema)))


def _regex(value: Any) -> Grammar:
    return _bounded(Grammar("regex", msgspec.convert(value, str)))


def _lark(value: Any) -> Grammar:
    return _bounded(Grammar("lark", msgspec.convert(value, str)))


def _choice(value: Any) -> Grammar:
    choices = msgspec.convert(value, list[str])
    if not 1 <= len(choices) <= _MAX_CHOICES:
        raise ValueError
    return _bounded(Grammar("choice", as_json(choices)))


def _response_format(value: Any) -> Grammar | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return _ANY_OBJECT
    named = value.get("json_schema") if kind == "json_schema" else None
    if not isinstance(named, dict) or "schema" not in named:
        raise ValueError
    return _json(named["schema"], is_lenient=named.get("strict") is False)


_STRUCTURES: Mapping[str, Callable[[Any], Grammar | None]] = {
    "json": _json,
    "regex": _regex,
    "choice": _choice,
    "grammar": _lark,
    "json_object": lambda value: _ANY_OBJECT if msgspec.convert(value, bool) else None,
}


def _structured_outputs(value: Any) -> Grammar | None:
    given = {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else {}
    if len(given) != 1 or not given.keys() <= _STRUCTURES.keys():
        raise ValueError
    ((name, each),) = given.items()
    return _STRUCTURES[name](each)


_BYTES = f"{MAX_GRAMMAR_BYTES // 1024} KiB"
RESPONSE_FORMAT = custom(
    "What the text must be: any JSON object, or JSON that meets a schema. Where `strict` is false, keywords of the "
    "schema that are not supported are ignored; otherwise they are an error.",
    _response_format,
    'an object whose type is "text", "json_object", or "json_schema" with a json_schema whose schema has up to '
    + _BYTES,
    {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {
                "type": "object",
                "required": ["schema"],
                "properties": {"name": {"type": "string"}, "schema": _SCHEMA, "strict": {"type": "boolean"}},
            },
        },
    },
)
GUIDED_JSON = custom(
    "A JSON schema that the text must meet.", _json, f"a JSON schema of up to {_BYTES}, or its text", _SCHEMA
)
GUIDED_REGEX = custom(
    "A regular expression that the whole text must match.", _regex, f"a regular expression of up to {_BYTES}", _TEXT
)
GUIDED_CHOICE = custom(
    "Texts of which the text must be one.", _choice, f"a list of 1 to {_MAX_CHOICES} texts, up to {_BYTES}", _CHOICES
)
GUIDED_GRAMMAR = custom(
    "A grammar in Lark's form that the text must follow; its rule `start` is the whole text.",
    _lark,
    f"a grammar in Lark's form of up to {_BYTES}",
    _TEXT,
)
STRUCTURED_OUTPUTS: Meta = custom(
    "What the text must be, by one member: the later form of the `guided_` parameters.",
    _structured_outputs,
    f"an object with one of {', '.join(_STRUCTURES)}, each as the parameter guided_ of its name",
    {
        "type": "object",
        "properties": {
            "json": _SCHEMA,
            "regex": _TEXT,
            "choice": _CHOICES,
            "grammar": _TEXT,
            "json_object": {"type": "boolean"},
        },
        "additionalProperties": False,
    },
)


class GrammarChecks:
    """Finds out whether grammars can be compiled, each once."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self._passed: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, given: tuple[str, Grammar] | None, caller: str) -> None:
        """Check the grammar that a parameter gives, if there is one, in the caller's turn.

        Raises: InvalidGrammar; Unavailable.
        """
        if given is None or given[1].kind == "choice" or given[1] == _ANY_OBJECT:  # these take milliseconds
            return
        parameter, grammar = given
        content = grammar.text.encode("utf-8")
        digest = hashlib.blake2b(content, digest_size=32, person=grammar.kind.encode()).digest()
        if digest not in self._passed:
            try:
                await self._decoders.run(caller, CheckGrammar(grammar.kind), [content])
            except GrammarError as error:
                raise InvalidGrammar(f"{parameter} cannot be met: {error}.", parameter=parameter) from error
            self._passed[digest] = None
            if len(self._passed) > _NUM_REMEMBERED:
                self._passed.popitem(last=False)
        self._passed.move_to_end(digest)
