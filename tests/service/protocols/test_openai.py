"""OpenAI's wire format, as OpenAI's own client reads it from the real service."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
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


def test_prompts_of_tokens_are_taken_as_they_are(
    client: openai.OpenAI, transformer: AttentionDecoder, expected: str
) -> None:
    tokens = [0, *tokens_of("abc")]
    assert client.completions.create(**GREEDY | {"prompt": tokens}).choices[0].text == expected
    bare = client.completions.create(**GREEDY | {"prompt": [tokens, tokens[1:]]}, logprobs=0)

    assert bare.choices[0].text == expected
    logprobs = bare.choices[1].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    first = ord(bare.choices[1].text[0]) + 1
    wanted = logprobs_after(transformer, tokens[1:])[first]  # no BOS before it
    assert logprobs.token_logprobs[0] == pytest.approx(wanted, abs=1e-3)
    assert bare.usage is not None
    assert bare.usage.prompt_tokens == 4 + 3


def test_a_prompt_of_tokens_may_fill_the_context(client: openai.OpenAI) -> None:
    tokens = [0, *range(1, 128)]

    body: dict[str, Any] = {"model": MODEL, "prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 0}
    choice = client.completions.create(**body).choices[0]

    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert len(choice.logprobs.tokens) == 128
    with pytest.raises(openai.BadRequestError, match="129 tokens"):
        client.completions.create(**body | {"prompt": [*tokens, 1]})


@pytest.mark.parametrize("begin", [[0], []])
@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_of_tokens_has_each_of_them(
    text_generation_client: httpx.Client, transformer: AttentionDecoder, begin: list[int], stream: bool
) -> None:
    prompt = [*begin, *tokens_of("abcd")]
    body = GREEDY | {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1}
    if stream:
        choices = [data["choices"][0] for _, data in streamed(text_generation_client, body, PATH)[:-1]]
    else:
        choices = text_generation_client.post(PATH, json=body).json()["choices"]

    joined = {name: [v for c in choices for v in c["logprobs"][name]] for name in choices[0]["logprobs"]}
    assert joined["tokens"][:-1] == ["<|endoftext|>"] * len(begin) + list("abcd")
    assert joined["text_offset"] == [*range(0, 13 * len(begin), 13), *(13 * len(begin) + at for at in range(5))]
    assert "".join(choice["text"] for choice in choices)[:-1] == "<|endoftext|>" * len(begin) + "abcd"
    wanted = [logprobs_after(transformer, prompt[:end])[prompt[end]] for end in range(1, len(prompt))]
    assert joined["token_logprobs"][0] is None
    assert joined["token_logprobs"][1:-1] == pytest.approx(wanted, abs=1e-3)


def ended(decoder: AttentionDecoder, stops: set[int], fewest: int, most: int) -> list[int]:
    """The greedy tokens after `GREEDY`'s prompt, up to one of `stops`, none of which is among the first `fewest`."""
    bias = np.zeros(257)
    for token in (0, *map(int, LETTERS)):
        bias[token] = 100
    tokens = [0, *tokens_of("abc")]
    generated: list[int] = []
    while len(generated) < most and not stops & set(generated):
        row = decoder.logits(np.array(tokens + generated))[-1] + bias
        if len(generated) < fewest:
            row[list(stops)] = -np.inf
        generated.append(int(row.argmax()))
    return generated


@pytest.mark.parametrize(
    ("extra", "stops"),
    [({}, {0}), ({"stop_token_ids": [98, 104]}, {0, 98, 104}), ({"ignore_eos": True, "stop_token_ids": [102]}, {102})],
)
@pytest.mark.parametrize("fewest", [0, 3, 9, 40])
def test_a_text_ends_at_an_end_token_but_not_too_early(
    client: openai.OpenAI, transformer: AttentionDecoder, extra: dict[str, Any], stops: set[int], fewest: int
) -> None:
    wanted = ended(transformer, stops, fewest, 40)
    body = GREEDY | {"logit_bias": LETTERS | {"0": 100}, "max_tokens": 40}

    completion = client.completions.create(**body, extra_body=extra | {"min_tokens": fewest})

    (choice,) = completion.choices
    is_stopped = wanted[-1] in stops
    assert choice.text == text_of(wanted[:-1] if is_stopped else wanted)
    assert choice.finish_reason == ("stop" if is_stopped else "length")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == len(wanted)


def test_the_models_end_token_can_be_ignored(client: openai.OpenAI) -> None:
    body = GREEDY | {"logit_bias": {"0": 100}, "max_tokens": 6}

    assert client.completions.create(**body).choices[0].finish_reason == "stop"
    assert client.completions.create(**body, extra_body={"ignore_eos": True}).choices[0].finish_reason == "length"


def test_a_stop_token_ends_the_text_and_is_left_out(client: openai.OpenAI, expected: str) -> None:
    stop = expected[4]
    at = expected.index(stop)

    completion = client.completions.create(**GREEDY, extra_body={"stop_token_ids": tokens_of("Z" + stop)})

    assert (completion.choices[0].text, completion.choices[0].finish_reason) == (expected[:at], "stop")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == at + 1


def test_a_stop_string_waits_for_the_fewest_tokens(client: openai.OpenAI, expected: str) -> None:
    body = GREEDY | {"stop": list(set(expected))}

    assert client.completions.create(**body).choices[0].text == ""
    assert client.completions.create(**body, extra_body={"min_tokens": 5}).choices[0].text == expected[:5]


