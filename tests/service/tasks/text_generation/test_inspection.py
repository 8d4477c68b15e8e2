"""`next-token`, `tokenize`, `detokenize`, `score` and `attention` of the real service, against NumPy."""

from __future__ import annotations

import math
from typing import Any

import httpx
import numpy as np
import pytest

from service.settings import Settings
from service.tasks.task import Dependencies, TaskRequest
from service.tasks.text_generation.scoring import Score
from tests.fake_models.text_generation import AttentionDecoder, RecurrentDecoder, TinyDecoder
from tests.service.http.calls import assert_problem
from tests.service.tasks.text_generation.texts import logprobs_after, streamed, text_of, tokens_of

MODEL = "/v1/models/tiny-transformer"
TEXT = "na\u00efve \U0001f642 <|endoftext|>"


def answered(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    """The answer to a request that succeeds."""
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def scored(decoder: TinyDecoder, tokens: list[int]) -> list[float]:
    """The log probability of each token after the first."""
    return [float(logprobs_after(decoder, tokens[:end])[tokens[end]]) for end in range(1, len(tokens))]


@pytest.mark.parametrize("text", ["", "abc", "a" * 126])
def test_the_next_token_has_the_networks_probabilities(
    text_generation_client: httpx.Client, transformer: AttentionDecoder, text: str
) -> None:
    expected = logprobs_after(transformer, [0, *tokens_of(text)])

    candidates = answered(text_generation_client, f"{MODEL}/next-token", text=text, top_k=7)["candidates"]

    assert [candidate["id"] for candidate in candidates] == expected.argsort()[::-1][:7].tolist()
    for candidate in candidates:
        assert candidate["logprob"] == pytest.approx(expected[candidate["id"]], abs=1e-3)
        assert candidate["probability"] == pytest.approx(math.exp(candidate["logprob"]))
        assert candidate["text"] == (text_of([candidate["id"]]) or "<|endoftext|>")


def test_ten_candidates_are_given_by_default(text_generation_client: httpx.Client) -> None:
    assert len(answered(text_generation_client, f"{MODEL}/next-token", text="abc")["candidates"]) == 10


def test_a_text_without_room_for_a_token_is_refused(text_generation_client: httpx.Client) -> None:
    assert_problem(
        text_generation_client.post(f"{MODEL}/next-token", json={"text": "a" * 127}),
        400,
        "context_length_exceeded",
        "127",
        "126",
    )


def test_a_text_is_tokenized_and_detokenized(text_generation_client: httpx.Client) -> None:
    answer = answered(text_generation_client, f"{MODEL}/tokenize", text=TEXT)

    tokens = answer["tokens"]
    assert answer["num_tokens"] == len(tokens)
    assert [token["id"] for token in tokens] == tokens_of(TEXT)
    assert bytes(byte for token in tokens for byte in token["bytes"]) == TEXT.encode()
    for token in tokens:
        assert token["text"] == bytes(token["bytes"]).decode("utf-8", "replace")
        assert bytes(token["bytes"]) in TEXT[token["start"] : token["end"]].encode()
    ids = [token["id"] for token in tokens]
    assert answered(text_generation_client, f"{MODEL}/detokenize", tokens=ids)["text"] == TEXT


def test_a_special_token_is_decoded_to_its_name(text_generation_client: httpx.Client) -> None:
    assert (
        answered(text_generation_client, f"{MODEL}/detokenize", tokens=[0, 98, 0xE7])["text"] == "<|endoftext|>a\ufffd"
    )
    assert answered(text_generation_client, f"{MODEL}/detokenize", tokens=[])["text"] == ""


def test_an_empty_text_has_no_tokens(text_generation_client: httpx.Client) -> None:
    assert answered(text_generation_client, f"{MODEL}/tokenize", text="") == {
        "model": "tiny-transformer",
        "version": "1",
        "num_tokens": 0,
        "tokens": [],
    }


def test_a_long_text_is_tokenized_up_to_a_limit(text_generation_client: httpx.Client) -> None:
    assert answered(text_generation_client, f"{MODEL}/tokenize", text="a" * 2**16)["num_tokens"] == 2**16
    response = text_generation_client.post(f"{MODEL}/tokenize", json={"text": "a" * (2**16 + 1)})
    assert_problem(response, 400, "context_length_exceeded", "65537", "65536")


@pytest.mark.parametrize("token", [257, 2**31 - 1])
def test_a_token_out_of_the_vocabulary_is_named(text_generation_client: httpx.Client, token: int) -> None:
    response = text_generation_client.post(f"{MODEL}/detokenize", json={"tokens": [1, token, 2]})

    assert_problem(response, 400, "unknown_token", str(token), "0 to 256")


@pytest.mark.parametrize("text", ["a", "It was the best of times", TEXT, "b" * 127])
def test_a_text_is_scored_as_the_network_does(
    text_generation_client: httpx.Client, transformer: AttentionDecoder, text: str
) -> None:
    expected = scored(transformer, [0, *tokens_of(text)])

    answer = answered(text_generation_client, f"{MODEL}/score", text=text)

    assert [token["logprob"] for token in answer["tokens"]] == pytest.approx(expected, abs=2e-3)
    assert [token["id"] for token in answer["tokens"]] == tokens_of(text)
    num_bytes = len(text.encode())
    assert (answer["num_tokens"], answer["num_bytes"], answer["num_windows"]) == (num_bytes, num_bytes, 1)
    nats = -sum(expected)
    assert answer["nats"] == pytest.approx(nats, rel=1e-3)
    assert answer["nats_per_token"] == pytest.approx(nats / num_bytes, rel=1e-3)
    assert answer["perplexity"] == pytest.approx(math.exp(nats / num_bytes), rel=1e-2)
    assert answer["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-3)


def test_a_long_text_is_scored_in_windows(text_generation_client: httpx.Client, transformer: AttentionDecoder) -> None:
    text = "It was the best of times, it was the worst of times. " * 6
    tokens = [0, *tokens_of(text)]
    expected = scored(transformer, tokens[:128])
    for start in range(128, len(tokens), 64):
        stop = min(start + 64, len(tokens))
        expected += scored(transformer, tokens[stop - 128 : stop])[start - (stop - 128) - 1 :]

    answer = answered(text_generation_client, f"{MODEL}/score", text=text)

    assert answer["num_windows"] == 1 + math.ceil((len(tokens) - 128) / 64)
    assert [token["logprob"] for token in answer["tokens"]] == pytest.approx(expected, abs=2e-3)
    assert [text[token["start"] : token["end"]] for token in answer["tokens"]] == list(text)


def test_several_texts_are_scored_as_each_alone(text_generation_client: httpx.Client) -> None:
    texts = ["a", TEXT, "It was the best of times. " * 30]
    alone = [answered(text_generation_client, f"{MODEL}/score", text=text) for text in texts]

    together = answered(text_generation_client, f"{MODEL}/score", text=texts)

    total = together["total"]
    for score, one in zip(together["results"], alone, strict=True):
        assert [token.pop("logprob") for token in score["tokens"]] == pytest.approx(
            [token.pop("logprob") for token in one["tokens"]], abs=1e-4
        )
        assert score["tokens"] == one["tokens"]
        assert score["bits_per_byte"] == pytest.approx(one["bits_per_byte"], abs=1e-4)
    for name in ("num_tokens", "num_bytes", "num_windows"):
        assert total[name] == sum(one[name] for one in alone)
    assert total["nats"] == pytest.approx(sum(one["nats"] for one in alone), rel=1e-4)
    assert total["bits_per_byte"] == pytest.approx(total["nats"] / math.log(2) / total["num_bytes"])


def test_a_stream_has_every_window_and_then_all_scores(text_generation_client: httpx.Client) -> None:
    texts = ["It was the best of times, it was the worst of times. " * 100, "abc"]
    expected = answered(text_generation_client, f"{MODEL}/score", text=texts)
    assert expected["total"]["num_windows"] > 64  # more than the engine gets at once

    *windows, (name, end) = streamed(text_generation_client, {"text": texts}, f"{MODEL}/score")

    assert (name, {each for each, _ in windows}) == ("end", {""})
    assert len(windows) == expected["total"]["num_windows"] == end["total"]["num_windows"]
    for index, score in enumerate(expected["results"]):
        own = [data for _, data in windows if data["index"] == index]
        tokens = [token for data in own for token in data["tokens"]]
        assert [token["start"] for token in tokens] == [token["start"] for token in score["tokens"]]
        assert own[-1]["num_tokens"] == score["num_tokens"]
        assert own[-1]["nats"] == pytest.approx(score["nats"], rel=1e-4)
        assert "tokens" not in end["results"][index]
        assert end["results"][index]["nats"] == pytest.approx(score["nats"], rel=1e-4)


@pytest.mark.parametrize(
    ("num_parts", "header", "seconds"), [(1, None, 10), (4, None, 40), (1000, None, 300), (4, b"3", 3)]
)
def test_the_default_timeout_applies_to_each_part_of_long_work(
    num_parts: int, header: bytes | None, seconds: float
) -> None:
    settings = Settings(request_timeout_seconds=10, max_request_timeout_seconds=300)
    unused: Any = None
    route = Score(Dependencies(unused, settings, unused, unused, unused, unused))
    scope = {"headers": [(b"x-request-timeout", header)] if header else []}

    assert route.timeout_seconds(TaskRequest(unused, scope, unused, unused), num_parts) == seconds


def test_tokens_are_left_out_if_not_wanted(text_generation_client: httpx.Client) -> None:
    answer = answered(text_generation_client, f"{MODEL}/score", text="abc", tokens=False)

    assert "tokens" not in answer
    assert answer["num_tokens"] == 3


def test_more_tokens_than_are_held_in_memory_are_refused(text_generation_client: httpx.Client) -> None:
    texts = ["a" * 2**18] * 2 + ["a"]
    response = text_generation_client.post(f"{MODEL}/score", json={"text": texts})

    assert_problem(response, 400, "context_length_exceeded", "text[2]")


@pytest.mark.parametrize(("text", "quoted"), [("", "text is empty"), (["a", ""], "text[1] is empty"), ([], "of 0")])
def test_an_empty_text_has_no_score(text_generation_client: httpx.Client, text: Any, quoted: str) -> None:
    assert_problem(text_generation_client.post(f"{MODEL}/score", json={"text": text}), 422, "invalid_parameter", quoted)


@pytest.mark.parametrize("text", ["", "abc", "a" * 31])
def test_attention_is_that_of_every_head(
    text_generation_client: httpx.Client, transformer: AttentionDecoder, text: str
) -> None:
    tokens = [0, *tokens_of(text)]

    answer = answered(text_generation_client, f"{MODEL}/attention", text=text)

    assert [token["id"] for token in answer["tokens"]] == tokens
    found = np.array(answer["attention"])
    assert found.shape == (1, 2, len(tokens), len(tokens))
    np.testing.assert_allclose(found[0], transformer.attention(np.array(tokens)), atol=1e-4)


def test_attention_of_a_long_text_is_refused(text_generation_client: httpx.Client) -> None:
    response = text_generation_client.post(f"{MODEL}/attention", json={"text": "a" * 32})

    assert_problem(response, 400, "context_length_exceeded", "32", "31")


def test_a_recurrent_network_has_no_attention(
    text_generation_client: httpx.Client, recurrent: RecurrentDecoder
) -> None:
    response = text_generation_client.post(f"/v1/models/{recurrent.name}/attention", json={"text": "abc"})

    assert_problem(response, 422, "unsupported_task", recurrent.name, "no attention")


@pytest.mark.parametrize("verb", ["next-token", "tokenize", "detokenize", "score", "attention"])
def test_an_invalid_body_is_refused(text_generation_client: httpx.Client, verb: str) -> None:
    member = "tokens" if verb == "detokenize" else "text"
    cases = [({}, "is missing"), ({member: None}, "is missing"), ({"txt": "a"}, "'txt'"), ({member: 1}, "is 1")]

    for body, quoted in cases:
        problem = assert_problem(
            text_generation_client.post(f"{MODEL}/{verb}", json=body), 422, "invalid_parameter", quoted
        )
        assert member in problem["detail"]


@pytest.mark.parametrize("verb", ["next-token", "tokenize", "detokenize", "score", "attention"])
def test_a_classifier_is_refused(text_generation_client: httpx.Client, verb: str) -> None:
    assert_problem(text_generation_client.post(f"/v1/models/tiny/{verb}", json={"text": "a"}), 422, "unsupported_task")
