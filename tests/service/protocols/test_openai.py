"""OpenAI's wire format, as OpenAI's own client reads it from the real service."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.fake_models.text_generation import AttentionDecoder
from tests.servers import RunningService
from tests.service.tasks.text_generation.texts import (
    LETTERS,
    broken_off,
    greedy,
    logprobs_after,
    streamed,
    text_of,
    tokens_of,
)

PATH = "/v1/completions"
MODEL = "tiny-transformer"
GREEDY: dict[str, Any] = {"model": MODEL, "prompt": "abc", "temperature": 0, "max_tokens": 12, "logit_bias": LETTERS}


@pytest.fixture
def client(text_generation_service: RunningService) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the service of language models."""
    with openai.OpenAI(
        base_url=f"{text_generation_service.url}/v1", api_key="none", max_retries=0, timeout=30
    ) as client:
        yield client


@pytest.fixture
def expected(transformer: AttentionDecoder) -> str:
    """What must follow the prompt of `GREEDY`."""
    return text_of(greedy(transformer, "abc", 12, LETTERS))


def test_a_prompt_is_completed(client: openai.OpenAI, expected: str) -> None:
    completion = client.completions.create(**GREEDY)

    (choice,) = completion.choices
    assert (choice.index, choice.text, choice.finish_reason, choice.logprobs) == (0, expected, "length", None)
    assert completion.id.startswith("cmpl-")
    assert completion.object == "text_completion"
    assert completion.model == MODEL
    assert completion.created > 1_700_000_000
    assert completion.system_fingerprint is not None
    assert completion.usage is not None
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 12, 16)


def test_the_wire_format_has_openais_members(text_generation_client: httpx.Client) -> None:
    answer = text_generation_client.post(PATH, json=GREEDY).json()

    assert answer.keys() == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert answer["choices"][0].keys() == {"index", "text", "logprobs", "finish_reason"}
    assert answer["usage"].keys() >= {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_sixteen_tokens_are_the_default(client: openai.OpenAI) -> None:
    completion = client.completions.create(model=f"{MODEL}@1", prompt="abc", logit_bias=LETTERS)

    assert len(completion.choices[0].text) == 16
    assert completion.model == f"{MODEL}@1"


def test_a_stream_is_the_whole_text(client: openai.OpenAI, expected: str) -> None:
    chunks = list(client.completions.create(**GREEDY, stream=True))

    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_its_usage_if_requested(client: openai.OpenAI, text_generation_client: httpx.Client) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}}
    *chunks, last = client.completions.create(**GREEDY, **options, stream=True)

    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (4, 12)
    assert all(chunk.usage is None for chunk in chunks)
    told = [data for _, data in streamed(text_generation_client, GREEDY | options, PATH)]
    assert all("usage" in data for data in told[:-1])
    assert told[-1] == "[DONE]"


def test_a_stream_ends_with_done_and_has_no_named_events(text_generation_client: httpx.Client) -> None:
    told = streamed(text_generation_client, GREEDY, PATH)

    assert {name for name, _ in told} == {""}
    assert told[-1][1] == "[DONE]"
    assert all("usage" not in data for _, data in told[:-1])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, GREEDY | {"stream": True}),
        (f"/v1/models/{MODEL}/generate", {"prompt": "abc", "max_tokens": 3, "stream": True}),
        (f"/v2/models/{MODEL}/generate_stream", {"text_input": "abc", "max_tokens": 3}),
    ],
)
def test_a_stream_over_http_1_0_has_no_chunks_and_ends_with_the_connection(
    text_generation_service: RunningService, path: str, body: dict[str, Any]
) -> None:
    address, content = httpx.URL(text_generation_service.url), json.dumps(body).encode()
    head = f"POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(head.encode() + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    head, _, events = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK")
    assert "transfer-encoding" not in head
    assert "\r\nconnection: close" in head
    assert all(line == "" or line.startswith(("data: ", "event: ")) for line in events.split("\n"))
    assert events.endswith("\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_have_several_answers_each(
    client: openai.OpenAI, transformer: AttentionDecoder, stream: bool
) -> None:
    prompts = ["abc", "", "gg"]
    body = GREEDY | {"prompt": prompts, "n": 2}

    texts = [""] * 6
    if stream:
        for chunk in client.completions.create(**body, stream=True):
            (choice,) = chunk.choices
            texts[choice.index] += choice.text
    else:
        completion = client.completions.create(**body)
        assert [choice.index for choice in completion.choices] == list(range(6))
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == 4 + 1 + 3
        assert completion.usage.completion_tokens == 72
        texts = [choice.text for choice in completion.choices]

    expected = [text_of(greedy(transformer, prompt, 12, LETTERS)) for prompt in prompts]
    assert texts == [text for text in expected for _ in range(2)]


