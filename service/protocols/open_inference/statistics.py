"""What models have done, as Triton's statistics extension tells it. Source: extension_statistics.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from models.manifest import Manifest
from models.strict import build
from service.engine.transport.messages import BatchStatistics, Duration, GraphStatistics, ModelStatus
from service.protocols.open_inference.naming import Target, graph_names, told_name

_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


def of_all(statuses: Iterable[ModelStatus]) -> list[dict[str, Any]]:
    """One entry for each ready version and each of its graphs."""
    return [entry for status in statuses if status.state == "ready" for entry in _of_version(status)]


def of_one(statuses: Iterable[ModelStatus], target: Target, *, is_one_version: bool) -> list[dict[str, Any]]:
    """The entries of what is asked for: of its ready versions, or of the one that was named."""
    return [
        _entry(target.name, status.version, status.graph_statistics.get(target.graph_name, GraphStatistics()))
        for status in statuses
        if status.state == "ready"
        and status.name == target.model.name
        and (status.version == target.model.version or not is_one_version)
    ]


def _of_version(status: ModelStatus) -> Iterator[dict[str, Any]]:
    manifest = build(Manifest, status.manifest)
    for graph_name in graph_names(manifest):
        statistics = status.graph_statistics.get(graph_name, GraphStatistics())
        yield _entry(told_name(status.name, manifest, graph_name), status.version, statistics)


def _entry(name: str, version: str, statistics: GraphStatistics) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "last_inference": statistics.last_inference_ms,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": {part: _duration(getattr(statistics, part)) for part in _DURATIONS},
        "response_stats": {},
        "batch_stats": [_batch(batch) for batch in statistics.batches],
        "memory_usage": [],
    }


def _batch(batch: BatchStatistics) -> dict[str, Any]:
    return {
        "batch_size": batch.batch_size,
        "compute_input": _duration(batch.compute_input),
        "compute_infer": _duration(batch.compute_infer),
        "compute_output": _duration(batch.compute_output),
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
