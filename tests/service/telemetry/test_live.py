"""Telemetry of the real service: counts that outlive processes, spans, other servers' names, the access log."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient import grpc as triton

from service.telemetry.scraping import ALL_TRITON_REASONS
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, on_a_full_disk, until
from tests.service.collector import Collector
from tests.service.http.calls import CLASSIFY, RAW, as_json
from tests.service.telemetry.series import Series, of, parsed

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
ENDPOINT = "http://127.0.0.1:9"
PROBE_BYTES = 8  # what `tempfile` writes to find out whether a folder can be written
GENERATE = "/v1/models/tiny-transformer/generate"
TEXT = {"model": "tiny-transformer", "version": "1"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def observed(text_generation_repository: Path, collector: Collector) -> Iterator[RunningService]:
    """A service that shows all it can; it sends its spans five times a second."""
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=tests"}
    options = ("--instances", "1", "--threads", "1", "--workers", "2", "--models", "tiny,tiny-transformer")
    shown = ("--otel-endpoint", collector.url, "--metrics-compat", "triton,vllm", "--access-log")
    with RunningService(text_generation_repository, *options, *shown, environment=environment) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def series(observed: RunningService, network: LinearClassifier) -> Series:
    """One scrape after a known load, together with Triton's statistics of the classifier."""
    for n in range(6):
        body = as_json(network.images(2, seed=n))
        httpx.post(f"{observed.url}{CLASSIFY}", json=body).raise_for_status()
    text = {"prompt": "It was a dark", "max_tokens": 5, "temperature": 0}
    for _ in range(3):
        httpx.post(f"{observed.url}{GENERATE}", json=text, timeout=30).raise_for_status()
    late = httpx.post(f"{observed.url}{GENERATE}", json=text, headers={"x-request-timeout": "0.0000001"})
    assert late.status_code == 504
    (stats,) = httpx.get(f"{observed.url}/v2/models/tiny/stats").json()["model_stats"]
    found = parsed(httpx.get(f"{observed.url}/metrics").text)
    parts = {f"stats_{name}": part["ns"] for name, part in stats["inference_stats"].items()}
    return found | {(name, frozenset()): value for name, value in parts.items()}


# --- the names of other servers: these tests come first, for they know every request so far ---


def test_tritons_counts_are_those_of_a_classifier(series: Series) -> None:
    tiny = {"model": "tiny", "version": "1"}

    assert of(series, "nv_inference_request_success", **tiny) == 6
    assert of(series, "nv_inference_count", **tiny) == 12
    assert of(series, "nv_inference_exec_count", **tiny) == 6
    assert of(series, "nv_inference_pending_request_count", **tiny) == 0
    assert 0 < of(series, "nv_model_load_duration_secs", **tiny) < 60
    assert {of(series, "nv_inference_request_failure", **tiny, reason=reason) for reason in ALL_TRITON_REASONS} == {0}


def test_tritons_times_are_those_of_the_statistics_in_microseconds(series: Series) -> None:
    tiny = {"model": "tiny", "version": "1"}
    names = {"request": "success"} | {n: n for n in ("queue", "compute_input", "compute_infer", "compute_output")}

    for theirs, ours in names.items():
        microseconds = of(series, f"nv_inference_{theirs}_duration_us", **tiny)
        assert microseconds == of(series, f"stats_{ours}") // 1000
    assert of(series, "nv_inference_request_duration_us", **tiny) > 0


def test_a_text_generator_has_tritons_counts(series: Series) -> None:
    assert of(series, "nv_inference_request_success", **TEXT) == 3
    assert of(series, "nv_inference_request_failure", **TEXT, reason="REJECTED") == 1
    assert of(series, "nv_inference_pending_request_count", **TEXT) == 0
    assert of(series, "nv_inference_exec_count", **TEXT) == of(series, "hotplate_step_sequences_count", **TEXT)


