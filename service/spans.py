"""Spans of requests by OpenTelemetry: the request, its time in the engine's queue, that of computing.

The engine's times come from the exchange's receipt, so nothing is measured twice and the engine knows no spans. Only
`tracing.py` imports this.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from time import perf_counter, time_ns

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.api.exchange import Exchange
from service.engine.batches import Receipt

CLOSE_SECONDS = 3.0
MAX_ENGINE_CALLS = 32
"""Of one request: a large picture has a tile for each, and nobody reads a thousand spans."""
_NANOSECONDS = 1e9
_FAULTS = ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "DATA_LOSS", "UNIMPLEMENTED")


class TracedExchange(Exchange):
    """An exchange with its span, which notes when the engine answered and what each answer cost."""

    __slots__ = ("_receipt", "began_ns", "engine_calls", "num_engine_calls", "span")

    def __init__(self, request_id: str, started_at: float, span: Span, began_ns: int) -> None:
        self._receipt: Receipt | None = None
        self.num_engine_calls = 0
        self.engine_calls: list[tuple[float, float, float]] = []  # answered at, seconds queued, seconds computing
        self.span = span
        self.began_ns = began_ns
        super().__init__(request_id, started_at)

    @property
    def receipt(self) -> Receipt | None:
        """What the engine's work has cost so far."""
        return self._receipt

    @receipt.setter
    def receipt(self, receipt: Receipt | None) -> None:
        if receipt is not None:
            self.num_engine_calls += 1
            if len(self.engine_calls) < MAX_ENGINE_CALLS:
                # Where a request asks the engine several times, the receipt is their sum.
                before = self._receipt or Receipt(0.0, 0.0, 0)
                queued, computing = receipt.queue_seconds, receipt.compute_seconds
                cost = (queued - before.queue_seconds, computing - before.compute_seconds)
                self.engine_calls.append((perf_counter(), *cost))
        self._receipt = receipt


class Spans:
    """Makes spans of exchanges and hands them to a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("hotplate", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, request_id: str, started_at: float, told: Mapping[str, str]) -> TracedExchange:
        """Begin the span of a request, under the caller's where `traceparent` names it."""
        began_ns = time_ns()
        parent = self._propagator.extract(told)
        span = self._tracer.start_span("request", parent, SpanKind.SERVER, start_time=began_ns)
        exchange = TracedExchange(request_id, started_at, span, began_ns)
        context: dict[str, str] = {}
        self._propagator.inject(context, set_span_in_context(span))
        exchange.traceparent = context.get("traceparent", "")
        return exchange

    def end_http(self, exchange: Exchange, method: str, route: str, status: int) -> None:
        """End the span of a request over HTTP."""
        about: dict[str, str | int] = {"http.request.method": method, "http.route": route}
        about["http.response.status_code"] = status
        self._end(exchange, f"{method} {route}", about, is_fault=status >= 500)

    def end_call(self, exchange: Exchange, name: str, code: str) -> None:
        """End the span of a gRPC call."""
        about: dict[str, str | int] = {"rpc.system": "grpc", "rpc.method": name, "rpc.response.status_code": code}
        self._end(exchange, name, about, is_fault=code in _FAULTS)

    def _end(self, exchange: Exchange, name: str, about: dict[str, str | int], *, is_fault: bool) -> None:
        if not isinstance(exchange, TracedExchange):
            return  # a probe
        span = exchange.span
        if span.is_recording():
            span.update_name(name)
            span.set_attributes(about | _of_hotplate(exchange))
            if is_fault:
                span.set_status(StatusCode.ERROR)
            self._add_engine_spans(exchange)
        span.end(_ns(exchange, perf_counter()))

    def _add_engine_spans(self, exchange: TracedExchange) -> None:
        context = set_span_in_context(exchange.span)
        for answered_at, queue_seconds, compute_seconds in exchange.engine_calls:
            began = answered_at - compute_seconds
            moments = (("queue", began - queue_seconds, began), ("compute", began, answered_at))
            for name, start, end in moments:
                start_ns = _ns(exchange, max(start, exchange.started_at))
                span = self._tracer.start_span(name, context, start_time=start_ns)
                span.end(max(_ns(exchange, end), start_ns))

    async def close(self) -> None:
        """Send what is left; a collector that does not answer is not waited for long."""
        ending = threading.Thread(target=self._provider.shutdown, name="spans-end", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, CLOSE_SECONDS)


def open_spans(endpoint: str, environment: Mapping[str, str]) -> Spans:
    """Send spans to a collector by OTLP over HTTP; an empty endpoint leaves it to the `OTEL_` variables."""
    address = f"{endpoint.rstrip('/').removesuffix('/v1/traces')}/v1/traces" if endpoint else None
    about = {"service.version": __version__}
    named = ("OTEL_SERVICE_NAME" in environment, "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if not any(named):
        about["service.name"] = "hotplate"
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))
    return Spans(provider)


def _of_hotplate(exchange: TracedExchange) -> dict[str, str | int]:
    about: dict[str, str | int] = {"hotplate.request_id": exchange.request_id}
    if exchange.model:
        about["hotplate.model"] = exchange.model
    if exchange.receipt is not None:
        about["hotplate.engine_calls"] = exchange.num_engine_calls
        if exchange.receipt.batch_size:
            about["hotplate.batch_size"] = exchange.receipt.batch_size
    return about


def _ns(exchange: TracedExchange, moment: float) -> int:
    """A moment of the performance counter as nanoseconds since 1970."""
    return exchange.began_ns + round((moment - exchange.started_at) * _NANOSECONDS)
