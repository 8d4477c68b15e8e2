"""One version of a model in the engine: its state, its graphs with their queues and instances, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

import msgspec

from models.config import ModelConfig
from models.manifest import Graph, Manifest
from service.engine.batching.batcher import Batcher, OnLostRows, Scheduler
from service.engine.batching.cost import LearnedCost, efficient_rows, short_rows
from service.engine.batching.graph_queue import GraphQueue
from service.engine.batching.instance import MAX_LOOP_SECONDS, ThreadInstance
from service.engine.batching.pool import Pool
from service.engine.batching.response_cache import ResponseCache
from service.engine.batching.rows import RowRules, whole_rules
from service.engine.batching.scheduling import Limits
from service.engine.batching.shape_batchers import ShapeBatchers
from service.engine.compute_watch import ComputeThread
from service.engine.device_turns import DeviceTurns, Share
from service.engine.generation.text_generator import TextGenerator
from service.engine.repository.loading import LoadedGraph, LoadedVersion, Plan, Twin
from service.engine.repository.repository import Fingerprint
from service.engine.runtime.runners import Runner
from service.engine.runtime.runtime import CPU, Device, free_memory
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import GraphBatching, ModelStatus
from service.settings import Settings
from service.telemetry.language_metrics import LanguageMetrics
from service.telemetry.metrics import GraphMetrics, Metrics

log = logging.getLogger(__name__)

DRAIN_POLL_SECONDS = 0.005
SHORT_SECONDS = MAX_LOOP_SECONDS / 2


@dataclass(slots=True)
class ServedGraph:
    """One graph with its queue and its instances."""

    graph: Graph
    rules: RowRules
    queue: GraphQueue
    metrics: GraphMetrics
    instances: list[ThreadInstance]
    pools: list[Pool]
    output_names: frozenset[str]

    def close(self) -> None:
        """Close the queue, which must be idle, and the instances."""
        self.queue.close()
        for pool in self.pools:
            pool.close()
        for instance in self.instances:
            instance.close()


@dataclass(slots=True, eq=False)
class Version:
    """One version: its state and, once it is ready, its graphs and its text generator.

    `holders` are the API processes that may still send it requests while it is unloading. `on_change` is called when
    its status changes by itself. `folder` holds its files; `used_at` is when it was last asked for anything, and
    `idle_unload_seconds` later it gives its memory back, unless that is 0. `plan` spares its next load the measuring.
    """

    status: ModelStatus
    config: ModelConfig = field(default_factory=ModelConfig)
    fingerprint: Fingerprint = ()
    graphs: dict[str, ServedGraph] = field(default_factory=dict)
    generator: TextGenerator | None = None
    cache: ResponseCache | None = None
    holders: set[ApiConnection] = field(default_factory=set)
    on_change: Callable[[], None] = lambda: None
    folder: Path | None = None
    used_at: float = 0.0
    idle_unload_seconds: float = 0.0
    plan: Plan | None = None

    @property
    def is_served(self) -> bool:
        """Whether it answers requests, now or once it is loaded again."""
        return self.is_loaded or self.status.state == "idle"

    @property
    def is_loaded(self) -> bool:
        """Whether it can answer requests."""
        return bool(self.graphs or self.generator)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or being computed."""
        queues = (graph.queue for graph in self.graphs.values())
        is_generating = self.generator is not None and not self.generator.is_idle
        return not is_generating and all(queue.is_idle for queue in queues)

    @property
    def threads(self) -> Iterator[ComputeThread]:
        """The threads that compute."""
        for graph in self.graphs.values():
            yield from graph.instances
        if self.generator is not None:
            yield self.generator.thread

    def close(self) -> None:
        """Release the graphs, which must be idle, and end their threads."""
        for graph in self.graphs.values():
            graph.close()
        if self.generator is not None:
            self.generator.close()
        self.graphs, self.generator, self.cache = {}, None, None

    def stop_batching(self, name: str, reason: str) -> None:
        """Say that a graph computes its requests one by one from now on, and why."""
        status = self.status
        where = {"model": status.name, "version": status.version, "graph": name, "reason": reason}
        log.error("a batch lost rows: its requests are computed one by one, as all will be from now on", extra=where)
        batching = status.batching | {name: GraphBatching(is_batched=False, reason=reason)}
        self.status = msgspec.structs.replace(status, batching=batching, max_batch_size=1, buckets=(1,))
        self.on_change()

    def describe(self) -> ModelStatus:
        """Its status with its statistics so far; if it is not loaded, up to then."""
        if not self.is_loaded:
            return self.status
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
    turns: DeviceTurns,
    folder: Path,
) -> Version:
    """Give a loaded version, of a folder, its queues and instances; they compute when it is their turn."""
    name, number = loaded.manifest.name, loaded.manifest.version
    settings = settings.model_copy(update=config.overrides())
    version = Version(ready_status(loaded, config, device), config)
    version.idle_unload_seconds = settings.idle_unload_seconds
    version.plan = loaded.plan
    share = Share(turns, config.latency_objective_seconds, config.weight)
    version.graphs = open_graphs(loaded, settings, scheduler, call_in_loop, metrics, version.stop_batching, share)
    for precision in ("fp32", *(variant.precision for variant in loaded.manifest.variants)):
        if loaded.precision.precision:
            metrics.model_precision.labels(name, number, precision).set(precision == loaded.precision.precision)
    if loaded.decoder is not None:
        language_metrics = LanguageMetrics(metrics, name, number)
        loaded.decoder.decoder.on_run = language_metrics.observe_run
        metrics.max_sequences.labels(name, number).set(loaded.decoder.decoder.num_slots)
        metrics.max_waiting_sequences.labels(name, number).set(settings.max_waiting_sequences)
        decoder = loaded.decoder
        version.generator = TextGenerator(
            decoder,
            settings,
            language_metrics,
            monotonic,
            call_in_loop,
            f"{name}@{number}",
            share,
            folder,
        )
    elif config.cache_bytes:  # a sampled text is not the answer to the same prompt of another caller
        version.cache = ResponseCache(config.cache_bytes)
    return version


