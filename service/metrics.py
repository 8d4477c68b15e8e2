"""Every metric of the service, declared on a registry that is handed in.

With `PROMETHEUS_MULTIPROC_DIR` set before import, the client library keeps each value in a file of that folder, so that
any API process can answer a scrape for all of them (`exposition`). It does not know what the values mean to callers.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.launch import MULTIPROC_VARIABLE

SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
GRAPH_LABELS = ("model", "version", "graph")
MODEL_STATES = ("loading", "ready", "failed")


class Metrics:
    """All metrics of one process; the same names in every process, so that they add up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "hotplate_requests", "Requests answered.", ("route", "model", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "hotplate_request_seconds",
            "Time from the first byte of a request's head to the last byte of its answer.",
            ("route", "model"),
            buckets=SECONDS,
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "hotplate_requests_in_flight",
            "Requests being worked on; the signal to scale on.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.request_bytes = Counter("hotplate_request_bytes", "Body bytes received.", ("route",), registry=registry)
        self.response_bytes = Counter("hotplate_response_bytes", "Body bytes sent.", ("route",), registry=registry)
        self.decode_seconds = Histogram(
            "hotplate_decode_seconds", "Time to decode and fit one picture.", buckets=SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "hotplate_queue_seconds",
            "Time from a request's arrival at the engine to the start of its first batch.",
            GRAPH_LABELS,
            buckets=SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "hotplate_compute_seconds", "Time to compute one batch.", GRAPH_LABELS, buckets=SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "hotplate_batch_size", "Rows in one batch.", GRAPH_LABELS, buckets=BATCH_SIZES, registry=registry
        )
        self.rows = Counter("hotplate_rows", "Rows computed and answered.", GRAPH_LABELS, registry=registry)
        self.failures = Counter(
            "hotplate_failures",
            "Requests that the engine refused, cancelled or failed, by reason.",
            (*GRAPH_LABELS, "reason"),
            registry=registry,
        )
        self.queue_depth = Gauge(
            "hotplate_queue_depth", "Rows waiting.", GRAPH_LABELS, multiprocess_mode="livesum", registry=registry
        )
        self.model_state = Gauge(
            "hotplate_model_state",
            "1 for the state that a model version is in, else 0.",
            ("model", "version", "state"),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.engine_restarts = Counter(
            "hotplate_engine_restarts", "Engine processes that died and were replaced.", registry=registry
        )
        self.resident_bytes = Gauge(
            "hotplate_process_resident_bytes",
            "Resident memory, summed over the processes of a kind.",
            ("process",),
            multiprocess_mode="livesum",
            registry=registry,
        )

    def set_model_state(self, model: str, version: str, state: str) -> None:
        """Say which state a model version is in."""
        for known in MODEL_STATES:
            self.model_state.labels(model, version, known).set(known == state)


class GraphMetrics:
    """The engine's metrics of one graph, with their labels bound once, and its counts since the start."""

    def __init__(self, metrics: Metrics, model: str, version: str, graph: str) -> None:
        labels = (model, version, graph)
        self.queue_seconds = metrics.queue_seconds.labels(*labels)
        self.queue_depth = metrics.queue_depth.labels(*labels)
        self.rows = metrics.rows.labels(*labels)
        self._compute_seconds = metrics.compute_seconds.labels(*labels)
        self._batch_size = metrics.batch_size.labels(*labels)
        self._failures = {}
        self._bind_failure = lambda reason: metrics.failures.labels(*labels, reason)
        self.num_batches = 0
        self.num_rows = 0
        self.num_failures = 0
        self.total_compute_seconds = 0.0

    def observe_batch(self, num_rows: int, compute_seconds: float) -> None:
        """Count one computed batch."""
        self._compute_seconds.observe(compute_seconds)
        self._batch_size.observe(num_rows)
        self.num_batches += 1
        self.num_rows += num_rows
        self.total_compute_seconds += compute_seconds

    def count_failure(self, reason: str) -> None:
        """Count one request that got an error; reasons are codes of the error tree."""
        if reason not in self._failures:
            self._failures[reason] = self._bind_failure(reason)
        self._failures[reason].inc()
        self.num_failures += 1

    def statistics(self) -> dict[str, float]:
        """The counts since the engine started."""
        return {
            "batches": self.num_batches,
            "rows": self.num_rows,
            "failures": self.num_failures,
            "mean_batch_size": round(self.num_rows / self.num_batches, 3) if self.num_batches else 0.0,
            "compute_seconds": round(self.total_compute_seconds, 6),
        }


def exposition(registry: CollectorRegistry) -> bytes:
    """The Prometheus text of all processes together; of this one alone where it runs by itself."""
    if MULTIPROC_VARIABLE not in os.environ:
        return generate_latest(registry)
    combined = CollectorRegistry()
    MultiProcessCollector(combined)
    return generate_latest(combined)


def resident_bytes() -> int:
    """The resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
