"""Whether requests are traced; and their spans, kept in memory: names, context, the engine's times, faults."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from time import perf_counter, time_ns

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from service.engine.transport.messages import InferenceTiming
from service.errors import StartupError
from service.http.request_context import RequestContext
from service.settings import Settings
from service.telemetry.spans import MAX_ENGINE_CALLS, Spans
from service.telemetry.tracing import open_tracing

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


# --- spans ---

ROUTE = "/v1/models/{model}/classify"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Spans:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Spans(provider)


def finished(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return span.attributes


def test_a_request_has_a_span_under_its_callers(spans: Spans, exporter: InMemorySpanExporter) -> None:
    context = spans.begin("r-1", perf_counter(), {"traceparent": CALLER, "tracestate": "vendor=1"})
    context.model = "tiny"
    spans.end_http(context, "POST", ROUTE, 200)

    (span,) = finished(exporter, f"POST {ROUTE}")
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == CALLER.split("-")[1]
    assert f"{span.parent.span_id:016x}" == CALLER.split("-")[2]
    # Outwards: the same trace, this span, and still sampled.
    assert context.traceparent == f"00-{CALLER.split('-')[1]}-{span.context.span_id:016x}-01"
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": 200,
        "hotplate.request_id": "r-1",
        "hotplate.model": "tiny",
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("told", [{}, {"traceparent": "00-nonsense-01"}, {"traceparent": "00-" + "0" * 32 + "-1-01"}])
def test_a_request_without_a_valid_caller_begins_a_trace(
    spans: Spans, exporter: InMemorySpanExporter, told: dict[str, str]
) -> None:
    context = spans.begin("r-1", perf_counter(), told)
    spans.end_http(context, "GET", "/v1/models", 200)

    (span,) = finished(exporter, "GET /v1/models")
    assert span.parent is None
    version, trace, parent, flags = context.traceparent.split("-")
    assert (version, trace, parent) == ("00", f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")
    assert int(flags, 16) & 1  # sampled


def test_queue_and_compute_lie_within_the_request_one_after_the_other(
    spans: Spans, exporter: InMemorySpanExporter
) -> None:
    context = spans.begin("r-1", perf_counter() - 0.5, {})  # it began half a second ago
    context.timing = InferenceTiming(0.1, 0.25, 8)
    spans.end_http(context, "POST", ROUTE, 200)

    (request,), (queue,), (compute,) = (finished(exporter, name) for name in (f"POST {ROUTE}", "queue", "compute"))
    assert seconds(queue) == pytest.approx(0.1, abs=1e-6)
    assert seconds(compute) == pytest.approx(0.25, abs=1e-6)
    assert queue.end_time == compute.start_time
    assert request.start_time is not None
    assert queue.start_time is not None
    assert request.start_time < queue.start_time
    assert compute.end_time is not None
    assert request.end_time is not None
    assert compute.end_time <= request.end_time
    for part in (queue, compute):
        assert part.parent is not None
        assert part.parent.span_id == request.context.span_id
    assert attributes(request)["hotplate.batch_size"] == 8
    assert abs(request.end_time - time_ns()) < 60e9


def test_each_of_several_engine_calls_has_its_own_times(spans: Spans, exporter: InMemorySpanExporter) -> None:
    context = spans.begin("r-1", perf_counter() - 9, {})
    context.timing = InferenceTiming(0.1, 0.2, 4)
    context.timing = InferenceTiming(0.4, 0.3, 4)  # the sum of both
    assert context.timing == InferenceTiming(0.4, 0.3, 4)
    spans.end_http(context, "POST", ROUTE, 200)

    assert [round(seconds(span), 6) for span in finished(exporter, "queue")] == [0.1, 0.3]
    assert [round(seconds(span), 6) for span in finished(exporter, "compute")] == [0.2, 0.1]


def test_a_thousand_tiles_do_not_make_a_thousand_spans(spans: Spans, exporter: InMemorySpanExporter) -> None:
    context = spans.begin("r-1", perf_counter(), {})
    for n in range(1, 1001):
        context.timing = InferenceTiming(0.0, n * 1e-6, 1)
    spans.end_http(context, "POST", ROUTE, 200)

    assert len(finished(exporter, "compute")) == MAX_ENGINE_CALLS
    assert attributes(finished(exporter, f"POST {ROUTE}")[0])["hotplate.engine_calls"] == 1000


@pytest.mark.parametrize(("status", "is_fault"), [(200, False), (422, False), (499, False), (503, True), (500, True)])
def test_only_the_services_own_faults_are_errors(
    spans: Spans, exporter: InMemorySpanExporter, status: int, is_fault: bool
) -> None:
    spans.end_http(spans.begin("r-1", perf_counter(), {}), "POST", ROUTE, status)

    (span,) = exporter.get_finished_spans()
    assert (span.status.status_code is StatusCode.ERROR) == is_fault


@pytest.mark.parametrize(("code", "is_fault"), [("OK", False), ("INVALID_ARGUMENT", False), ("UNAVAILABLE", True)])
def test_a_call_is_named_by_its_method(spans: Spans, exporter: InMemorySpanExporter, code: str, is_fault: bool) -> None:
    spans.end_call(spans.begin("r-1", perf_counter(), {}), "ModelInfer", code)

    (span,) = finished(exporter, "ModelInfer")
    assert attributes(span)["rpc.response.status_code"] == code
    assert (span.status.status_code is StatusCode.ERROR) == is_fault


def test_what_the_caller_does_not_sample_costs_no_spans() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(provider)

    context = spans.begin("r-1", perf_counter(), {"traceparent": CALLER[:-2] + "00"})
    context.timing = InferenceTiming(0.1, 0.2, 1)
    spans.end_http(context, "POST", ROUTE, 200)

    assert exporter.get_finished_spans() == ()
    assert context.traceparent.split("-")[1] == CALLER.split("-")[1]
    assert context.traceparent.endswith("-00")


def test_a_probe_has_no_span(spans: Spans, exporter: InMemorySpanExporter) -> None:
    spans.end_http(RequestContext("r-1", perf_counter()), "GET", "/livez", 200)

    assert exporter.get_finished_spans() == ()
