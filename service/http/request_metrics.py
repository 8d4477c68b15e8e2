"""Counts answered requests, whatever carried them, with the labels of each route and model bound once."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from service.http.request_context import RequestContext
from service.telemetry.metrics import Metrics


class RequestMetrics:
    """The request metrics of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counters: dict[tuple[str, str, str], Any] = {}
        self._histograms: dict[tuple[str, str], Any] = {}
        self._bytes: dict[str, tuple[Any, Any]] = {}

    def enter(self) -> None:
        """Count one more request that is being worked on."""
        self._metrics.requests_in_flight.inc()

    def leave(self, route: str, status: str, context: RequestContext, sent_bytes: int) -> float:
        """Count a request that has ended; return the seconds that it took."""
        seconds = perf_counter() - context.started_at
        self._metrics.requests_in_flight.dec()
        key = (route, context.model, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._metrics.requests.labels(*key)
            self._histograms[key[:2]] = self._metrics.request_seconds.labels(*key[:2])
            self._bytes[route] = (self._metrics.request_bytes.labels(route), self._metrics.response_bytes.labels(route))
        counter.inc()
        self._histograms[key[:2]].observe(seconds)
        received, sent = self._bytes[route]
        received.inc(context.request_bytes)
        sent.inc(sent_bytes)
        return seconds
