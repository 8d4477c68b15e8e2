"""Streams of the shipped novelist while processes die or stop: no token is lost or repeated."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import RunningService

REPOSITORY = Path(__file__).resolve().parent.parent.parent / "models" / "repository"
PROMPT = {"prompt": "The sea", "max_tokens": 400, "temperature": 0.9, "seed": 11}
GENERATE = "/v1/models/novelist/generate"


@pytest.fixture
def service() -> Iterator[RunningService]:
    """A service with the shipped Transformer only."""
    with RunningService(REPOSITORY, "--models", "novelist", "--threads", "1") as running:
        yield running.wait_until_ready()


def stream(service: RunningService, on_first: Callable[[], None], **members: Any) -> tuple[str, dict[str, Any]]:
    """Stream an answer and call a function at the first chunk; return the text and the last event."""
    pieces: list[str] = []
    last: dict[str, Any] = {}
    body = {**PROMPT, "stream": True, **members}
    with httpx.stream("POST", f"{service.url}{GENERATE}", json=body, timeout=60) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: "):
                last = json.loads(line[6:])
                pieces.append(last.get("text", ""))
                if len(pieces) == 1:
                    on_first()
    return "".join(pieces), last


def test_a_text_continues_unchanged_after_the_engine_is_killed(service: RunningService) -> None:
    whole = httpx.post(f"{service.url}{GENERATE}", json=PROMPT, timeout=60).json()

    (engine,) = service.children("service.processes.engine_process")
    text, last = stream(service, lambda: os.kill(engine, signal.SIGKILL))

    assert text == whole["results"][0]["text"]
    assert last["usage"]["completion_tokens"] == 400
    assert service.children("service.processes.engine_process") != [engine]


def test_a_text_stays_within_its_grammar_after_the_engine_is_killed(service: RunningService) -> None:
    age = {"type": "integer", "minimum": 0, "maximum": 99}
    animal = {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}, "age": age}}
    schema = {"type": "array", "items": animal | {"required": ["kind", "age"], "additionalProperties": False}}
    held = {"guided_json": schema | {"minItems": 9, "maxItems": 9}, "temperature": 1}
    whole = httpx.post(f"{service.url}{GENERATE}", json=PROMPT | held, timeout=60).json()["results"][0]

    (engine,) = service.children("service.processes.engine_process")
    text, last = stream(service, lambda: os.kill(engine, signal.SIGKILL), **held)

    assert text == whole["text"]
    assert last["usage"]["completion_tokens"] == len(whole["tokens"])
    assert service.children("service.processes.engine_process") != [engine]
    assert [set(each) for each in json.loads(text)] == [{"kind", "age"}] * 9


def test_a_stream_is_finished_before_the_service_ends(service: RunningService) -> None:
    text, last = stream(service, service.terminate)

    assert last["usage"]["completion_tokens"] == 400
    assert len(text) > 400
    assert service.wait() == 0