def test_prompts_may_be_tokens(client: openai.OpenAI, expected: str) -> None:
    tokens = tokens_of("abc")

    for prompt in (tokens, [0, *tokens]):
        assert client.completions.create(**GREEDY | {"prompt": prompt}).choices[0].text == expected
    several = client.completions.create(**GREEDY | {"prompt": [tokens, tokens_of("abd")]})
    assert several.choices[0].text == expected
    assert len(several.choices) == 2


def test_no_prompt_begins_a_text(client: openai.OpenAI, text_generation_client: httpx.Client) -> None:
    body = {name: value for name, value in GREEDY.items() if name != "prompt"}

    text = text_generation_client.post(PATH, json=body).json()["choices"][0]["text"]
    assert text == client.completions.create(**body, prompt="").choices[0].text


def test_answers_are_drawn_by_their_seed(client: openai.OpenAI) -> None:
    body = GREEDY | {"temperature": 2, "max_tokens": 60, "seed": -7, "n": 3}

    first, second = (client.completions.create(**body) for _ in range(2))

    assert [choice.text for choice in first.choices] == [choice.text for choice in second.choices]
    assert len({choice.text for choice in first.choices}) == 3
    assert first.choices[0].text == client.completions.create(**body | {"n": 1}).choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_ends_before_a_stop(client: openai.OpenAI, expected: str, stream: bool) -> None:
    stop = expected[5:7]
    body = GREEDY | {"stop": ["xyz", stop]}

    if stream:
        chunks = list(client.completions.create(**body, stream=True))
        text, reason = "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason
    else:
        choice = client.completions.create(**body).choices[0]
        text, reason = choice.text, choice.finish_reason

    assert (text, reason) == (expected[: expected.index(stop)], "stop")