def open_graphs(
    loaded: LoadedVersion,
    settings: Settings,
    scheduler: Scheduler,
    call_in_loop: Callable[..., object],
    metrics: Metrics,
    on_unbatched: Callable[[str, str], None],
    share: Share,
) -> dict[str, ServedGraph]:
    """Open a queue for each graph of a version; `on_unbatched` is told the graph that stops being batched, and why.

    Graphs whose rows vary in size share a pool of instances, so that only as many large batches are in memory at once
    as the pool has instances.
    """
    manifest = loaded.manifest
    varying = [graph for graph in loaded.graphs.values() if graph.rules.varies]
    num_shared = min((len(graph.runners) for graph in varying), default=0)
    pool = Pool(num_shared, share, max((graph.num_threads for graph in varying), default=1), call_in_loop)
    served = {}
    for name, graph in loaded.graphs.items():
        graph_metrics = GraphMetrics(metrics, manifest.name, manifest.version, name)
        runners = graph.runners[:num_shared] if graph.rules.varies else graph.runners
        where = f"{manifest.name}@{manifest.version}.{name}"
        opening = _Opening(where, graph, runners, settings, scheduler, call_in_loop, graph_metrics, share, [pool])
        # NaN and infinity may be valid outputs of an arbitrary graph.
        opening.must_be_finite = manifest.task != "tensors"
        queue = opening.queue(pool, partial(on_unbatched, name))
        output_names = frozenset(spec.name for spec in graph.graph.outputs)
        served[name] = ServedGraph(
            graph.graph, graph.rules, queue, graph_metrics, opening.instances, opening.pools, output_names
        )
    return served


