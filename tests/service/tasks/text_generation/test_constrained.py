"""Texts that are held to a grammar, over every route that generates text, of the real service."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from tests.service.http.calls import assert_problem
from tests.service.tasks.text_generation.texts import GENERATE, streamed

MODEL = "tiny-transformer"
SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["size", "kind"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}
ROUTES: dict[str, dict[str, Any]] = {
    GENERATE: {"prompt": "a"},
    "/v1/completions": {"model": MODEL, "prompt": "a"},
    "/v1/chat/completions": {"model": MODEL, "messages": [{"role": "user", "content": "a"}]},
    f"/v2/models/{MODEL}/generate": {"text_input": "a"},
}


def texts_of(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Each text of an answer, and why it ended."""
    if "text_output" in answer:
        return [(answer["text_output"], answer["details"]["finish_reason"])]
    if "results" in answer:
        return [(each["text"], each["finish_reason"]) for each in answer["results"]]
    return [
        (each["message"]["content"] if "message" in each else each["text"], each["finish_reason"])
        for each in answer["choices"]
    ]


def ask(client: httpx.Client, path: str, **members: Any) -> list[tuple[str, str]]:
    response = client.post(path, json={"max_tokens": 60, "seed": 3, **ROUTES[path], **members})
    assert response.status_code == 200, response.text
    return texts_of(response.json())


def is_animal(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"size", "kind"} and 0 <= value["size"] <= 99 and value["kind"] in ("cat", "dog")


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_holds_a_text_to_its_grammar(text_generation_client: httpx.Client, path: str) -> None:
    for members in ({"response_format": FORMAT}, {"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}):
        ((text, reason),) = ask(text_generation_client, path, **members)
        assert is_animal(text), text
        assert reason == "stop"
    assert ask(text_generation_client, path, guided_choice=["yes"]) == [("yes", "stop")]
    ((text, _),) = ask(text_generation_client, path, guided_regex="[a-c]{4}")
    assert re.fullmatch("[a-c]{4}", text)
    assert ask(text_generation_client, path, guided_grammar='start: "b" "c"') == [("bc", "stop")]
    assert ask(text_generation_client, path, guided_regex="a{50}", max_tokens=7) == [("a" * 7, "length")]


@pytest.mark.parametrize("path", [GENERATE, "/v1/completions", "/v1/chat/completions"])
def test_each_of_several_texts_is_held_to_the_grammar(text_generation_client: httpx.Client, path: str) -> None:
    texts = ask(text_generation_client, path, guided_regex="[a-h]{9}", n=6, temperature=2)

    assert all(re.fullmatch("[a-h]{9}", text) and reason == "stop" for text, reason in texts)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"guided_regex": "(a"}, "unclosed group"),
        ({"guided_json": {"type": "integer", "minimum": 4, "maximum": 3}}, "minimum (4) is greater than maximum (3)"),
        ({"guided_grammar": "start: nothing"}, "nothing"),
        ({"guided_regex": r"[^\s\S]"}, "no text meets it"),
    ],
)
def test_a_grammar_that_cannot_be_met_is_400_with_the_reason(
    text_generation_client: httpx.Client, path: str, members: dict[str, Any], reason: str
) -> None:
    response = text_generation_client.post(path, json=ROUTES[path] | members)

    assert response.status_code == 400
    assert reason in response.json().get("detail", response.text).replace('\\"', '"')


def test_a_stream_whose_grammar_cannot_be_met_is_refused_before_it_begins(text_generation_client: httpx.Client) -> None:
    for regex in ("(a", r"[^\s\S]"):
        response = text_generation_client.post(GENERATE, json={"prompt": "a", "stream": True, "guided_regex": regex})
        assert_problem(response, 400, "invalid_grammar")


def test_a_streamed_text_is_the_whole_one(text_generation_client: httpx.Client) -> None:
    body = {"prompt": "a", "max_tokens": 60, "seed": 8, "response_format": FORMAT}
    whole = text_generation_client.post(GENERATE, json=body).json()["results"][0]

    events = streamed(text_generation_client, body)

    assert "".join(event["text"] for name, event in events if not name) == whole["text"]
    assert [event["finish_reason"] for _, event in events if "finish_reason" in event] == ["stop"]


def test_a_stop_string_ends_a_text_within_its_grammar(text_generation_client: httpx.Client) -> None:
    assert ask(text_generation_client, GENERATE, guided_regex="abcdef", stop="cd") == [("ab", "stop")]