def test_log_probabilities_are_in_openais_lists(
    client: openai.OpenAI, transformer: AttentionDecoder, expected: str
) -> None:
    logprobs = client.completions.create(**GREEDY, logprobs=2).choices[0].logprobs

    assert logprobs is not None
    assert logprobs.tokens == list(expected)
    assert logprobs.text_offset == list(range(12))
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    tokens = [0, *tokens_of("abc")]
    for character, logprob, top in zip(expected, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        wanted = logprobs_after(transformer, tokens)
        token = ord(character) + 1
        assert logprob == pytest.approx(wanted[token], abs=1e-3)
        assert top[character] == logprob
        assert max(top.values()) == pytest.approx(wanted.max(), abs=1e-3)
        assert len(top) in (2, 3)
        tokens.append(token)


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_has_the_prompts_log_probabilities(
    text_generation_client: httpx.Client, transformer: AttentionDecoder, expected: str, stream: bool
) -> None:
    body = GREEDY | {"echo": True, "logprobs": 1, "max_tokens": 3}
    if stream:
        choices = [data["choices"][0] for _, data in streamed(text_generation_client, body, PATH)[:-1]]
    else:
        choices = text_generation_client.post(PATH, json=body).json()["choices"]

    assert "".join(choice["text"] for choice in choices) == "abc" + expected[:3]
    joined = {name: [v for c in choices for v in c["logprobs"][name]] for name in choices[0]["logprobs"]}
    assert joined["tokens"] == list("abc" + expected[:3])
    assert joined["text_offset"] == list(range(6))
    assert joined["token_logprobs"][0] is None
    assert joined["top_logprobs"][0] is None
    tokens = [0, *tokens_of("abc" + expected[:3])]
    for place in range(1, 6):
        wanted = logprobs_after(transformer, tokens[: place + 1])
        assert joined["token_logprobs"][place] == pytest.approx(wanted[tokens[place + 1]], abs=1e-3)
        assert max(joined["top_logprobs"][place].values()) == pytest.approx(wanted.max(), abs=1e-3)


def test_a_prompt_can_be_scored_without_an_answer(client: openai.OpenAI, transformer: AttentionDecoder) -> None:
    text = "It was the best"
    completion = client.completions.create(model=MODEL, prompt=text, max_tokens=0, echo=True, logprobs=0)

    (choice,) = completion.choices
    assert (choice.text, choice.finish_reason) == (text, "length")
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.top_logprobs is None
    tokens = [0, *tokens_of(text)]
    wanted = [logprobs_after(transformer, tokens[:end])[tokens[end]] for end in range(2, len(tokens))]
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(wanted, abs=1e-3)


def test_a_part_of_a_character_is_named_by_its_bytes(client: openai.OpenAI, transformer: AttentionDecoder) -> None:
    tokens = greedy(transformer, "abc", 40)
    assert any(token > 128 for token in tokens)

    choice = client.completions.create(**GREEDY | {"max_tokens": 40, "logit_bias": {}}, logprobs=1).choices[0]

    assert choice.logprobs is not None
    assert choice.logprobs.tokens == [
        chr(token - 1) if token <= 128 else f"bytes:\\x{token - 1:02x}" for token in tokens
    ]


def test_our_own_parameters_are_taken_too(client: openai.OpenAI, expected: str) -> None:
    extra = {"top_k": 1, "min_p": 0.5, "repetition_penalty": 1.0}

    completion = client.completions.create(**GREEDY | {"temperature": 2}, extra_body=extra, user="somebody")

    assert completion.choices[0].text == expected


@pytest.mark.parametrize("model", ["nothing", f"{MODEL}@9", ""])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model=model, prompt="abc")

    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(model or "nothing")


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"model": "tiny"}, None, "image-classification"),
        ({"temperature": 3}, "temperature", "from 0 to 2"),
        ({"best_of": 3}, "best_of", "must be n"),
        ({"suffix": "end"}, "suffix", "not supported"),
        ({"prompt": [257]}, "prompt", "0 to 256"),
        ({"prompt": ["a"] * 33, "n": 2}, "n", "66 answers"),
        ({"prompt": "a" * 200}, "prompt", "200 tokens"),
        ({"max_tokens": 125}, "max_tokens", "128 tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "999"),
        ({"prompts": "a"}, "prompts", "'prompts'"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_has_openais_error(
    client: openai.OpenAI, body: dict[str, Any], param: str | None, told: str, stream: bool
) -> None:
    if stream and "stream_options" in body:
        body = {"stream_options": {"include_usage": 1}}

    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**GREEDY | {"stream": stream}, extra_body=body)

    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert told in caught.value.message


def test_an_error_during_a_stream_is_its_last_chunk(text_generation_client: httpx.Client) -> None:
    *told, (_, last) = broken_off(text_generation_client, PATH, GREEDY | {"max_tokens": 120, "n": 32})

    assert all(chunk["choices"] for _, chunk in told)
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "deadline_exceeded")


def test_a_deadline_that_passes_is_raised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="deadline"):
        client.completions.create(**GREEDY, extra_headers={"x-request-timeout": "1e-6"})


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", PATH, b"{", 400),
        ("POST", PATH, b"{}", 400),
        ("POST", PATH, b'{"model": "tiny-transformer", "prompt": "\\ud800"}', 400),
        ("POST", PATH, b" " * (32 * 2**20 + 1), 413),
        ("GET", PATH, b"", 405),
        ("POST", f"{PATH}/more", b"{}", 404),
        ("POST", "/v1/chat/completions", b"{}", 404),
        ("POST", "/v1/embeddings", b"{}", 404),
    ],
)
def test_every_error_of_these_routes_is_openais_object(
    text_generation_client: httpx.Client, method: str, path: str, content: bytes, status: int
) -> None:
    response = text_generation_client.request(
        method, path, content=content, headers={"content-type": "application/json"}
    )

    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith(".")
    assert response.headers["x-request-id"]


def test_a_model_that_has_failed_is_a_server_error_that_does_not_ask_for_another_try(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="tiny-speechless", prompt="abc")

    assert (caught.value.status_code, caught.value.code) == (500, "model_failed")
    assert caught.value.type == "server_error"
    assert "retry-after" not in caught.value.response.headers


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}

    assert {MODEL, "tiny-recurrent", "tiny"} <= set(models)
    retrieved = client.models.retrieve(MODEL)
    for model in (models[MODEL], retrieved):
        assert (model.id, model.object, model.owned_by) == (MODEL, "model", "hotplate")
        assert isinstance(model.created, int)


def test_the_asynchronous_client_streams_too(text_generation_service: RunningService, expected: str) -> None:
    import asyncio

    async def text() -> str:
        async with openai.AsyncOpenAI(base_url=f"{text_generation_service.url}/v1", api_key="none") as client:
            stream = await client.completions.create(**GREEDY, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(text()) == expected
