"""Whether requests are traced; and the spans of the real service, as a collector gets them over the wire."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient import grpc as triton

from service.errors import StartupError
from service.settings import Settings
from service.telemetry.spans import Spans
from service.telemetry.tracing import open_tracing
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, until
from tests.service.collector import Collector
from tests.service.http.calls import CLASSIFY, RAW

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
ENDPOINT = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("endpoint", "environment", "is_wanted"),
    [
        ("", {}, False),
        ("", {"OTEL_SERVICE_NAME": "mine"}, False),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, True),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ENDPOINT}, True),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT, {}, True),
    ],
)
def test_a_setting_or_the_standard_variables_ask_for_traces(
    endpoint: str, environment: dict[str, str], is_wanted: bool
) -> None:
    tracing = open_tracing(Settings(otel_endpoint=endpoint), environment)

    assert isinstance(tracing, Spans) == is_wanted
    assert (tracing is None) != is_wanted


def test_without_the_library_the_setting_is_an_error_and_the_variables_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "service.telemetry.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    caplog.set_level(logging.WARNING)

    with pytest.raises(StartupError, match="needs the extra `otel`"):
        open_tracing(Settings(otel_endpoint=ENDPOINT), {})
    assert open_tracing(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}) is None
    assert "requests are not traced" in caplog.text


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector", "http://", "http:///v1/traces"])
def test_an_endpoint_is_an_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match="otel_endpoint"):
        Settings(otel_endpoint=endpoint)


def test_a_service_that_traces_nothing_does_not_import_the_sdk() -> None:
    sdk = "[n for n in sys.modules if n.startswith('opentelemetry.sdk')]"
    code = f"import sys, service.processes.api_process; print({sdk})"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "[]"


# --- the real service ---


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(repository: Path, collector: Collector) -> Iterator[RunningService]:
    """A service that sends its spans five times a second."""
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=tests"}
    options = ("--instances", "1", "--threads", "1", "--otel-endpoint", collector.url)
    with RunningService(repository, *options, environment=environment) as running:
        yield running.wait_until_ready()


def spans_of(collector: Collector, trace: str, count: int) -> dict[str, Any]:
    """The spans of a trace by name, once there are so many."""

    def found() -> list[Any]:
        return [span for span in list(collector.spans) if span.trace_id.hex() == trace]

    until(lambda: len(found()) >= count, lambda: str(collector.spans[-5:]))
    return {span.name: span for span in found()}


def test_a_request_arrives_at_the_collector_with_its_parts(
    traced: RunningService, collector: Collector, network: LinearClassifier
) -> None:
    headers = RAW | {"traceparent": CALLER, "x-request-id": "r-7"}
    response = httpx.post(f"{traced.url}{CLASSIFY}", content=network.images(1).tobytes(), headers=headers)
    assert response.status_code == 200
    spans = spans_of(collector, TRACE, 3)

    request = spans["POST /v1/models/{model}/classify"]
    assert request.parent_span_id.hex() == CALLER.split("-")[2]
    assert response.headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert {spans[name].parent_span_id for name in ("queue", "compute")} == {request.span_id}
    told = {item.key: item.value.string_value or item.value.int_value for item in request.attributes}
    assert (told["hotplate.request_id"], told["hotplate.model"], told["hotplate.batch_size"]) == ("r-7", "tiny", 1)
    # The engine's times are those that the caller was told.
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", ") if ";dur=" in part)
    for name in ("queue", "compute"):
        lasted_ms = (spans[name].end_time_unix_nano - spans[name].start_time_unix_nano) / 1e6
        assert lasted_ms == pytest.approx(float(timing[name]), abs=0.002)
    assert collector.paths == {"/v1/traces"}
    about = collector.resources[-1]
    assert (about["service.name"], about["deployment.environment"]) == ("hotplate", "tests")


def test_a_call_arrives_at_the_collector_too(
    traced: RunningService, collector: Collector, network: LinearClassifier
) -> None:
    trace = TRACE[::-1]
    pixels = network.images(1)
    tensor = triton.InferInput("image", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    with triton.InferenceServerClient(traced.grpc_address) as client:
        metadata = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        client.infer("tiny", [tensor], headers=metadata)
        client.is_server_live()
    call = spans_of(collector, trace, 3)["ModelInfer"]

    assert call.parent_span_id.hex() == "00f067aa0ba902b7"
    assert not collector.named("ServerLive")


def test_a_call_is_told_its_span(traced: RunningService) -> None:
    with grpc.insecure_channel(traced.grpc_address) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
        _, call = method.with_call(b"", metadata=(("traceparent", CALLER),))
        trailing = dict(call.trailing_metadata())

    assert trailing["traceparent"].split("-")[1] == TRACE


def test_probes_are_not_traced_and_failures_are(traced: RunningService, collector: Collector) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert "traceparent" not in httpx.get(f"{traced.url}{path}").headers
    trace = "a" * 32
    late = RAW | {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    assert httpx.post(f"{traced.url}/v1/models/none/classify", content=b"", headers=late).status_code == 404
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
