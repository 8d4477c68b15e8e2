"""The device's timeline: what the engine keeps, and the trace that Perfetto opens, of the real service too."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import httpx
import msgspec
import pytest

from service.engine.transport.messages import Quantum
from service.telemetry.timeline import NUM_KEPT, Timeline, TraceFile, trace_file
from tests.fake_models.classification import LinearClassifier
from tests.service.http.calls import CLASSIFY, RAW, as_json, assert_problem

GENERATE = "/v1/models/tiny-transformer/generate"


def quantum(model: str, instance: str, started_at: float, kind: str = "batch", reason: str = "") -> Quantum:
    return Quantum(model, "1", instance, kind, 4, started_at, started_at + 0.25, reason)


def test_the_timeline_keeps_what_ended_last() -> None:
    timeline = Timeline()
    for second in range(NUM_KEPT + 10):
        timeline.add((("m", "1", "model"), 0, "batch", 4, float(second), second + 0.25, "full"))

    assert timeline.since(NUM_KEPT + 9.1) == (quantum("m", "model.0", NUM_KEPT + 9.0, reason="full"),)
    assert len(timeline.since(0.0)) == NUM_KEPT
    assert timeline.since(0.0)[0].started_at == 10
    assert [each.started_at for each in timeline.since(NUM_KEPT + 8.1)] == [NUM_KEPT + 8, NUM_KEPT + 9]


def test_a_trace_has_a_process_for_each_model_and_a_thread_for_each_instance() -> None:
    quanta = [
        quantum("mnist", "model.0", 7.0, reason="full"),
        quantum("mnist", "model.1", 7.1, reason="idle"),
        quantum("novelist", "texts", 7.2, "decode"),
        quantum("novelist", "texts", 7.5, "prefill"),
    ]

    events = msgspec.json.decode(msgspec.json.encode(trace_file(quanta, 6.0, 8.0)))["traceEvents"]

    named = [each for each in events if each["ph"] == "M"]
    names = {(each["name"], each["pid"], each.get("tid", 0)): each["args"]["name"] for each in named}
    assert names == {
        ("process_name", 1, 0): "mnist@1",
        ("process_name", 2, 0): "novelist@1",
        ("thread_name", 1, 1): "model.0",
        ("thread_name", 1, 2): "model.1",
        ("thread_name", 2, 3): "texts",
    }
    bars = [each for each in events if each["ph"] == "X"]
    assert bars[0] == {
        "name": "batch of 4",
        "ph": "X",
        "pid": 1,
        "tid": 1,
        "ts": 7e6,
        "dur": 0.25e6,
        "cat": "batch",
        "args": {"rows": 4, "reason": "full"},
    }
    assert [each["args"] for each in bars[2:]] == [{"texts": 4}, {"tokens": 4}]


def traced(client: httpx.Client, model: str, seconds: float = 10) -> list[dict[str, Any]]:
    """The quanta of a model in the service's trace."""
    answer = client.get("/v1/trace", params={"seconds": seconds})
    assert answer.status_code == 200, answer.text
    file = msgspec.json.decode(answer.content, type=TraceFile)
    (pid,) = [each.pid for each in file.traceEvents if each.name == "process_name" and each.args["name"] == model]
    bars = [each for each in file.traceEvents if each.ph == "X" and each.pid == pid]
    for each in bars:
        assert each.ts is not None
        assert each.dur is not None
        assert file.otherData["started_us"] <= each.ts + each.dur <= file.otherData["ended_us"]
    return [msgspec.to_builtins(each) for each in bars]


def test_a_live_trace_says_who_ran_when(text_generation_client: httpx.Client, network: LinearClassifier) -> None:
    text_generation_client.post(CLASSIFY, json=as_json(network.images(3))).raise_for_status()
    prompt = {"prompt": "It was", "max_tokens": 5}
    text_generation_client.post(GENERATE, json=prompt).raise_for_status()

    batch = traced(text_generation_client, "tiny@1")[-1]
    steps = traced(text_generation_client, "tiny-transformer@1")[-5:]

    assert batch["args"] == {"rows": 3, "reason": "idle"}
    assert [step["cat"] for step in steps] == ["prefill", *["decode"] * 4]
    assert [step["args"] for step in steps[1:]] == [{"texts": 1}] * 4
    for before, after in pairwise(steps):
        assert before["ts"] + before["dur"] <= after["ts"] + 0.2  # rounded to tenths of microseconds


def test_a_trace_begins_when_it_was_asked_to(text_generation_client: httpx.Client, network: LinearClassifier) -> None:
    def classify() -> None:
        text_generation_client.post(CLASSIFY, content=network.images(1).tobytes(), headers=RAW).raise_for_status()

    classify()
    time.sleep(0.3)
    classify()

    assert len(traced(text_generation_client, "tiny@1", 60)) > len(traced(text_generation_client, "tiny@1", 0.2)) == 1


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "soon"])
def test_a_trace_of_no_time_is_refused(text_generation_client: httpx.Client, seconds: str) -> None:
    answer = text_generation_client.get("/v1/trace", params={"seconds": seconds})

    assert_problem(answer, 422, "invalid_parameter", "seconds", "a number above 0 up to 60")