@dataclass(slots=True)
class _Opening:
    """What the queues of a graph are opened with, and the instances and pools opened for them so far."""

    name: str
    graph: LoadedGraph
    runners: Sequence[Runner]
    settings: Settings
    scheduler: Scheduler
    call_in_loop: Callable[..., object]
    metrics: GraphMetrics
    share: Share
    pools: list[Pool]
    must_be_finite: bool = True
    instances: list[ThreadInstance] = field(default_factory=list)

    def queue(self, pool: Pool, on_unbatched: Callable[[str], None]) -> GraphQueue:
        """The queue of the graph; if rows vary in size, its instances are those of `pool`."""
        self.metrics.max_queue_rows.set(self.settings.max_queue_rows)
        open_batches = partial(self._batches, pool) if self.graph.is_batched else None
        return GraphQueue(self.graph.rules, open_batches, self._whole, on_unbatched)

    def _threads(self, runners: Sequence[Runner], twin: Twin | None = None) -> list[ThreadInstance]:
        first = len(self.instances)
        # On a GPU, one instance copies while another computes: that takes a thread for each.
        call_soon = self.scheduler.call_soon if self.graph.providers[0] == CPU else None
        for i, runner in enumerate(runners, first):
            instance = ThreadInstance(
                runner,
                self.call_in_loop,
                f"{self.name}.{i}",
                must_be_finite=self.must_be_finite,
                call_soon=call_soon,
                twin=(twin.precision, twin.runner) if twin is not None else None,
            )
            self.instances.append(instance)
        return self.instances[first:]

    def _pool(self) -> Pool:
        """A pool of as many instances as the graph has."""
        pool = Pool(len(self.runners), self.share, self.graph.num_threads, self.call_in_loop)
        self.pools.append(pool)
        return pool

    def _limits(self, max_batch_size: int) -> Limits:
        settings, rows = self.settings, efficient_rows(self.graph.bucket_seconds)
        delay_seconds = settings.max_queue_delay_seconds if max_batch_size > 1 else 0.0
        most, objective = settings.max_queue_rows, self.share.objective_seconds
        return Limits(max_batch_size, delay_seconds, most, len(self.runners), rows, objective_seconds=objective)

    def _batches(self, pool: Pool, on_lost_rows: OnLostRows) -> Batcher | ShapeBatchers:
        graph, most = self.graph, self.graph.batching.max_batch_size
        if graph.providers[0] == CPU and not graph.rules.varies:
            most = short_rows(graph.bucket_seconds, SHORT_SECONDS) or most
        limits = self._limits(min(most, graph.batching.max_batch_size))
        cost, instances = graph.cost, self._threads(self.runners, graph.twin)
        if not graph.rules.varies:
            one_row = cost.of_rows(graph.cost_elements)
            own, inputs = self._pool(), graph.rules.inputs
            twin_cost = graph.twin_cost.of_rows(graph.cost_elements) if graph.twin_cost is not None else None
            return Batcher(
                inputs, instances, limits, one_row, self.scheduler, self.metrics, own, None, on_lost_rows, twin_cost
            )
        bound = graph.max_batch_elements
        return ShapeBatchers(
            graph.rules, instances, limits, cost, self.scheduler, self.metrics, pool, bound, on_lost_rows
        )

    def _whole(self) -> ShapeBatchers:
        """The queue of requests that are computed whole: each is one row, as large as it likes."""
        graph = self.graph
        cost = LearnedCost({}) if graph.graph.is_batched else graph.cost
        instances, pool = self._threads([graph.whole_runner] * len(self.runners)), self._pool()
        rules = whole_rules(graph.graph.inputs)
        return ShapeBatchers(rules, instances, self._limits(1), cost, self.scheduler, self.metrics, pool)


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
        precision=loaded.precision,
        load_seconds=loaded.load_seconds,
        bucket_seconds=seconds,
        batching={name: GraphBatching(graph.is_batched, graph.batching_reason) for name, graph in graphs.items()},
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
    steps = decoder.costs.decode_seconds
    return msgspec.structs.replace(
        status,
        providers=decoder.providers,
        max_batch_size=decoder.decoder.num_slots,
        buckets=tuple(steps),
        instances=1,
        threads=decoder.num_threads,
        bucket_seconds={f"decode.{size}": spent for size, spent in steps.items()} | seconds,
    )


def listed_status(manifest: Manifest, config: ModelConfig, device: Device, repository: str) -> ModelStatus:
    """The status of a version that is not loaded yet, for want of memory."""
    most = min(config.max_batch_size or manifest.batching.max_batch_size, manifest.batching.max_batch_size)
    return ModelStatus(
        name=manifest.name,
        version=manifest.version,
        state="idle",
        reason="not loaded yet: others have the memory",
        manifest=manifest.to_json(),
        config=config.to_json(),
        device=str(device),
        max_batch_size=most,
        buckets=tuple(bucket for bucket in manifest.batching.buckets if bucket <= most),
        repository=repository,
    )


async def drain(version: Version, timeout_seconds: float) -> None:
    """Close a version once it is idle and no API process may send it requests any more, or a timeout has passed."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + timeout_seconds
    while (version.holders and loop.time() < limit) or not version.is_idle:
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    version.close()
    await asyncio.to_thread(free_memory)
