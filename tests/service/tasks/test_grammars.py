"""What a text must be, as clients say it, and the check that no grammar outlasts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.decoding.decoders import Decoders
from service.errors import InvalidGrammar, InvalidParameter
from service.grammar import MAX_GRAMMAR_BYTES, Grammar
from service.schema import read
from service.settings import Settings
from service.tasks.grammars import GrammarChecks
from service.tasks.text_generation.schema import GenerateParameters
from service.telemetry.metrics import Metrics

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]}
AS_TEXT = json.dumps(SCHEMA, separators=(",", ":"))
# Compiling these 2 kB would take minutes.
ENDLESS = json.dumps({"allOf": [{"type": "string", "pattern": f".*{at}.*"} for at in range(50)]})


def named(schema: Any, **members: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **members}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, Grammar("json", '{"type":"object"}')),
        ({"response_format": named(SCHEMA)}, Grammar("json", AS_TEXT)),
        ({"response_format": named(SCHEMA, strict=True)}, Grammar("json", AS_TEXT)),
        ({"guided_json": SCHEMA}, Grammar("json", AS_TEXT)),
        ({"guided_json": json.dumps(SCHEMA)}, Grammar("json", AS_TEXT)),
        ({"guided_json": True}, Grammar("json", "{}")),
        ({"guided_regex": "a|b"}, Grammar("regex", "a|b")),
        ({"guided_choice": ["a", "\u00e9"]}, Grammar("choice", '["a","\u00e9"]')),
        ({"guided_grammar": 'start: "a"'}, Grammar("lark", 'start: "a"')),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, Grammar("json", AS_TEXT)),
        ({"structured_outputs": {"regex": "a|b"}}, Grammar("regex", "a|b")),
        ({"structured_outputs": {"choice": ["a"]}}, Grammar("choice", '["a"]')),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Grammar("lark", 'start: "a"')),
        ({"structured_outputs": {"json_object": True}}, Grammar("json", '{"type":"object"}')),
    ],
)
def test_each_form_says_the_same(given: dict[str, Any], expected: Grammar) -> None:
    assert read(GenerateParameters, given).grammar() == (next(iter(given)), expected)


@pytest.mark.parametrize("given", [{}, {"response_format": {"type": "text"}}, {"guided_json": None}])
def test_a_text_need_not_be_anything(given: dict[str, Any]) -> None:
    assert read(GenerateParameters, given).grammar() is None


@pytest.mark.parametrize(
    "given",
    [
        {"response_format": "json_object"},
        {"response_format": {"type": "json"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"response_format": named([1])},
        {"response_format": named("{")},
        {"guided_json": 3},
        {"guided_json": "no schema"},
        {"guided_json": {"const": "x" * MAX_GRAMMAR_BYTES}},
        {"guided_regex": 3},
        {"guided_regex": "\ud800"},
        {"guided_regex": "x" * (MAX_GRAMMAR_BYTES + 1)},
        {"guided_choice": []},
        {"guided_choice": "ab"},
        {"guided_choice": ["a", 3]},
        {"guided_choice": ["\ud800"]},
        {"guided_grammar": ["start"]},
        {"structured_outputs": {}},
        {"structured_outputs": {"xml": "a"}},
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        {"guided_regex": "a", "guided_choice": ["a"]},
    ],
    ids=lambda given: json.dumps(given)[:60],
)
def test_what_is_no_grammar_is_refused_by_the_name_of_its_parameter(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter) as error:
        read(GenerateParameters, given).grammar()

    assert error.value.parameter in given
    assert str(error.value.parameter) in error.value.message


def test_unsupported_keywords_are_ignored_only_where_strict_is_false() -> None:
    schema = SCHEMA | {"uniqueItems": True}

    async def scenario(checks: GrammarChecks) -> None:
        for strict in ({}, {"strict": True}):
            with pytest.raises(InvalidGrammar, match=r"response_format cannot be met: .*uniqueItems"):
                await checks.check(read(GenerateParameters, {"response_format": named(schema, **strict)}).grammar(), "")
        await checks.check(read(GenerateParameters, {"response_format": named(schema, strict=False)}).grammar(), "")

    run(scenario)


def run(scenario: Callable[[GrammarChecks], Awaitable[None]]) -> None:
    decoders = Decoders(Settings(), Metrics(CollectorRegistry()))

    async def whole() -> None:
        try:
            await scenario(GrammarChecks(decoders))
        finally:
            decoders.close()

    asyncio.run(whole())


def test_a_wrong_grammar_names_its_parameter_and_leaves_the_process_to_the_next() -> None:
    async def scenario(checks: GrammarChecks) -> None:
        for _ in range(2):
            with pytest.raises(InvalidGrammar, match=r"guided_regex cannot be met: .*unclosed group") as error:
                await checks.check(("guided_regex", Grammar("regex", "(a")), "")
            assert error.value.parameter == "guided_regex"
        await checks.check(("guided_regex", Grammar("regex", "a\U0001f642")), "")
        await checks.check(None, "")

    run(scenario)


@pytest.mark.slow
def test_a_grammar_that_would_compile_for_ever_is_refused() -> None:
    async def scenario(checks: GrammarChecks) -> None:
        with pytest.raises(InvalidGrammar, match="takes too long to compile"):
            await checks.check(("guided_json", Grammar("json", ENDLESS)), "")
        await checks.check(("guided_json", Grammar("json", AS_TEXT)), "")

    run(scenario)
