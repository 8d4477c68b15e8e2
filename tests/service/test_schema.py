"""Parameters as structs: parsing, error messages and documentation."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, inspect

from service.errors import InvalidParameter
from service.protocols.open_inference.schema import (
    IndexParameters,
    LoadParameters,
    TextInput,
    TextParameters,
    UnloadParameters,
)
from service.protocols.openai.schema import CompletionParameters, StreamOptions
from service.schema import Field, Parameters, fields_of, from_text, parse_value, properties, read, required
from service.tasks.registry import all_tasks
from service.tasks.text_generation.schema import GenerateParameters, TokensParameters


class Sample(Parameters):
    text: Annotated[str, Meta(description="A text.")]
    count: Annotated[int, Meta(ge=1, le=9, description="A count.")] = 3
    share: Annotated[float, Meta(gt=0, le=1, description="A share.")] | None = None
    warm: Annotated[bool, Meta(description="A flag.")] = False
    form: Annotated[Literal["json", "png", "zip"], Meta(description="A form.")] | None = None


ALL: dict[str, type[Parameters]] = {
    **{
        f"{task.name} {route.method} {route.verb}": route.parameters
        for task in all_tasks().values()
        for route in task.routes
    },
    "completions": CompletionParameters,
    "V2 generate": TextInput,
    "V2 generate parameters": TextParameters,
    "V2 index": IndexParameters,
    "V2 load": LoadParameters,
    "V2 unload": UnloadParameters,
}


def refused(kind: type[Parameters], **members: Any) -> str:
    """The message of a refusal."""
    with pytest.raises(InvalidParameter) as caught:
        read(kind, members)
    message = caught.value.message
    assert message.endswith(".")
    assert message.isascii()
    assert len(message) < 400
    return message


def test_absent_and_null_members_have_their_defaults() -> None:
    assert read(Sample, {"text": "a"}) == Sample(text="a", count=3, share=None, warm=False, form=None)
    assert read(Sample, {"text": "a", "count": None, "warm": None}) == Sample(text="a")


def test_an_unknown_member_is_named_with_the_known_ones() -> None:
    assert refused(Sample, text="a", cuont=1) == (
        "Unknown parameter 'cuont'; did you mean count? Known are text, count, share, warm, form."
    )
    assert "; known are" in refused(Sample, text="a", zzzzzz=1)
    assert "'a\\r\\nb'" in refused(Sample, **{"a\r\nb": 1})


def test_a_missing_member_is_named() -> None:
    assert refused(Sample, count=1) == "text is missing; it must be a text of Unicode characters."
    assert required(Sample) == ["text"]


def test_the_error_has_the_name_of_the_parameter() -> None:
    with pytest.raises(InvalidParameter) as caught:
        read(Sample, {"text": "a", "count": 10})

    assert caught.value.parameter == "count"


@pytest.mark.parametrize(
    ("kind", "name", "value", "converted"),
    [
        (Sample, "count", 1, 1),
        (Sample, "count", 9, 9),
        (Sample, "share", 1, 1.0),
        (GenerateParameters, "temperature", 0, 0.0),
        (GenerateParameters, "stop", "abc", ("abc",)),
        (GenerateParameters, "stop", ["a", "b"], ("a", "b")),
        (GenerateParameters, "stop", [], ()),
        (GenerateParameters, "logit_bias", {"3": -100, "12": 1.5}, {3: -100.0, 12: 1.5}),
        (TokensParameters, "tokens", [0, 2**31 - 1], [0, 2**31 - 1]),
        (TokensParameters, "tokens", [], []),
        (CompletionParameters, "prompt", "", [""]),
        (CompletionParameters, "prompt", ["a", "b"], ["a", "b"]),
        (CompletionParameters, "prompt", [1, 2, 3], [[1, 2, 3]]),
        (CompletionParameters, "prompt", [[1], [2, 0]], [[1], [2, 0]]),
        (CompletionParameters, "stream_options", {}, StreamOptions(is_given=True)),
        (
            CompletionParameters,
            "stream_options",
            {"include_usage": True, "continuous_usage_stats": None, "include_obfuscation": False},
            StreamOptions(include_usage=True, is_given=True),
        ),
    ],
)
def test_a_valid_value_is_converted(kind: type[Parameters], name: str, value: Any, converted: Any) -> None:
    found = parse_value(fields_of(kind)[name], value)

    assert found == converted
    assert type(found) is type(converted)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (Sample, "count", 0, "count is 0; it must be a whole number from 1 to 9."),
        (Sample, "count", 10, "count is 10;"),
        (Sample, "count", 2.0, "count is 2.0;"),
        (Sample, "count", True, "count is true;"),
        (Sample, "count", "2", "count is '2';"),
        (Sample, "count", 2**80, "count is 12089"),
        (Sample, "share", 0, "share is 0; it must be a number above 0 up to 1."),
        (Sample, "share", float("inf"), "share is inf;"),
        (Sample, "share", float("nan"), "share is nan;"),
        (Sample, "share", False, "share is false;"),
        (Sample, "share", 10**400, "..."),
        (GenerateParameters, "temperature", 2.001, "temperature is 2.001; it must be a number from 0 to 2."),
        (Sample, "warm", 1, "warm is 1; it must be true or false."),
        (Sample, "warm", "true", "warm is 'true';"),
        (Sample, "form", "gif", "form is 'gif'; it must be json, png or zip."),
        (Sample, "form", ["json"], "form is a list of 1;"),
        (Sample, "text", ["a"], "text is a list of 1;"),
        (Sample, "text", "\ud800", "text is '\\ud800'; it must be a text of Unicode characters."),
        (Sample, "text", 10**100, "..."),
        (GenerateParameters, "stop", "", "stop is '';"),
        (GenerateParameters, "stop", "a" * 257, "of 1 to 256 characters or a list of up to 16."),
        (GenerateParameters, "stop", ["a"] * 17, "stop is a list of 17;"),
        (GenerateParameters, "stop", ["a", 1], "stop is a list of 2;"),
        (GenerateParameters, "stop", ["\ud800"], "stop is a list of 1;"),
        (CompletionParameters, "stop", ["a"] * 17, "a list of up to 16."),
        (CompletionParameters, "prompt", [[]], "prompt is a list of 1;"),
        (CompletionParameters, "stop_token_ids", [-1], "token ids"),
        (TokensParameters, "tokens", [1] * (2**16 + 1), "up to 65536 token ids"),
        (TokensParameters, "tokens", [-1], "from 0"),
        (TokensParameters, "tokens", [True], "token ids"),
        (TokensParameters, "tokens", [2**31], "token ids"),
        (GenerateParameters, "logit_bias", {"a": 1}, "logit_bias is an object of 1;"),
        (GenerateParameters, "logit_bias", {"-1": 1}, "token ids"),
        (GenerateParameters, "logit_bias", {"1": 100.5}, "from -100 to 100"),
        (GenerateParameters, "logit_bias", {"1": None}, "from -100 to 100"),
        (GenerateParameters, "logit_bias", {str(n): 1 for n in range(1025)}, "up to 1024"),
        (CompletionParameters, "prompt", [], "prompt is a list of 0;"),
        (CompletionParameters, "prompt", ["a", 1], "token ids"),
        (CompletionParameters, "prompt", ["a"] * 65, "up to 64"),
        (CompletionParameters, "prompt", {"a": 1}, "prompt is an object of 1;"),
        (CompletionParameters, "prompt", ["\ud800"], "prompt is a list of 1;"),
        (CompletionParameters, "stream_options", {"include_use": True}, "include_usage"),
        (CompletionParameters, "stream_options", {"include_usage": 1}, "true or false"),
    ],
)
def test_an_invalid_value_is_quoted(kind: type[Parameters], name: str, value: Any, message: str) -> None:
    assert message in refused(kind, **{name: value})


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (
            {"count": "5", "share": "0.5", "warm": "1", "text": "7"},
            {"count": 5, "share": 0.5, "warm": True, "text": "7"},
        ),
        ({"share": ".5e0", "warm": "false"}, {"share": 0.5, "warm": False}),
        ({"count": "-0"}, {"count": 0}),
        *(({"count": text}, {"count": text}) for text in ("", "1.0", "1e1", " 3", "+3", "1_0", "\u0663", "9" * 5000)),
        *(({"share": text}, {"share": text}) for text in ("nan", "inf", "1_0", "--1", "1e9999")),
        *(({"warm": text}, {"warm": text}) for text in ("yes", "True", "")),
        ({"other": "1"}, {"other": "1"}),
    ],
)
def test_a_query_is_converted_and_invalid_values_stay(texts: dict[str, str], values: dict[str, Any]) -> None:
    assert from_text(Sample, texts) == values


def bad_values(field: Field) -> list[Any]:
    """Invalid values for a parameter: out of range or of another type."""
    kind, is_custom = inspect.type_info(field.type), False
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        is_custom |= isinstance(kind, inspect.Metadata) and "parse" in (kind.extra or {})
        kind = kind.type if isinstance(kind, inspect.Metadata) else kind.types[0]
    values: list[Any] = [{"x": {}}]
    if is_custom:
        return values
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        low, high = (kind.ge if kind.ge is not None else kind.gt), kind.le
        assert low is not None
        assert high is not None
        beyond = [low - 1, high + 1] + ([low] if kind.gt is not None else [])
        values += [True, "1", [1], *beyond] + ([low + 0.5] if isinstance(kind, inspect.IntType) else [])
    elif isinstance(kind, inspect.BoolType):
        values += [0, "true", []]
    elif isinstance(kind, inspect.StrType | inspect.LiteralType):
        values += [1, True, "\ud800"]
    return values


@pytest.mark.parametrize("route", ALL)
def test_every_parameter_of_every_route_refuses_invalid_values(route: str) -> None:
    kind = ALL[route]
    for name, field in fields_of(kind).items():
        # Any object may be a JSON schema; whether it is one is seen where it is compiled.
        for value in bad_values(field) if name != "guided_json" else [7]:
            with pytest.raises(InvalidParameter) as caught:
                read(kind, {name: value})
            assert caught.value.parameter == name
            assert caught.value.message.startswith(f"{name} is ")
            assert caught.value.message.endswith(f"; it must be {field.valid}.")


@pytest.mark.parametrize("route", ALL)
def test_every_parameter_of_every_route_is_described_and_takes_its_own_default(route: str) -> None:
    kind = ALL[route]
    for name, schema in properties(kind).items():
        assert schema["description"].strip().endswith((".", ",")), name
        assert json.dumps(schema)
        default = fields_of(kind)[name].default
        if isinstance(default, str | int | float) and name != "stream_options":
            assert parse_value(fields_of(kind)[name], default) == default


@pytest.mark.parametrize("route", ALL)
@given(texts=st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=4))
def test_no_query_breaks_the_reader(route: str, texts: dict[str, str]) -> None:
    kind, message = ALL[route], ""
    try:
        read(kind, from_text(kind, texts))
    except InvalidParameter as error:
        message = error.message

    assert message.endswith(".") or set(texts) <= set(fields_of(kind))
