"""One version of a model in the engine: its state, its graphs with their queues and instances, and its end."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import msgspec

from models.config import ModelConfig
from models.manifest import Graph
from service.engine.batching.batcher import Batcher, Instance, Pool, Scheduler
from service.engine.batching.instance import ThreadInstance
from service.engine.batching.response_cache import ResponseCache
from service.engine.batching.rows import RowRules
from service.engine.batching.scheduling import Limits, efficient_rows
from service.engine.batching.shape_batchers import RowCost, ShapeBatchers
from service.engine.generation.text_generator import TextGenerator
from service.engine.repository.loading import LoadedGraph, LoadedVersion
from service.engine.repository.repository import Fingerprint
from service.engine.runtime.runtime import Device
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import ModelStatus
from service.settings import Settings
from service.telemetry.language_metrics import LanguageMetrics
from service.telemetry.metrics import GraphMetrics, Metrics

# How much a row in a batch of varying rows may cost, relative to the best batch.
MAX_INEFFICIENCY = 1.05
DRAIN_POLL_SECONDS = 0.005


@dataclass(slots=True)
class ServedGraph:
    """One graph with its queue and its instances."""

    graph: Graph
    rules: RowRules
    queue: Batcher | ShapeBatchers
    metrics: GraphMetrics
    instances: list[ThreadInstance]

    def close(self) -> None:
        """Close the queue, which must be idle, and the instances."""
        self.queue.close()
        for instance in self.instances:
            instance.close()


@dataclass(slots=True, eq=False)
class Version:
    """One version: its state and, once it is ready, its graphs and its text generator.

    `holders` are the API processes that may still send it requests while it is unloading.
    """

    status: ModelStatus
    config: ModelConfig = field(default_factory=ModelConfig)
    fingerprint: Fingerprint = ()
    graphs: dict[str, ServedGraph] = field(default_factory=dict)
    generator: TextGenerator | None = None
    cache: ResponseCache | None = None
    holders: set[ApiConnection] = field(default_factory=set)

    @property
    def is_loaded(self) -> bool:
        """Whether it can answer requests."""
        return bool(self.graphs or self.generator)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or being computed."""
        queues = (graph.queue for graph in self.graphs.values())
        is_generating = self.generator is not None and not self.generator.is_idle
        return not is_generating and not any(queue.waiting_rows or queue.computing_rows for queue in queues)

    def close(self) -> None:
        """Release the graphs, which must be idle, and end their threads."""
        for graph in self.graphs.values():
            graph.close()
        if self.generator is not None:
            self.generator.close()
        self.graphs, self.generator, self.cache = {}, None, None

    def describe(self) -> ModelStatus:
        """Its status with its statistics so far."""
        statistics: dict[str, float] = {}
        if self.generator is not None:
            statistics |= self.generator.statistics()
        for name, graph in self.graphs.items():
            prefix = "" if len(self.graphs) == 1 and self.generator is None else f"{name}."
            statistics |= {prefix + key: value for key, value in graph.metrics.statistics().items()}
            statistics[prefix + "queued_rows"] = graph.queue.waiting_rows
            statistics[prefix + "queued_requests"] = graph.queue.num_waiting
        records = {name: graph.metrics.record.snapshot() for name, graph in self.graphs.items()}
        return msgspec.structs.replace(self.status, statistics=statistics, graph_statistics=records)


def open_version(
    loaded: LoadedVersion,
    config: ModelConfig,
    settings: Settings,
    device: Device,
    metrics: Metrics,
    scheduler: Scheduler,
    call_in_loop: Callable[..., object],
) -> Version:
    """Give a loaded version its queues and instances."""
    name, version = loaded.manifest.name, loaded.manifest.version
    settings = settings.model_copy(update=config.overrides())
    graphs = open_graphs(loaded, settings, scheduler, call_in_loop, metrics)
    generator = None
    if loaded.decoder is not None:
        language_metrics = LanguageMetrics(metrics, name, version)
        metrics.max_sequences.labels(name, version).set(loaded.decoder.decoder.num_slots)
        metrics.max_waiting_sequences.labels(name, version).set(settings.max_waiting_sequences)
        generator = TextGenerator(loaded.decoder, settings, language_metrics, monotonic, call_in_loop, name)
    # A sampled text is not the answer to the same prompt of another caller.
    cache = ResponseCache(config.cache_bytes) if config.cache_bytes and generator is None else None
    return Version(ready_status(loaded, config, device), config, (), graphs, generator, cache)