def test_vllms_names_have_the_texts_of_a_model(series: Series) -> None:
    labels = {"model_name": "tiny-transformer", "engine": "0"}

    assert of(series, "vllm:num_requests_running", **labels) == of(series, "vllm:num_requests_waiting", **labels) == 0
    assert of(series, "vllm:generation_tokens_total", **labels) == 15
    assert of(series, "vllm:prompt_tokens_total", **labels) == of(series, "hotplate_prompt_tokens_total", **TEXT) > 3
    assert of(series, "vllm:prefix_cache_hits_total", **labels) > 0
    assert of(series, "vllm:request_success_total", **labels, finished_reason="length") == 3
    assert of(series, "vllm:request_success_total", **labels, finished_reason="error") == 1
    assert of(series, "vllm:request_queue_time_seconds_count", **labels) == 3
    assert of(series, "vllm:inter_token_latency_seconds_count", **labels) == 12
    # Requests, the late one among them.
    assert of(series, "vllm:e2e_request_latency_seconds_count", **labels) == 4
    assert not any(name.startswith("vllm:") and ("model_name", "tiny") in own for name, own in series)


def test_vllms_histograms_are_ours(series: Series) -> None:
    theirs = {
        dict(own)["le"]: value
        for (name, own), value in series.items()
        if name == "vllm:time_to_first_token_seconds_bucket"
    }
    ours = {
        dict(own)["le"]: value
        for (name, own), value in series.items()
        if name == "hotplate_time_to_first_token_seconds_bucket"
    }

    assert theirs == ours
    assert theirs["+Inf"] == 3


# --- processes that are killed ---


@pytest.mark.slow
def test_no_count_falls_when_processes_are_killed_and_a_full_disk_ends_none(
    repository: Path, network: LinearClassifier
) -> None:
    options = ("--instances", "1", "--threads", "1", "--workers", "2", "--models", "tiny")
    asked = {"route": "/v1/models/{model}/classify", "model": "tiny", "status": "200"}
    with RunningService(repository, *options, program=on_a_full_disk(PROBE_BYTES)) as running:
        running.wait_until_ready()
        for number in range(1, 7):
            for _ in range(10):
                httpx.post(f"{running.url}{CLASSIFY}", content=network.images(1).tobytes(), headers=RAW)
            before = parsed(httpx.get(f"{running.url}/metrics").text)
            assert of(before, "hotplate_requests_total", **asked) == 10 * number
            between = kill_one(running, f"service.processes.{'engine' if number % 2 else 'api'}_process")

            for found in (between, scrape_of(running)):
                assert not {each for each in counts(before) if found.get(each, 0) < before[each]}
        assert of(scrape_of(running), "hotplate_engine_restarts_total") == 3
        running.terminate()
        assert running.wait() == 0, running.describe()

    assert [record["status"] for record in running.records if record["message"].startswith("a process ended")] == [
        -signal.SIGKILL
    ] * 6


def kill_one(running: RunningService, module: str) -> Series:
    """Kill a process and wait for the next one; return a scrape of the time between."""
    children = running.children(module)
    os.kill(children[0], signal.SIGKILL)
    until(lambda: children[0] not in running.children(module), running.describe)
    between = scrape_of(running)
    until(lambda: len(running.children(module)) == len(children), running.describe)
    running.wait_until_ready()
    return between


def scrape_of(running: RunningService) -> Series:
    def scraped() -> str:
        try:
            return httpx.get(f"{running.url}/metrics").raise_for_status().text
        except httpx.TransportError:  # the process that had accepted it was killed
            return ""

    return parsed(until(scraped, running.describe))


def counts(series: Series) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """The series that never fall."""
    return {(name, labels) for name, labels in series if name.endswith(("_total", "_count", "_sum", "_bucket"))}


# --- spans ---


def spans_of(collector: Collector, trace: str, count: int) -> dict[str, Any]:
    """The spans of a trace by name, once there are so many."""

    def found() -> list[Any]:
        return [span for span in list(collector.spans) if span.trace_id.hex() == trace]

    until(lambda: len(found()) >= count, lambda: str(collector.spans[-5:]))
    return {span.name: span for span in found()}


