"""Puts loaded graphs behind queues: instances with threads, limits, and turns where a version's graphs share them.

It knows neither messages nor peers (`engine.py`), nor how a graph was loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.manifest import Graph
from service.engine.batching.batcher import Batcher, Instance, Scheduler
from service.engine.batching.pool import Pool
from service.engine.batching.rows import RowRules
from service.engine.batching.scheduling import Limits, efficient_rows
from service.engine.batching.shape_batchers import RowCost, ShapeBatchers
from service.engine.repository.loading import LoadedGraph, LoadedVersion
from service.engine.runtime.instance import ThreadInstance
from service.settings import Settings
from service.telemetry.metrics import GraphMetrics, Metrics

# What a row in a batch of varying rows may cost, of what it costs in the best batch.
MAX_INEFFICIENCY = 1.05


@dataclass(slots=True)
class ServedGraph:
    """One graph with its queue."""

    graph: Graph
    rules: RowRules
    queue: Batcher | ShapeBatchers
    metrics: GraphMetrics
    instances: list[ThreadInstance]

    def close(self) -> None:
        """End the queue, which must be idle, and the threads."""
        self.queue.close()
        for instance in self.instances:
            instance.close()


def serve_graphs(
    loaded: LoadedVersion,
    settings: Settings,
    scheduler: Scheduler,
    call_in_loop: Callable[..., object],
    metrics: Metrics,
) -> dict[str, ServedGraph]:
    """Open a queue for each graph of a version.

    Graphs whose rows vary in size share their turns: what one batch of large rows takes in memory is taken once for
    each turn, not once for each turn of each graph.
    """
    manifest = loaded.manifest
    num_turns = min((len(graph.runners) for graph in loaded.graphs.values() if graph.rules.varies), default=0)
    pool = Pool(num_turns)
    served = {}
    for name, graph in loaded.graphs.items():
        # What is no number in arbitrary tensors is the caller's affair.
        is_strict = manifest.task != "tensors"
        instances = [
            ThreadInstance(runner, call_in_loop, f"{manifest.name}.{name}.{i}", must_be_finite=is_strict)
            for i, runner in enumerate(graph.runners[:num_turns] if graph.rules.varies else graph.runners)
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
    # Rows beyond those that make a batch efficient are better off in another instance's batch.
    efficient_elements = efficient_rows(graph.bucket_seconds, MAX_INEFFICIENCY) * graph.cost_elements
    bound = min(graph.graph.max_batch_elements or efficient_elements, efficient_elements)
    return ShapeBatchers(graph.rules, instances, limits, cost, scheduler, metrics, pool, bound)
