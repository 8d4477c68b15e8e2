"""The statistics of one graph as the Open Inference Protocol defines them; the parts of a time add up exactly.

A request waits in the queue, its first batch is handed over, its batches are computed, and its rows are joined. Rows
from the cache are answered, not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import time

from service.engine.transport.messages import BatchStatistics, Duration, GraphStatistics


@dataclass(slots=True)
class _Total:
    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def snapshot(self) -> Duration:
        return Duration(self.count, self.ns)


@dataclass(slots=True)
class _Parts:
    """The four parts of a time: queue, input, inference, output."""

    parts: tuple[_Total, ...] = field(default_factory=lambda: tuple(_Total() for _ in range(4)))

    def add(self, moments: Sequence[float], count: int = 1) -> int:
        """Add the times between five moments in seconds, `count` times; return their sum in nanoseconds."""
        first = last = moments[0]
        ns_before = 0
        for part, moment in zip(self.parts, moments[1:], strict=True):
            last = max(last, moment)  # an event loop's clock may lag behind a thread's
            ns = round((last - first) * 1e9 * count)
            part.add(ns - ns_before, count)
            ns_before = ns
        return ns_before


class GraphRecord:
    """The counts of one graph since it was loaded."""

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._last_seconds = 0.0
        self._num_rows = 0
        self._num_batches = 0
        self._success = _Total()
        self._fail = _Total()
        self._cache_hit = _Total()
        self._cache_miss = _Total()
        self._requests = _Parts()
        self._batches: dict[int, _Parts] = {}

    def answered(self, num_rows: int, moments: Sequence[float], num_requests: int = 1) -> None:
        """Count a computed request by the moments when it arrived, was dispatched, started, ended and was answered.

        Of several that were computed as one, the rows are those of all, and the first moment is the mean of theirs.
        """
        self._last_seconds = self._clock()
        self._num_rows += num_rows
        self._success.add(self._requests.add(moments, num_requests), num_requests)

    def failed(self, seconds: float) -> None:
        """Count a request that failed or was refused."""
        self._last_seconds = self._clock()
        self._fail.add(max(0, round(seconds * 1e9)))

    def computed(self, num_rows: int, moments: Sequence[float]) -> None:
        """Count a batch by the moments when it was dispatched, started, ended and was returned."""
        self._num_batches += 1
        if (parts := self._batches.get(num_rows)) is None:
            parts = self._batches[num_rows] = _Parts()
        parts.add((moments[0], *moments))

    def cache_hit(self, seconds: float) -> None:
        """Count a request that was answered from the cache."""
        self._last_seconds = self._clock()
        ns = max(0, round(seconds * 1e9))
        self._cache_hit.add(ns)
        self._success.add(ns)

    def cache_miss(self, seconds: float) -> None:
        """Count a request that was not in the cache, and the time of the look-up."""
        self._cache_miss.add(max(0, round(seconds * 1e9)))

    def snapshot(self) -> GraphStatistics:
        """The current counts."""
        queue, compute_input, compute_infer, compute_output = (part.snapshot() for part in self._requests.parts)
        return GraphStatistics(
            last_inference_ms=round(self._last_seconds * 1e3),
            inference_count=self._num_rows,
            execution_count=self._num_batches,
            success=self._success.snapshot(),
            fail=self._fail.snapshot(),
            queue=queue,
            compute_input=compute_input,
            compute_infer=compute_infer,
            compute_output=compute_output,
            cache_hit=self._cache_hit.snapshot(),
            cache_miss=self._cache_miss.snapshot(),
            batches=tuple(_batch(size, parts) for size, parts in sorted(self._batches.items())),
        )


def _batch(size: int, parts: _Parts) -> BatchStatistics:
    return BatchStatistics(size, *(part.snapshot() for part in parts.parts[1:]))
