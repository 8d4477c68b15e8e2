"""A real service whose models are idle: it is ready, lists them, and answers requests of every protocol right."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, until
from tests.service.callers import caller

PICTURE = (Path(__file__).parents[1] / "data" / "seven.png").read_bytes()
VARYING = ("id", "created", "usage")
"""What an answer does not have in common with another to the same request: `usage` has the prompt's cached tokens."""
TEXT = {"max_tokens": 5, "temperature": 0}


def test_whatever_an_idle_model_is_asked_it_answers_as_if_it_had_been_loaded(
    text_generation_repository: Path, network: LinearClassifier, text_generation_service: RunningService
) -> None:
    images = network.images(2)

    def infer(kind: int, service: RunningService) -> list[Any]:
        asking = caller(service, kind)
        try:
            return [asking.infer("tiny", "image", images)[1].tolist()]
        finally:
            asking.close()

    def post(service: RunningService, path: str, **body: Any) -> Any:
        answer = httpx.post(service.url + path, timeout=30, **body)
        assert answer.status_code == 200, answer.text
        return {name: value for name, value in answer.json().items() if name not in VARYING}

    def streamed(service: RunningService) -> Any:
        prompt = {"prompt": "ab", "stream": True} | TEXT
        answer = httpx.post(f"{service.url}/v1/models/tiny-recurrent/generate", json=prompt, timeout=30)
        assert answer.status_code == 200, answer.text
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line[:4] == "data"]
        return [token for event in events for token in event.get("tokens", [])]  # however they share events

    asking: list[Callable[[RunningService], Any]] = [
        lambda service: post(service, "/v1/models/tiny/classify", content=PICTURE),
        lambda service: post(service, "/v1/models/tiny/embed", files=[("file", PICTURE), ("file", PICTURE)]),
        lambda service: infer(0, service),
        lambda service: infer(1, service),
        lambda service: infer(2, service),
        lambda service: post(service, "/v1/completions", json={"model": "tiny-transformer", "prompt": "ab"} | TEXT),
        lambda service: post(service, "/v2/models/tiny-transformer/generate", json={"text_input": "ab"} | TEXT),
        streamed,
    ]
    options = ("--instances", "1", "--threads", "1", "--idle-unload-seconds", "0.1", "--workers", "2")
    with RunningService(text_generation_repository, *options) as service, ThreadPoolExecutor(8) as threads:
        service.wait_until_ready()
        expected = list(threads.map(lambda ask: ask(text_generation_service), asking))
        for _ in range(2):
            until(lambda: states(service) == {"idle"}, service.describe)
            assert httpx.get(f"{service.url}/readyz").status_code == 200
            assert httpx.get(f"{service.url}/v2/models/tiny/ready").status_code == 200
            assert list(threads.map(lambda ask: ask(service), asking)) == expected
        metrics = httpx.get(f"{service.url}/metrics").text
        # At the start, and once for all that came together; a slow machine may have them come in two parts.
        assert 3 <= counted(metrics, 'hotplate_loads_total{model="tiny",version="1"}') <= 5
        assert counted(metrics, 'hotplate_idle_unloads_total{model="tiny",reason="idle",version="1"}') >= 2
        assert counted(metrics, "hotplate_max_model_memory_bytes") > 0


def states(service: RunningService) -> set[str]:
    """The states that models are in."""
    return {model["state"] for model in httpx.get(f"{service.url}/v1/models").json()["data"]}


def counted(metrics: str, series: str) -> float:
    """The value of a series."""
    return next(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(f"{series} "))
