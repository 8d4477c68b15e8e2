"""`generate` and `generate_stream`, against texts that NumPy has computed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.fake_models.text_generation import AttentionDecoder
from tests.service.protocols.open_inference.calls import assert_error
from tests.service.tasks.text_generation.texts import LETTERS, events, greedy, text_of

GENERATE = "/v2/models/tiny-transformer/generate"
STREAM = f"{GENERATE}_stream"
GREEDY = {"temperature": 0, "logit_bias": LETTERS}


def streamed(client: httpx.Client, body: dict[str, Any], path: str = STREAM) -> list[Any]:
    """The events of one stream."""
    with client.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        return [event for _, event in events(response)]


@pytest.mark.parametrize("path", [GENERATE, "/v2/models/tiny-transformer/versions/1/generate"])
@pytest.mark.parametrize("is_nested", [True, False])
def test_a_text_goes_on(
    text_generation_client: httpx.Client, transformer: AttentionDecoder, path: str, is_nested: bool
) -> None:
    asked = GREEDY | {"max_tokens": 9}
    body = {"text_input": "it was", "id": "x"} | ({"parameters": asked} if is_nested else asked)

    told = text_generation_client.post(path, json=body).json()

    expected = greedy(transformer, "it was", 9, dict.fromkeys(LETTERS, 100))
    assert told == {
        "id": "x",
        "model_name": "tiny-transformer",
        "model_version": "1",
        "text_output": text_of(expected),
        "details": {"finish_reason": "length", "generated_tokens": 9},
    }


def test_twenty_tokens_are_the_default(text_generation_client: httpx.Client) -> None:
    told = text_generation_client.post(GENERATE, json={"text_input": "a", "parameters": GREEDY}).json()

    assert told["details"]["generated_tokens"] == 20
    assert "id" not in told


def test_a_stream_is_the_same_text(text_generation_client: httpx.Client) -> None:
    body = {"text_input": "it was", "id": "x", "parameters": GREEDY | {"max_tokens": 12, "stream": True}}

    told = streamed(text_generation_client, body)

    del body["parameters"]["stream"]  # type: ignore[attr-defined]
    whole = text_generation_client.post(GENERATE, json=body).json()
    assert "".join(event["text_output"] for event in told) == whole["text_output"]
    assert [event["done"] for event in told] == [False] * (len(told) - 1) + [True]
    assert {(event["id"], event["model_name"], event["model_version"]) for event in told} == {
        ("x", "tiny-transformer", "1")
    }
    assert told[-1]["details"] == whole["details"]


def test_a_stop_string_ends_the_text(text_generation_client: httpx.Client) -> None:
    whole = text_generation_client.post(GENERATE, json={"text_input": "it", **GREEDY}).json()["text_output"]

    told = text_generation_client.post(GENERATE, json={"text_input": "it", **GREEDY, "stop": [whole[4]]}).json()

    assert told["text_output"] == whole[: whole.index(whole[4])]
    assert told["details"]["finish_reason"] == "stop"


def test_a_seed_repeats_the_text(text_generation_client: httpx.Client) -> None:
    body = {"text_input": "a", "parameters": {"seed": 5, "temperature": 1.5, "logit_bias": LETTERS}}

    texts = {text_generation_client.post(GENERATE, json=body).json()["text_output"] for _ in range(3)}

    assert len(texts) == 1


# What each parameter refuses: tests/service/test_schema.py. Here is what the routes add to that.
@pytest.mark.parametrize("path", [GENERATE, STREAM])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({}, "text_input is missing"),
        ({"text_input": "a", "parameters": 7}, "must be an object"),
        ({"text_input": "a", "parameters": {"heat": 1}}, "Unknown parameter 'heat'"),
        ({"text_input": "a", "heat": 1}, "Unknown parameter 'heat'"),
        ({"text_input": "a", "seed": 1, "parameters": {"seed": 1}}, "given twice"),
        ({"text_input": "a", "temperature": -1}, "temperature is -1"),
        ({"text_input": "a", "parameters": {"max_tokens": 1000}}, "context"),
        ({"text_input": "a" * 500}, "500 tokens"),
        ({"text_input": "a", "parameters": {"logit_bias": {"999": 1}}}, "999"),
    ],
)
def test_what_does_not_fit_is_refused(
    text_generation_client: httpx.Client, path: str, body: dict[str, Any], why: str
) -> None:
    assert_error(text_generation_client.post(path, json=body), 400, why)


def test_only_the_stream_streams(text_generation_client: httpx.Client) -> None:
    body = {"text_input": "a", "parameters": {"stream": True}}

    assert_error(text_generation_client.post(GENERATE, json=body), 400, "generate_stream")


@pytest.mark.parametrize("end", ["generate", "generate_stream"])
def test_other_models_are_refused(text_generation_client: httpx.Client, end: str) -> None:
    for model in ("tiny", "tiny-transformer.attention"):
        assert_error(
            text_generation_client.post(f"/v2/models/{model}/{end}", json={"text_input": "a"}), 400, "use infer"
        )
    assert_error(text_generation_client.post(f"/v2/models/nobody/{end}", json={"text_input": "a"}), 404, "'nobody'")
    assert_error(text_generation_client.post(f"/v2/models/tiny-transformer/{end}", content=b"["), 400, "JSON")


def test_an_error_during_a_stream_is_an_event(text_generation_client: httpx.Client) -> None:
    body = {"text_input": "a", "parameters": GREEDY | {"max_tokens": 120}}
    told: list[Any] = []
    for attempt in range(40):  # until a deadline passes between the first token and the last
        headers = {"x-request-timeout": f"{0.002 * 1.15**attempt:.6f}"}
        with text_generation_client.stream("POST", STREAM, json=body, headers=headers) as response:
            told = [event for _, event in events(response)] if response.status_code == 200 else []
        if told and "error" in told[-1]:
            break

    assert told[0]["model_name"] == "tiny-transformer"
    assert told[-1].keys() == {"error"}
    assert "deadline" in told[-1]["error"].lower()