def test_of_several_candidates_the_likeliest_is_the_answer(client: openai.OpenAI) -> None:
    body = GREEDY | {"temperature": 2, "max_tokens": 8, "seed": 3, "logit_bias": {}}
    every = client.completions.create(**body, n=5, logprobs=0)
    ranked = []
    for choice in every.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        ranked.append((sum(choice.logprobs.token_logprobs), choice.text))
    ranked.sort(reverse=True)

    best = client.completions.create(**body, n=2, best_of=5)

    assert [choice.text for choice in best.choices] == [text for _, text in ranked[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.choices[0].logprobs is None
    assert best.usage is not None
    assert (best.usage.prompt_tokens, best.usage.completion_tokens) == (4, 40)


def test_every_chunk_has_the_usage_so_far_if_requested(text_generation_client: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": False}

    *chunks, last, done = [
        data for _, data in streamed(text_generation_client, GREEDY | {"stream_options": options}, PATH)
    ]

    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert 1 <= counts[0] <= counts[-1] == last["usage"]["completion_tokens"] == 12
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {4}
    assert done == "[DONE]"


def test_cached_tokens_are_told_also_where_a_stop_ends_the_text(client: openai.OpenAI, expected: str) -> None:
    prompt = "cached " * 8

    def cached(**extra: Any) -> int | None:
        usage = client.completions.create(**GREEDY | {"prompt": prompt} | extra).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        count: int | None = usage.prompt_tokens_details.cached_tokens
        return count

    text = client.completions.create(**GREEDY | {"prompt": prompt}).choices[0].text
    assert cached(stop=text[2]) == cached() == len(prompt)  # all of BOS and the prompt but its last token
    assert cached(prompt=[7, 8, 9]) == 0


def test_what_changes_no_answer_is_ignored(client: openai.OpenAI, expected: str) -> None:
    extra = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "return_token_ids": False}
    extra |= {"skip_special_tokens": True, "use_beam_search": False, "response_format": {"type": "text"}}

    assert client.completions.create(**GREEDY, extra_body=extra).choices[0].text == expected


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


def test_the_rolling_likelihood_of_lm_eval_is_the_networks(
    text_generation_client: httpx.Client, transformer: AttentionDecoder
) -> None:
    """Its `local-completions` sends windows of tokens, asks for one more, and sums from the context's length on."""
    tokens, ctxlens = [[0, *tokens_of("It was the best")], tokens_of("the best of times")], [1, 9]
    body = {"model": MODEL, "prompt": tokens, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234}

    answer = text_generation_client.post(PATH, json=body | {"echo": True}).json()

    for choice, ids, ctxlen in zip(answer["choices"], tokens, ctxlens, strict=True):
        expected = sum(logprobs_after(transformer, ids[:end])[ids[end]] for end in range(ctxlen, len(ids)))
        assert sum(choice["logprobs"]["token_logprobs"][ctxlen:-1]) == pytest.approx(expected, abs=1e-2)
        assert len(choice["logprobs"]["top_logprobs"]) == len(ids) + 1


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
        ({"best_of": 3, "stream": True}, "best_of", "in a stream"),
        ({"suffix": "end"}, "suffix", "not supported"),
        ({"prompt": [257]}, "prompt", "0 to 256"),
        ({"prompt": ["a"] * 33, "n": 2}, "n", "66 answers"),
        ({"prompt": "a" * 200}, "prompt", "200 tokens"),
        ({"max_tokens": 125}, "max_tokens", "128 tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "999"),
        ({"prompts": "a"}, "prompts", "did you mean prompt?"),
        ({"min_token": 1}, "min_token", "did you mean min_tokens?"),
        ({"min_tokens": 13}, "min_tokens", "at most max_tokens, 12"),
        ({"stop_token_ids": [257]}, "stop_token_ids", "0 to 256"),
        ({"return_token_ids": True}, "return_token_ids", "false or absent"),
        ({"best_of": 1, "n": 2}, "best_of", "at least n"),
        ({"prompt": [[1], []]}, "prompt", "token ids"),
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
        ("POST", "/v1/responses", b"{}", 404),
        ("GET", "/v1/files", b"", 404),
        ("POST", "/v1/audio/speech", b"{}", 404),
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


def test_models_are_listed_and_retrieved(client: openai.OpenAI, text_generation_repository: Path) -> None:
    models = {model.id: model for model in client.models.list()}

    assert {MODEL, "tiny-recurrent", "tiny"} <= set(models)
    retrieved = client.models.retrieve(MODEL)
    for model in (models[MODEL], retrieved):
        assert (model.id, model.object, model.owned_by) == (MODEL, "model", "hotplate")
        assert model.created == int((text_generation_repository / MODEL / "1" / "manifest.json").stat().st_mtime)


def test_what_is_not_there_is_told_to_openais_clients_in_their_form(
    client: openai.OpenAI, text_generation_client: httpx.Client
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.APIStatusError) as refused:
        client.models.delete(MODEL)
    assert (refused.value.status_code, refused.value.code) == (405, "method_not_allowed")
    with pytest.raises(openai.NotFoundError, match="POST /v1/completions"):
        client.responses.create(model=MODEL, input="abc")

    assert text_generation_client.get("/v1/models/gpt-4").json()["code"] == "unknown_model"


def test_the_asynchronous_client_streams_too(text_generation_service: RunningService, expected: str) -> None:
    import asyncio

    async def text() -> str:
        async with openai.AsyncOpenAI(base_url=f"{text_generation_service.url}/v1", api_key="none") as client:
            stream = await client.completions.create(**GREEDY, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(text()) == expected