def open_graphs(
    loaded: LoadedVersion,
    settings: Settings,
    scheduler: Scheduler,
    call_in_loop: Callable[..., object],
    metrics: Metrics,
) -> dict[str, ServedGraph]:
    """Open a queue for each graph of a version.

    Graphs whose rows vary in size share a pool of instances, so that only as many large batches are in memory at once
    as the pool has instances.
    """
    manifest = loaded.manifest
    num_shared = min((len(graph.runners) for graph in loaded.graphs.values() if graph.rules.varies), default=0)
    pool = Pool(num_shared)
    served = {}
    for name, graph in loaded.graphs.items():
        # NaN and infinity may be valid outputs of an arbitrary graph.
        must_be_finite = manifest.task != "tensors"
        instances = [
            ThreadInstance(runner, call_in_loop, f"{manifest.name}.{name}.{i}", must_be_finite=must_be_finite)
            for i, runner in enumerate(graph.runners[:num_shared] if graph.rules.varies else graph.runners)
        ]
        graph_metrics = GraphMetrics(metrics, manifest.name, manifest.version, name)
        queue = _open_queue(graph, instances, settings, scheduler, graph_metrics, pool)
        served[name] = ServedGraph(graph.graph, graph.rules, queue, graph_metrics, instances)
    return served


def _open_queue(
    graph: LoadedGraph,
    instances: Sequence[Instance],
    settings: Settings,
    scheduler: Scheduler,
    metrics: GraphMetrics,
    pool: Pool,
) -> Batcher | ShapeBatchers:
    limits = Limits(
        graph.batching.max_batch_size,
        settings.max_queue_delay_seconds,
        settings.max_queue_rows,
        len(instances),
        efficient_rows(graph.bucket_seconds),
    )
    metrics.max_queue_rows.set(limits.max_queue_rows)
    if not graph.rules.varies:
        return Batcher(graph.rules.inputs, instances, limits, graph.cost, scheduler, metrics)
    cost = RowCost(graph.cost, graph.cost_elements)
    # Rows beyond an efficient batch are better computed by another instance.
    efficient_elements = efficient_rows(graph.bucket_seconds, MAX_INEFFICIENCY) * graph.cost_elements
    bound = min(graph.graph.max_batch_elements or efficient_elements, efficient_elements)
    return ShapeBatchers(graph.rules, instances, limits, cost, scheduler, metrics, pool, bound)


def ready_status(loaded: LoadedVersion, config: ModelConfig, device: Device) -> ModelStatus:
    """The status of a version that is ready."""
    manifest, graphs, decoder = loaded.manifest, loaded.graphs, loaded.decoder
    seconds = {
        (str(bucket) if len(graphs) == 1 and decoder is None else f"{name}.{bucket}"): spent
        for name, graph in graphs.items()
        for bucket, spent in graph.bucket_seconds.items()
    }
    status = ModelStatus(
        name=manifest.name,
        version=manifest.version,
        state="ready",
        manifest=manifest.to_json(),
        config=config.to_json(),
        device=str(device),
        golden_error=loaded.golden_error,
        load_seconds=loaded.load_seconds,
        bucket_seconds=seconds,
    )
    if decoder is None:
        first = next(iter(graphs.values()))
        return msgspec.structs.replace(
            status,
            providers=first.providers,
            max_batch_size=first.batching.max_batch_size,
            buckets=first.batching.buckets,
            instances=len(first.runners),
            threads=first.num_threads,
        )
    steps = decoder.cost.decode_seconds
    return msgspec.structs.replace(
        status,
        providers=decoder.providers,
        max_batch_size=decoder.decoder.num_slots,
        buckets=tuple(steps),
        instances=1,
        threads=decoder.num_threads,
        bucket_seconds={f"decode.{size}": spent for size, spent in steps.items()} | seconds,
    )


async def drain(version: Version, timeout_seconds: float) -> None:
    """Close a version once it is idle and no API process may send it requests any more, or a timeout has passed."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + timeout_seconds
    while (version.holders and loop.time() < limit) or not version.is_idle:
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    version.close()
    await asyncio.to_thread(_free_memory)


def _free_memory() -> None:
    """Collect the reference cycles that hold sessions, and return free memory to the system."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # a C library without malloc_trim frees memory by itself
        return
