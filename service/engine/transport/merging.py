"""What several engines say, as if one had said it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from service.engine.transport.messages import BatchStatistics, Duration, GraphStatistics, ModelStatus, Traced

Counts = TypeVar("Counts", GraphStatistics, BatchStatistics)

# The state of a version is the first of these that it has in any engine: there it answers.
_STATES = ("ready", "idle", "loading", "unloading", "failed", "unavailable")


def merge_statuses(answers: Sequence[tuple[ModelStatus, ...]]) -> tuple[ModelStatus, ...]:
    """The versions of all engines: each as the engine sees it where it is furthest, with what they have in sum."""
    if len(answers) == 1:
        return answers[0]
    found: dict[tuple[str, str], list[ModelStatus]] = {}
    for statuses in answers:
        for status in statuses:
            found.setdefault((status.name, status.version), []).append(status)
    return tuple(_merge(statuses) for statuses in found.values())


def _merge(statuses: list[ModelStatus]) -> ModelStatus:
    first = min(statuses, key=lambda status: _STATES.index(status.state))
    alike = [status for status in statuses if status.state == first.state]
    errors = [status.golden_error for status in alike if status.golden_error is not None]
    return msgspec.structs.replace(
        first,
        reason=first.reason or _differing(first, statuses),
        device=", ".join(dict.fromkeys(status.device for status in alike if status.device)),
        instances=sum(status.instances for status in alike),
        golden_error=max(errors, default=None),
        load_seconds=max(status.load_seconds for status in alike),
        statistics=_add_numbers(status.statistics for status in statuses),
        graph_statistics=_add_graphs([status.graph_statistics for status in statuses]),
        is_required=any(status.is_required for status in statuses),
        is_default=any(status.is_default for status in statuses),
        memory_bytes=sum(status.memory_bytes for status in statuses),
    )


def _differing(first: ModelStatus, statuses: Iterable[ModelStatus]) -> str:
    """What is said of a version where it is not as far as elsewhere."""
    reasons = (status.reason or f"it is {status.state}" for status in statuses if status.state == "failed")
    return "" if first.state == "failed" else next((f"another engine has it not: {reason}" for reason in reasons), "")


def _add_numbers(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Counts and rates in sum; of means and ratios, the mean."""
    found: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / (len(values) if _is_mean(name) else 1) for name, values in found.items()}


def _is_mean(name: str) -> bool:
    name = name.rpartition(".")[2]  # after the graph's
    return name.startswith("mean_") or name.endswith("_ratio")


def _add_graphs(parts: Sequence[Mapping[str, GraphStatistics]]) -> dict[str, GraphStatistics]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _add_statistics([part[name] for part in parts if name in part]) for name in names}


def _add_statistics(parts: Sequence[GraphStatistics]) -> GraphStatistics:
    """All their counts, with batches by their size, and the time of the last inference."""
    by_size: dict[int, list[BatchStatistics]] = {}
    for part in parts:
        for batch in part.batches:
            by_size.setdefault(batch.batch_size, []).append(batch)
    batches = tuple(_add_fields(by_size[size], batch_size=size) for size in sorted(by_size))
    return _add_fields(parts, last_inference_ms=max(part.last_inference_ms for part in parts), batches=batches)


def _add_fields(parts: Sequence[Counts], **given: Any) -> Counts:
    """A structure of the same kind whose counts and durations are those of all, but for what is given."""
    total: dict[str, Any] = dict(given)
    for name in parts[0].__struct_fields__:
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], Duration):
            total[name] = Duration(sum(value.count for value in values), sum(value.ns for value in values))
        elif name not in given:
            total[name] = sum(values)
    return type(parts[0])(**total)


def merge_traces(traces: Mapping[int, Traced]) -> Traced:
    """The timelines of engines by their numbers, which become part of the instances' names; they share one clock."""
    quanta = [
        quantum._replace(instance=f"engine {number}: {quantum.instance}")
        for number, traced in traces.items()
        for quantum in traced.quanta
    ]
    quanta.sort(key=lambda quantum: quantum.ended_at)
    return Traced(0, max(traced.now for traced in traces.values()), tuple(quanta))
