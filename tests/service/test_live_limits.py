"""A running service with keys: what each caller may use, and what he learns of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.quotas import MAX_WRONG_KEYS
from service.security import digest_of
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.text_generation import AttentionDecoder
from tests.servers import RunningService

OPTIONS = {
    "alice": "",
    "bob": "",
    "few": "requests=0.01:5",
    "rows": "rows=0.01:40",
    "tokens": "tokens=0.01:30",
    "one": "concurrency=1",
    "urgent": "priority=1",
}
ROWS = [[7] * 120]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("limits")
    LinearClassifier().write(folder / "models", "tiny")
    LinearClassifier().write(folder / "models", "cached")
    (folder / "models" / "cached" / "config.toml").write_text("cache_bytes = 1000000\n")
    LinearClassifier().write(folder / "models", "shared")
    (folder / "models" / "shared" / "config.toml").write_text("cache_bytes = 1000000\ncache_across_callers = true\n")
    AttentionDecoder().write(folder / "models")
    keys = folder / "keys"
    keys.write_text("".join(f"{name}:{digest_of(f'hp_{name}')} {how}\n" for name, how in OPTIONS.items()))
    with RunningService(folder / "models", "--api-keys-file", str(keys), "--trusted-proxies", "127.0.0.1") as running:
        yield running.wait_until_ready()


def connect(service: RunningService, name: str, address: str = "203.0.113.1") -> httpx.Client:
    headers = {"authorization": f"Bearer hp_{name}", "x-forwarded-for": address}
    return httpx.Client(base_url=service.url, timeout=30, headers=headers)


def tensors(client: httpx.Client, model: str, num_rows: int = 1, **parameters: Any) -> httpx.Response:
    spec = client.get(f"/v2/models/{model}").json()["inputs"][0]
    shape = [num_rows, *spec["shape"][1:]]
    size = 1
    for each in shape:
        size *= each
    tensor = {"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "data": [3] * size}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], "parameters": parameters})


def complete(client: httpx.Client, prompt: list[int], max_tokens: int = 1) -> httpx.Response:
    names = [each["id"] for each in client.get("/v1/models").json()["data"] if each["task"] == "text-generation"]
    return client.post("/v1/completions", json={"model": names[0], "prompt": prompt, "max_tokens": max_tokens})


def test_more_requests_than_allowed_get_429_in_every_form(limited: RunningService) -> None:
    with connect(limited, "few") as client:
        answers = [client.get("/v1/models") for _ in range(7)]
        completion = complete_anyhow(client)
        inference = client.post("/v2/models/tiny/infer", json={})

    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=5;w=500'
    assert answers[0].headers["ratelimit"].startswith('"requests";r=4;t=')
    assert int(answers[5].headers["retry-after"]) > 60
    assert answers[5].json()["code"] == "rate_limit_exceeded"
    assert completion.status_code == inference.status_code == 429
    assert completion.json()["error"]["type"] == "rate_limit_exceeded"
    assert list(inference.json()) == ["error"]


def complete_anyhow(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/completions", json={"model": "x", "prompt": "x"})


def test_the_same_limit_holds_over_grpc(limited: RunningService) -> None:
    with connect(limited, "few") as client:
        for _ in range(6):
            client.get("/v1/models")
    with grpc.insecure_channel(limited.grpc_address) as channel:
        name = "/inference.GRPCInferenceService/ServerMetadata"
        call = channel.unary_unary(
            name, pb.ServerMetadataRequest.SerializeToString, pb.ServerMetadataResponse.FromString
        )
        call(pb.ServerMetadataRequest(), metadata=(("authorization", "Bearer hp_alice"),))
        with pytest.raises(grpc.RpcError) as refused:
            call(pb.ServerMetadataRequest(), metadata=(("authorization", "Bearer hp_few"),))

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(refused.value.trailing_metadata())
    assert int(trailing["retry-after"]) > 60
    assert trailing["ratelimit"].startswith('"requests";r=0')


def test_rows_are_counted_on_every_way_to_the_engine(limited: RunningService) -> None:
    with connect(limited, "rows") as client:
        statuses = [tensors(client, "tiny", 10).status_code for _ in range(3)]
        statuses += [tensors(client, "tiny", 15).status_code, tensors(client, "tiny", 1).status_code]

    assert statuses == [200, 200, 200, 200, 429]


def test_tokens_of_prompts_and_of_answers_are_counted(limited: RunningService) -> None:
    with connect(limited, "tokens") as client:
        statuses = [complete(client, [1, 2, 3, 4, 5], 12).status_code for _ in range(2)]
        refused = complete(client, [1, 2, 3], 1)

    assert statuses == [200, 200]
    assert refused.status_code == 429  # 36 of 30 are used


def test_a_caller_with_his_only_request_in_progress_is_refused_another(limited: RunningService) -> None:
    gate = threading.Barrier(2)

    def body() -> Iterator[bytes]:
        yield b"{"
        gate.wait(20)
        gate.wait(20)
        yield b"}"

    with connect(limited, "one") as client, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(client.post, "/v2/models/tiny/infer", content=body())
        gate.wait(20)
        with connect(limited, "one") as second:
            refused = second.get("/v1/models")
        gate.wait(20)
        slow.result(20)
        afterwards = client.get("/v1/models")

    assert refused.status_code == 429
    assert refused.headers["ratelimit-policy"] == '"concurrency";q=1;qu="concurrent-requests"'
    assert afterwards.status_code == 200


def test_wrong_keys_are_limited_by_address_and_a_valid_key_is_still_served(limited: RunningService) -> None:
    with connect(limited, "nobody", "203.0.113.66") as guesser:
        statuses = [
            guesser.get("/v1/models", headers={"authorization": f"Bearer hp_{number}"}).status_code
            for number in range(MAX_WRONG_KEYS + 5)
        ]
    with connect(limited, "alice", "203.0.113.66") as same, connect(limited, "nobody", "203.0.113.67") as another:
        assert same.get("/v1/models").status_code == 200
        assert another.get("/v1/models").status_code == 401

    assert statuses == [401] * MAX_WRONG_KEYS + [429] * 5


def test_a_pin_cannot_be_guessed_by_the_number_of_cached_tokens(limited: RunningService) -> None:
    """Digit by digit it would take 40 guesses, if a right digit had one more cached token than a wrong one."""
    prompt, pin = [1, 2, 3, 1, 2], [5, 3, 6, 4]
    with connect(limited, "alice") as alice, connect(limited, "bob") as bob:
        own = [complete(alice, prompt + pin).json()["usage"] for _ in range(2)]
        guesses = [[*pin[:length], digit] for length in range(4) for digit in range(7)]
        # Each guess ends differently, so that bob does not find his own guesses again.
        found = [complete(bob, [7 - index % 2, index % 7, *prompt, *guess]) for index, guess in enumerate(guesses)]
        first = complete(bob, [*prompt, *pin, 2])

    assert cached(own[1]) > 2
    assert {answer.status_code for answer in found} == {200}
    assert cached(first.json()["usage"]) == 0


def cached(usage: dict[str, Any]) -> int:
    return int(usage["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.parametrize(("model", "num_hits"), [("cached", 1), ("shared", 2)])
def test_cached_answers_are_a_callers_own_unless_the_model_says_otherwise(
    limited: RunningService, model: str, num_hits: int
) -> None:
    with connect(limited, "alice") as alice, connect(limited, "bob") as bob:
        answers = [tensors(client, model, 2).json()["outputs"] for client in (alice, alice, bob)]
        statistics = alice.get(f"/v2/models/{model}/stats").json()["model_stats"][0]

    assert answers[0] == answers[1] == answers[2]
    assert statistics["inference_stats"]["cache_hit"]["count"] == num_hits
