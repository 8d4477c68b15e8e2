"""Every metric of the service, declared once, the same in every process, so that they add up.

A process knows its own figures; `gathering.py` brings those of all together.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Metric, generate_latest

from service.engine.batching.scheduling import REASONS, Reason
from service.telemetry.graph_statistics import GraphRecord
from service.telemetry.instruments import Counter, Family, Figures, Gauge, Histogram, add
from service.telemetry.timeline import Timeline

SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
GRAPH_LABELS = ("model", "version", "graph")
VERSION_LABELS = ("model", "version")
GPU_LABELS = ("gpu", "uuid")
READY_NAME = "hotplate_ready"
READY_HELP = "1 where the API process that answers this scrape is ready, else 0."
MODEL_STATES = ("loading", "ready", "idle", "unloading", "unavailable", "failed")
_MEMORY_INTERVAL_SECONDS = 5.0
AFamily = TypeVar("AFamily", bound=Family[Any])


# What several engines have of these is not their sum.
_LARGEST = {
    f"hotplate_{name}" for name in ("model_state", "model_precision", "cache_used_ratio", "shadow_max_abs_difference")
}


class Metrics:
    """All metrics of one process, in which the client library finds them through a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.families: dict[str, Family[Any]] = {}
        self.gather: Callable[[], Coroutine[Any, Any, Figures]] = self._gather_own
        """The figures of all processes; of this one alone where it runs by itself."""
        self.timeline = Timeline()
        self._declare_http()
        self._declare_engine()
        self._declare_shadows()
        self._declare_language()
        self._declare_processes()
        registry.register(self)

    def _declare_http(self) -> None:
        self.requests = self._counter("requests", "Requests answered.", "route", "model", "status")
        self.request_seconds = self._histogram(
            "request_seconds", "Time from a request's head to the last byte of its answer.", SECONDS, "route", "model"
        )
        self.requests_in_flight = self._gauge(
            "requests_in_flight", "Requests being worked on; the signal to scale on."
        ).labels()
        self.connections = self._gauge("connections", "Open HTTP connections.").labels()
        self.refused_connections = self._counter(
            "refused_connections", "HTTP connections beyond `max_connections`."
        ).labels()
        self.health_watchers = self._gauge("health_watchers", "Open gRPC streams of `Health.Watch`.").labels()
        self.buffered_bytes = self._gauge(
            "buffered_bytes", "Bytes kept for callers, of at most `max_buffered_bytes` in each API process."
        ).labels()
        self.request_bytes = self._counter("request_bytes", "Body bytes received.", "route")
        self.response_bytes = self._counter("response_bytes", "Body bytes sent.", "route")
        self.decode_seconds = self._histogram("decode_seconds", "Time to decode and fit one image.", SECONDS).labels()
        self.encode_seconds = self._histogram(
            "encode_seconds", "Time to encode a stylized image, or the generated images of a request together.", SECONDS
        ).labels()

    def _declare_engine(self) -> None:
        self.queue_seconds = self._histogram(
            "queue_seconds",
            "Time from a request's arrival at the engine to the start of its first batch; of a text, to its slot.",
            SECONDS,
            *GRAPH_LABELS,
        )
        self.compute_seconds = self._histogram("compute_seconds", "Time to compute one batch.", SECONDS, *GRAPH_LABELS)
        self.batch_size = self._histogram("batch_size", "Rows in one batch.", BATCH_SIZES, *GRAPH_LABELS)
        self.batches = self._counter(
            "batches",
            "Batches computed, by why they left the queue: full, at the end of the window, for a deadline, or at once "
            "as the device was idle.",
            *GRAPH_LABELS,
            "reason",
        )
        self.rows = self._counter("rows", "Rows computed and answered.", *GRAPH_LABELS)
        self.failures = self._counter(
            "failures", "Requests that the engine refused, cancelled or failed, by reason.", *GRAPH_LABELS, "reason"
        )
        self.lost_row_batches = self._counter(
            "lost_row_batches",
            "Batches that did not return a row for each of theirs, so that the graph is no longer batched.",
            *GRAPH_LABELS,
        )
        self.degraded_rows = self._counter(
            "degraded_rows",
            "Rows that a cheaper twin of the model computed, as its latency objective left no time for more.",
            *GRAPH_LABELS,
        )
        self.queue_depth = self._gauge("queue_depth", "Rows waiting.", *GRAPH_LABELS)
        self.max_queue_rows = self._gauge("max_queue_rows", "Rows that may wait; more are refused.", *GRAPH_LABELS)
        self.model_state = self._gauge(
            "model_state", "1 for the state that a model version is in, else 0.", "model", "version", "state"
        )
        self.model_precision = self._gauge(
            "model_precision",
            "1 for the precision that serves a version with variants, else 0.",
            *VERSION_LABELS,
            "precision",
        )
        self.load_failures = self._counter(
            "load_failures", "Times that a model version was rejected when it was loaded.", *VERSION_LABELS
        )

        self.loads = self._counter("loads", "Times that a model version was loaded.", *VERSION_LABELS)
        self.idle_unloads = self._counter(
            "idle_unloads",
            "Times that a model version gave its memory back, by reason: idle, memory (others needed it).",
            *VERSION_LABELS,
            "reason",
        )
        self.model_memory_bytes = self._gauge(
            "model_memory_bytes", "By how much loading a model version made the engine larger.", *VERSION_LABELS
        )
        self.max_model_memory_bytes = self._gauge(
            "max_model_memory_bytes", "Memory that all loaded models may take together."
        ).labels()

    def _declare_shadows(self) -> None:
        self.shadow_requests = self._counter(
            "shadow_requests",
            "Answered requests that a shadow computed too, by outcome: agreed, disagreed, dropped, failed.",
            *VERSION_LABELS,
            "outcome",
        )
        self.shadow_rows = self._counter("shadow_rows", "Rows compared with a shadow.", *VERSION_LABELS)
        self.shadow_agreeing_rows = self._counter(
            "shadow_agreeing_rows", "Of these, rows on which the shadow agrees with the default.", *VERSION_LABELS
        )
        self.shadow_max_abs_difference = self._gauge(
            "shadow_max_abs_difference", "Largest difference of a number from that of the default.", *VERSION_LABELS
        )

    def _declare_language(self) -> None:
        self.time_to_first_token_seconds = self._histogram(
            "time_to_first_token_seconds",
            "Time from a prompt's arrival at the engine to its first token.",
            SECONDS,
            *VERSION_LABELS,
        )
        self.inter_token_seconds = self._histogram(
            "inter_token_seconds", "Time between two tokens of one text.", SECONDS[1:], *VERSION_LABELS
        )
        self.step_seconds = self._histogram(
            "step_seconds", "Time of one step: prompts, one token of every text, sampling.", SECONDS, *VERSION_LABELS
        )
        self.step_sequences = self._histogram(
            "step_sequences", "Texts that one step continued.", BATCH_SIZES, *VERSION_LABELS
        )
        self.step_prefill_tokens = self._histogram(
            "step_prefill_tokens", "Prompt tokens that one step computed, where it did any.", TOKENS, *VERSION_LABELS
        )
        self.grammar_seconds = self._histogram(
            "grammar_seconds", "Time to compile a grammar that was not kept.", SECONDS, *VERSION_LABELS
        )
        self.mask_seconds = self._histogram(
            "mask_seconds",
            "Time to compute what grammars forbid the texts of a step, beside the step before.",
            SECONDS,
            *VERSION_LABELS,
        )
        self.mask_wait_seconds = self._counter(
            "mask_wait_seconds", "Time that steps waited for such masks.", *VERSION_LABELS
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of admitted prompts.", *VERSION_LABELS)
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated.", *VERSION_LABELS)
        self.prefix_query_tokens = self._counter(
            "prefix_query_tokens", "Prompt tokens that were looked for in the slots' states.", *VERSION_LABELS
        )
        self.prefix_hit_tokens = self._counter(
            "prefix_hit_tokens", "Prompt tokens that a slot's state held already.", *VERSION_LABELS
        )
        self.finished = self._counter("finished", "Texts that ended, by reason.", *VERSION_LABELS, "reason")
        self.sequences_running = self._gauge("sequences_running", "Texts with a slot.", *VERSION_LABELS)
        self.sequences_waiting = self._gauge("sequences_waiting", "Texts that wait for a slot.", *VERSION_LABELS)
        self.max_sequences = self._gauge("max_sequences", "Slots: texts that may run at once.", *VERSION_LABELS)
        self.max_waiting_sequences = self._gauge(
            "max_waiting_sequences", "Texts that may wait; more are refused.", *VERSION_LABELS
        )
        self.cache_used_ratio = self._gauge(
            "cache_used_ratio", "Tokens of running texts, of all that the slots can hold.", *VERSION_LABELS
        )

    def _declare_processes(self) -> None:
        self.engine_restarts = self._counter(
            "engine_restarts", "Engine processes that died and were replaced."
        ).labels()
        self.decoders_ended = self._counter(
            "decoders_ended", "Decoder processes ended within an image: its caller had left, its time or memory was up."
        ).labels()
        self.process_restarts = self._counter(
            "process_restarts",
            "Times that a process was to be started again, by reason: ended, hung, not_started.",
            "kind",
            "reason",
        )
        self.resident_bytes = self._gauge(
            "process_resident_bytes", "Resident memory, summed over the processes of a kind.", "process"
        )
        self.gpu_utilization_ratio = self._gauge(
            "gpu_utilization_ratio", "Share of the last moments in which the GPU computed, by any program.", *GPU_LABELS
        )
        self.gpu_memory_used_bytes = self._gauge(
            "gpu_memory_used_bytes", "Memory of the GPU in use, by any program.", *GPU_LABELS
        )
        self.gpu_memory_bytes = self._gauge("gpu_memory_bytes", "Memory that the GPU has.", *GPU_LABELS)
        self.gpu_power_watts = self._gauge("gpu_power_watts", "Power that the GPU draws.", *GPU_LABELS)

    def _counter(self, name: str, help_text: str, *labels: str) -> Family[Counter]:
        return self._add(Family(f"hotplate_{name}", help_text, labels, Counter))

    def _gauge(self, name: str, help_text: str, *labels: str) -> Family[Gauge]:
        return self._add(Family(f"hotplate_{name}", help_text, labels, Gauge))

    def _histogram(self, name: str, help_text: str, bounds: tuple[float, ...], *labels: str) -> Family[Histogram]:
        return self._add(Family(f"hotplate_{name}", help_text, labels, partial(Histogram, bounds), bounds))

    def _add(self, family: AFamily) -> AFamily:
        self.families[family.name] = family
        return family

    def figures(self) -> Figures:
        """The figures of this process, without families that have no series."""
        return {name: series for name, family in self.families.items() if (series := family.series())}

    async def _gather_own(self) -> Figures:
        return self.figures()

    def lasting(self, figures: Figures) -> Figures:
        """What remains of a process that has ended: gauges tell of the living."""
        return {name: series for name, series in figures.items() if self.families[name].kind != "gauge"}

    def add(self, total: Figures, part: Figures) -> None:
        """Add the figures of a process to those of others, in place."""
        add(total, part, _LARGEST)

    def of(self, figures: Figures) -> list[Metric]:
        """Figures of any processes, as the client library writes them out."""
        return [family.metric(figures[name]) for name, family in self.families.items() if name in figures]

    def collect(self) -> Iterator[Metric]:
        """The metrics of this process; a registry calls this."""
        return (family.metric(family.series()) for family in self.families.values())

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
        self.max_queue_rows = metrics.max_queue_rows.labels(*labels)
        self.rows = metrics.rows.labels(*labels)
        self.lost_row_batches = metrics.lost_row_batches.labels(*labels)
        self.degraded_rows = metrics.degraded_rows.labels(*labels)
        self._compute_seconds = metrics.compute_seconds.labels(*labels)
        self._batch_size = metrics.batch_size.labels(*labels)
        self._batches = {reason: metrics.batches.labels(*labels, reason) for reason in REASONS}
        self._failures: dict[str, Counter] = {}
        self._bind_failure: Callable[[str], Counter] = partial(metrics.failures.labels, *labels)
        self._labels, self._timeline = labels, metrics.timeline
        self.record = GraphRecord()
        self.num_batches = 0
        self.num_rows = 0
        self.num_failures = 0
        self.total_compute_seconds = 0.0

    def observe_batch(
        self, num_rows: int, started_at: float, compute_seconds: float, reason: Reason, instance: int = 0
    ) -> None:
        """Count one computed batch, why it left the queue, and which instance computed it."""
        ended_at = started_at + compute_seconds
        self._timeline.add((self._labels, instance, "batch", num_rows, started_at, ended_at, reason))
        self._compute_seconds.observe(compute_seconds)
        self._batch_size.observe(num_rows)
        self._batches[reason].inc()
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


class _Gathered:
    """What the client library asks of a registry that it writes out."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(metrics: Iterable[Metric]) -> bytes:
    """The metrics in the Prometheus text format."""
    return generate_latest(_Gathered(metrics))


async def report_memory(metrics: Metrics, process: str) -> None:
    """Keep the resident memory of this process up to date, for ever."""
    gauge = metrics.resident_bytes.labels(process)
    while True:
        gauge.set(resident_bytes())
        await asyncio.sleep(_MEMORY_INTERVAL_SECONDS)


def resident_bytes() -> int:
    """The resident memory of this process."""
    return _pages()[1] * os.sysconf("SC_PAGE_SIZE")


def private_bytes() -> int:
    """The resident memory of this process without pages of files, which the system drops where memory is short."""
    pages = _pages()
    return (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE")


def _pages() -> list[int]:
    return [int(count) for count in Path("/proc/self/statm").read_text().split()]
