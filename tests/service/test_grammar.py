"""Grammars as llguidance compiles them: what they accept, and what is said of those that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from llguidance import LLTokenizer

from models.tokenizer import Tokenizer
from service.grammar import Grammar, GrammarError, as_json, check, compiled, vocabulary
from tests.fake_models import tokenizers

NOVELIST = Path(__file__).resolve().parents[2] / "models" / "repository" / "novelist" / "1" / "tokenizer.json"
PERSON = as_json(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@cache
def tokenizer(kind: str = "novelist") -> Tokenizer:
    contents: dict[str, Callable[[], bytes]] = {
        "novelist": NOVELIST.read_bytes,
        "sentence_piece": tokenizers.sentence_piece,
        "characters": lambda: tokenizers.character_level('abAB{}":, 0123456789.\\cnmeg'),
    }
    return Tokenizer(contents[kind]())


@cache
def tokens(kind: str = "novelist") -> LLTokenizer:
    return vocabulary(tokenizer(kind), [2 if kind == "sentence_piece" else 0])


def is_met(grammar: Grammar, text: str, kind: str = "novelist") -> bool:
    """Whether a text is accepted token by token, and may end there."""
    matcher = compiled(grammar, tokens(kind))
    known = tokenizer(kind)
    ids = [known.token_bytes.index(bytes([byte])) for byte in text.encode()]
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


@pytest.mark.parametrize("kind", ["novelist", "sentence_piece", "characters"])
@pytest.mark.parametrize(
    ("grammar", "met", "not_met"),
    [
        (Grammar("json", '{"type":"integer","minimum":3}'), ["3", "12"], ["2", '"3"', "3.5", " 3"]),
        (Grammar("json", "{}"), ["{}", '{"a":0}', '"abc"'], ["a", '"abc']),
        (Grammar("regex", "a+b"), ["ab", "aaab"], ["b", "abb", "aba"]),
        (Grammar("choice", '["abc","ab, c","\\""]'), ["abc", "ab, c", '"'], ["ab", "c", '\\"']),
        (Grammar("lark", 'start: pair+\npair: "a" ("b" | "c")'), ["ab", "acab"], ["a", "abc"]),
    ],
    ids=lambda value: value.kind if isinstance(value, Grammar) else "",
)
def test_each_kind_of_grammar_accepts_what_meets_it(
    grammar: Grammar, met: list[str], not_met: list[str], kind: str
) -> None:
    assert [text for text in met if not is_met(grammar, text, kind)] == []
    assert [text for text in not_met if is_met(grammar, text, kind)] == []


def test_between_the_parts_of_an_answer_in_json_there_is_one_space_at_most() -> None:
    grammar = Grammar("json", PERSON)

    assert is_met(grammar, '{"name":"A  B","age":3}')
    assert is_met(grammar, '{ "name": "A", "age": 3 }')
    assert not is_met(grammar, '{"name":  "A","age":3}')
    assert not is_met(grammar, '{"name":\n"A","age":3}')


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar("json", '{"type":"integer","minimum":5,"maximum":3}'), "minimum (5) is greater than maximum (3)"),
        (Grammar("json", '{"enum":[]}'), "Unsatisfiable"),
        (Grammar("json", '{"type":"array","uniqueItems":true}'), "uniqueItems"),
        (Grammar("json", '{"$ref":"#/nowhere"}'), "/nowhere"),
        (Grammar("json", '{"type":"strang"}'), "strang"),
        (Grammar("regex", "(a"), "unclosed group"),
        (Grammar("regex", "(?=a)b"), "look-around"),
        (Grammar("lark", "start: nothing"), "nothing"),
        (Grammar("lark", "no grammar"), "Expected"),
        (Grammar("lark", ""), "Empty grammar"),
    ],
    ids=lambda value: value.text if isinstance(value, Grammar) else "",
)
def test_what_is_wrong_with_a_grammar_is_said_in_a_line(grammar: Grammar, reason: str) -> None:
    for find_out in (check, lambda each: compiled(each, tokens())):
        with pytest.raises(GrammarError) as error:
            find_out(grammar)

        assert reason in str(error.value)
        assert "\n" not in str(error.value)
        assert "state>" not in str(error.value)


def test_a_grammar_that_no_text_meets_is_refused_with_the_model() -> None:
    with pytest.raises(GrammarError, match="no text meets it"):
        compiled(Grammar("regex", r"[^\s\S]"), tokens())


def test_a_model_without_the_characters_of_a_grammar_cannot_meet_it() -> None:
    grammar = Grammar("regex", "xyz")

    check(grammar)

    with pytest.raises(GrammarError, match="no text meets it"):
        compiled(grammar, tokens("characters"))
