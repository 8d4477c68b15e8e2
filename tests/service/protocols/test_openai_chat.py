"""OpenAI's chat completions, as OpenAI's own client reads them from the real service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.fake_models.text_generation import AttentionDecoder, RecurrentDecoder
from tests.servers import RunningService
from tests.service.tasks.text_generation.texts import LETTERS, greedy, logprobs_after, streamed, text_of, tokens_of

PATH = "/v1/chat/completions"
SPOKEN: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
]
WRITTEN = "System: Be brief.\nUser: Hi\nAssistant:"
GREEDY: dict[str, Any] = {
    "model": "tiny-transformer",
    "messages": SPOKEN,
    "temperature": 0,
    "max_tokens": 12,
    "logit_bias": LETTERS,
}


@pytest.fixture
def client(text_generation_service: RunningService) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the service of language models."""
    url = f"{text_generation_service.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def expected(transformer: AttentionDecoder) -> str:
    """What must follow the messages of `GREEDY`."""
    return text_of(greedy(transformer, WRITTEN, 12, LETTERS))


def test_a_conversation_is_answered(client: openai.OpenAI, expected: str) -> None:
    completion = client.chat.completions.create(**GREEDY)

    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.message.refusal) == ("assistant", expected, None)
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert (completion.object, completion.model) == ("chat.completion", "tiny-transformer")
    assert completion.id.startswith("chatcmpl-")
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (1 + len(WRITTEN), 12)
    assert completion.usage.prompt_tokens_details is not None


def test_the_template_of_the_model_writes_the_conversation(client: openai.OpenAI, recurrent: RecurrentDecoder) -> None:
    completion = client.chat.completions.create(**GREEDY | {"model": "tiny-recurrent"}, logprobs=True)

    prompt = [0, *tokens_of("[system]Be brief."), 0, *tokens_of("[user]Hi"), 0]
    bias = np.zeros(257)
    bias[[int(token) for token in LETTERS]] = 100
    first = int((recurrent.logits(np.array(prompt))[-1] + bias).argmax())
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(prompt)
    assert completion.choices[0].message.content is not None
    assert completion.choices[0].message.content[0] == text_of([first])
    with pytest.raises(openai.BadRequestError, match=r"No tools") as caught:
        client.chat.completions.create(
            model="tiny-recurrent", messages=[{"role": "tool", "content": "4", "tool_call_id": "1"}]
        )
    assert caught.value.param == "messages"


def test_a_stream_has_the_role_first_and_the_reason_last(client: openai.OpenAI, expected: str) -> None:
    chunks = list(client.chat.completions.create(**GREEDY, stream=True))

    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == expected
    assert [delta.role for delta in deltas[1:]] == [None] * (len(deltas) - 1)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert deltas[-1].content is None
    assert {(chunk.object, chunk.usage) for chunk in chunks} == {("chat.completion.chunk", None)}
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_tells_its_usage_if_requested(client: openai.OpenAI, text_generation_client: httpx.Client) -> None:
    *chunks, last = client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 12

    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    *told, end, done = [data for _, data in streamed(text_generation_client, GREEDY | options, PATH)]
    assert [data["usage"]["completion_tokens"] for data in told][-1] == end["usage"]["completion_tokens"] == 12
    assert done == "[DONE]"
    assert all(chunk.usage is None for chunk in chunks)


def test_several_answers_are_drawn_by_their_seed(client: openai.OpenAI) -> None:
    body = GREEDY | {"temperature": 2, "max_tokens": 40, "seed": 5, "n": 3, "logit_bias": {}}

    texts = [choice.message.content for choice in client.chat.completions.create(**body).choices]
    streamed_texts = [""] * 3
    for chunk in client.chat.completions.create(**body, stream=True):
        streamed_texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""

    assert texts == streamed_texts
    assert len(set(texts)) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_told_with_the_bytes(
    client: openai.OpenAI, transformer: AttentionDecoder, expected: str, stream: bool
) -> None:
    body = GREEDY | {"logprobs": True, "top_logprobs": 2}
    if stream:
        told = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**body, stream=True)]
        rows = [row for logprobs in told if logprobs is not None for row in logprobs.content or []]
    else:
        logprobs = client.chat.completions.create(**body).choices[0].logprobs
        assert logprobs is not None
        rows = list(logprobs.content or [])

    assert [row.token for row in rows] == list(expected)
    tokens = [0, *tokens_of(WRITTEN)]
    for row in rows:
        wanted = logprobs_after(transformer, tokens)
        assert bytes(row.bytes or []).decode() == row.token
        assert row.logprob == pytest.approx(wanted[ord(row.token) + 1], abs=1e-3)
        assert [top.logprob for top in row.top_logprobs] == pytest.approx(sorted(wanted)[:-3:-1], abs=1e-3)
        tokens.append(ord(row.token) + 1)


def test_a_model_without_turns_stops_where_it_would_speak_for_others(client: openai.OpenAI) -> None:
    bias = {str(ord(letter) + 1): 100 for letter in "\nUser:"}
    completion = client.chat.completions.create(**GREEDY | {"logit_bias": bias, "temperature": 2, "n": 64, "seed": 1})

    assert all("\nUser:" not in (choice.message.content or "") for choice in completion.choices)
    stop = client.chat.completions.create(**GREEDY, stop=["a", "b", "c", "d", "e", "f", "g", "h", " "])
    assert (stop.choices[0].message.content, stop.choices[0].finish_reason) == ("", "stop")


def test_an_answer_may_take_what_the_context_has_room_for(client: openai.OpenAI) -> None:
    body = {name: value for name, value in GREEDY.items() if name != "max_tokens"}
    usage = client.chat.completions.create(**body).usage
    limited = client.chat.completions.create(**body, max_completion_tokens=3).usage

    assert usage is not None
    assert usage.total_tokens == 128
    assert limited is not None
    assert limited.completion_tokens == 3


def test_what_changes_no_answer_is_ignored(client: openai.OpenAI, expected: str) -> None:
    harmless: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "metadata": {"a": "b"},
        "store": False,
        "response_format": {"type": "text"},
        "user": "u",
    }

    assert client.chat.completions.create(**GREEDY, **harmless).choices[0].message.content == expected


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"messages": []}, "messages", "1 to 1024 messages"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages", "system, developer, user"),
        ({"messages": [{"role": "user"}]}, "messages", "content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages",
            "type text",
        ),
        ({"messages": [{"role": "user", "content": "a" * 200}]}, "prompt", "128 tokens"),
        ({"message": []}, "message", "did you mean messages?"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs is true"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "not supported"),
        ({"model": "tiny"}, None, "image-classification"),
        ({"max_completion_tokens": 127}, "max_tokens", "128 tokens"),
        ({"n": 65}, "n", "1 to 64"),
    ],
)
def test_a_bad_request_has_openais_error(
    client: openai.OpenAI, body: dict[str, Any], param: str | None, told: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**GREEDY, extra_body=body)

    assert caught.value.param == param
    assert told in caught.value.message


def test_a_lone_surrogate_is_refused(text_generation_client: httpx.Client) -> None:
    content = b'{"model": "tiny-transformer", "messages": [{"role": "user", "content": "\\ud800"}]}'
    response = text_generation_client.post(PATH, content=content, headers={"content-type": "application/json"})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages"