def test_a_request_arrives_at_the_collector_with_its_parts(
    observed: RunningService, collector: Collector, network: LinearClassifier
) -> None:
    headers = RAW | {"traceparent": CALLER, "x-request-id": "r-7"}
    response = httpx.post(f"{observed.url}{CLASSIFY}", content=network.images(1).tobytes(), headers=headers)
    assert response.status_code == 200
    spans = spans_of(collector, TRACE, 3)

    request = spans["POST /v1/models/{model}/classify"]
    assert request.parent_span_id.hex() == CALLER.split("-")[2]
    assert response.headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert {spans[name].parent_span_id for name in ("queue", "compute")} == {request.span_id}
    told = {item.key: item.value.string_value or item.value.int_value for item in request.attributes}
    assert (told["hotplate.request_id"], told["hotplate.model"], told["hotplate.batch_size"]) == ("r-7", "tiny", 1)
    # The engine's times are those that the caller was told, but that a span never begins before its request's.
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", ") if ";dur=" in part)
    for name in ("queue", "compute"):
        lasted_ms = (spans[name].end_time_unix_nano - spans[name].start_time_unix_nano) / 1e6
        if spans[name].start_time_unix_nano > request.start_time_unix_nano:
            assert lasted_ms == pytest.approx(float(timing[name]), abs=0.002)
        else:
            assert lasted_ms <= float(timing[name]) + 0.002
    assert collector.paths == {"/v1/traces"}
    about = collector.resources[-1]
    assert (about["service.name"], about["deployment.environment"]) == ("hotplate", "tests")


def test_a_call_arrives_at_the_collector_too(
    observed: RunningService, collector: Collector, network: LinearClassifier
) -> None:
    trace = TRACE[::-1]
    pixels = network.images(1)
    tensor = triton.InferInput("image", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    with triton.InferenceServerClient(observed.grpc_address) as client:
        metadata = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        client.infer("tiny", [tensor], headers=metadata)
        client.is_server_live()
    call = spans_of(collector, trace, 3)["ModelInfer"]

    assert call.parent_span_id.hex() == "00f067aa0ba902b7"
    assert not collector.named("ServerLive")


def test_a_call_returns_its_span(observed: RunningService) -> None:
    with grpc.insecure_channel(observed.grpc_address) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
        _, call = method.with_call(b"", metadata=(("traceparent", CALLER),))
        trailing = dict(call.trailing_metadata())

    assert trailing["traceparent"].split("-")[1] == TRACE


def test_probes_are_not_traced_and_failures_are(observed: RunningService, collector: Collector) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert "traceparent" not in httpx.get(f"{observed.url}{path}").headers
    trace = "a" * 32
    late = RAW | {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    assert httpx.post(f"{observed.url}/v1/models/none/classify", content=b"", headers=late).status_code == 404
    (span,) = spans_of(collector, trace, 1).values()

    assert span.status.code == 0
    assert not any(part in span.name for span in collector.spans for part in ("livez", "readyz", "metrics"))


def test_a_service_that_ends_sends_what_is_left(repository: Path, network: LinearClassifier) -> None:
    options = ("--instances", "1", "--threads", "1", "--models", "tiny", "--grpc-port", "off")
    with Collector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        with RunningService(repository, *options, environment=environment) as running:
            running.wait_until_ready()
            body = network.images(1).tobytes()
            assert httpx.post(f"{running.url}{CLASSIFY}", content=body, headers=RAW).status_code == 200
            assert collector.spans == []
            running.terminate()
            assert running.wait() == 0

        assert len(collector.named("POST /v1/models/{model}/classify")) == 1


def test_a_service_that_cannot_trace_as_it_is_told_does_not_start(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk.trace'] = None\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with RunningService(repository, "--otel-endpoint", ENDPOINT, environment=environment) as running:
        assert running.wait() == 1

        assert any("otel_endpoint needs the extra `otel`" in line for line in running.lines)


# --- the access log ---


def test_the_access_log_names_every_request(observed: RunningService) -> None:
    httpx.get(f"{observed.url}/v1/models/none?x=1", headers={"x-request-id": "abc"})
    found = until(lambda: [r for r in observed.records if r.get("request_id") == "abc"], observed.describe, 5)

    assert [(r["method"], r["route"], r["model"], r["status"], r["level"]) for r in found] == [
        ("GET", "/v1/models/{model}", "", 404, "INFO")
    ]
    assert found[0]["ms"] > 0
