"""Members of a JSON body: each kind of value, its edges, and what a caller is told."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import InvalidParameter
from service.tasks.parameters import (
    Biases,
    Flag,
    Number,
    Parameter,
    Text,
    Texts,
    TokenIds,
    Whole,
    read_parameters,
)
from service.tasks.text_generation.parameters import GENERATE, NEXT_TOKEN, OPENAI, TEXT, TOKENS, Prompts, StreamOptions

KNOWN: dict[str, Parameter] = {
    "text": Text(about="A text.", required=True),
    "count": Whole(low=1, high=9, default=3, about="A count."),
    "share": Number(low=0, high=1, above=True, about="A share."),
    "warm": Flag(default=False, about="A flag."),
}


def message(known: dict[str, Parameter], **members: Any) -> str:
    """What a caller is told."""
    with pytest.raises(InvalidParameter) as caught:
        read_parameters(members, known)
    assert caught.value.message.endswith(".")
    return caught.value.message


def test_absent_and_null_members_have_their_defaults() -> None:
    expected = {"text": "a", "count": 3, "share": None, "warm": False}

    assert read_parameters({"text": "a"}, KNOWN) == expected
    assert read_parameters({"text": "a", "count": None, "warm": None}, KNOWN) == expected


def test_an_unknown_member_is_named_with_the_known_ones() -> None:
    told = message(KNOWN, text="a", cuont=1)

    assert "'cuont'" in told
    assert "text, count, share, warm" in told


def test_a_missing_member_is_named() -> None:
    assert message(KNOWN, count=1).startswith("text is missing; it must be a text")


def test_the_member_at_fault_is_known_to_the_error() -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_parameters({"text": "a", "count": 10}, KNOWN)

    assert caught.value.parameter == "count"


@pytest.mark.parametrize(
    ("parameter", "value", "converted"),
    [
        (Whole(low=1, high=9, about=""), 1, 1),
        (Whole(low=1, high=9, about=""), 9, 9),
        (Number(low=0, high=2, about=""), 0, 0.0),
        (Number(low=0, high=2, about=""), 2.0, 2.0),
        (Number(low=0, high=2, about=""), -0.0, 0.0),
        (Texts(most=2, most_characters=3, about=""), "abc", ("abc",)),
        (Texts(most=2, most_characters=3, about=""), ["a", "b"], ("a", "b")),
        (Texts(most=2, most_characters=3, about=""), [], ()),
        (TokenIds(most=2, about=""), [0, 2**31 - 1], [0, 2**31 - 1]),
        (TokenIds(most=2, about=""), [], []),
        (Biases(most=2, largest=100, about=""), {"3": -100, "12": 1.5}, {3: -100.0, 12: 1.5}),
        (Prompts(most=2, about=""), "", [""]),
        (Prompts(most=2, about=""), ["a", "b"], ["a", "b"]),
        (Prompts(most=2, about=""), [1, 2, 3], [[1, 2, 3]]),
        (Prompts(most=2, about=""), [[1], []], [[1], []]),
        (StreamOptions(about=""), {}, False),
        (StreamOptions(about=""), {"include_usage": True}, True),
    ],
)
def test_a_value_that_fits_is_converted(parameter: Parameter, value: Any, converted: Any) -> None:
    found = parameter.read("name", value)

    assert found == converted
    assert type(found) is type(converted)


@pytest.mark.parametrize(
    ("parameter", "value", "told"),
    [
        (Whole(low=1, high=9, about=""), 0, "name is 0; it must be a whole number from 1 to 9."),
        (Whole(low=1, high=9, about=""), 10, "name is 10;"),
        (Whole(low=1, high=9, about=""), 2.0, "name is 2.0;"),
        (Whole(low=1, high=9, about=""), True, "name is true;"),
        (Whole(low=1, high=9, about=""), "2", "name is '2';"),
        (Number(low=0, high=2, about=""), 2.001, "name is 2.001; it must be a number from 0 to 2."),
        (Number(low=0, high=2, about=""), float("inf"), "name is inf;"),
        (Number(low=0, high=2, about=""), False, "name is false;"),
        (Number(low=0, high=1, above=True, about=""), 0, "name is 0; it must be a number above 0 up to 1."),
        (Flag(about=""), 1, "name is 1; it must be true or false."),
        (Flag(about=""), "true", "name is 'true';"),
        (Text(about=""), ["a"], "name is a list of 1;"),
        (Text(about=""), "\ud800", "name is '\\ud800'; it must be a text of Unicode characters."),
        (Texts(most=2, most_characters=3, about=""), "", "name is '';"),
        (Texts(most=2, most_characters=3, about=""), "abcd", "of 1 to 3 characters or a list of up to 2."),
        (Texts(most=2, most_characters=3, about=""), ["a"] * 3, "name is a list of 3;"),
        (Texts(most=2, most_characters=3, about=""), ["a", 1], "name is a list of 2;"),
        (TokenIds(most=2, about=""), [1, 2, 3], "up to 2 token ids"),
        (TokenIds(most=2, about=""), [-1], "from 0 on"),
        (TokenIds(most=2, about=""), [True], "token ids"),
        (TokenIds(most=2, about=""), [2**31], "token ids"),
        (Biases(most=2, largest=100, about=""), {"a": 1}, "name is an object of 1;"),
        (Biases(most=2, largest=100, about=""), {"-1": 1}, "token ids"),
        (Biases(most=2, largest=100, about=""), {"1": 100.5}, "from -100 to 100"),
        (Biases(most=2, largest=100, about=""), {"1": None}, "from -100 to 100"),
        (Biases(most=1, largest=100, about=""), {"1": 1, "2": 1}, "up to 1"),
        (Prompts(most=2, about=""), [], "name is a list of 0;"),
        (Prompts(most=2, about=""), ["a", 1], "token ids"),
        (Prompts(most=2, about=""), ["a", "b", "c"], "up to 2"),
        (Prompts(most=2, about=""), {"a": 1}, "name is an object of 1;"),
        (StreamOptions(about=""), {"include_use": True}, "include_usage"),
        (StreamOptions(about=""), {"include_usage": 1}, "true or false"),
        (Text(about=""), 10**100, "..."),
    ],
)
def test_a_value_that_does_not_fit_is_quoted(parameter: Parameter, value: Any, told: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parameter.read("name", value)

    assert told in caught.value.message
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("known", [GENERATE, NEXT_TOKEN, OPENAI, TEXT, TOKENS])
def test_every_parameter_is_described_and_takes_its_own_default(known: dict[str, Parameter]) -> None:
    for name, parameter in known.items():
        described = parameter.described()
        assert described["description"].endswith("."), name
        assert parameter.wanted
        if isinstance(parameter.default, int | float):
            assert parameter.accepts(parameter.default) or isinstance(parameter, StreamOptions), name
