"""Counts what one graph does, in the way of the Open Inference Protocol's statistics, so that the parts add up exactly.

A request's time is cut at four moments: it waits, its first batch is handed over, computed, and its last one's rows are
joined. Rows that came from the cache are answered, not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from time import time

from service.engine.transport.messages import BatchStatistics, Duration, GraphStatistics


@dataclass(slots=True)
class _Total:
    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def frozen(self) -> Duration:
        return Duration(self.count, self.ns)


@dataclass(slots=True)
class _Parts:
    """What waits, is handed over, is computed and is joined."""

    parts: tuple[_Total, ...] = field(default_factory=lambda: tuple(_Total() for _ in range(4)))

    def add(self, moments: Sequence[float]) -> int:
        """Add the time between five moments in seconds; return the whole in nanoseconds."""
        stamps = [round((moment - moments[0]) * 1e9) for moment in moments]
        for i in range(1, len(stamps)):
            stamps[i] = max(stamps[i - 1], stamps[i])  # an event loop's clock may lag behind a thread's
        for part, (start, end) in zip(self.parts, pairwise(stamps), strict=True):
            part.add(end - start)
        return stamps[-1]


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

    def answered(self, num_rows: int, moments: Sequence[float]) -> None:
        """Count a request whose rows were computed: when it arrived, left, began, ended and was answered."""
        self._last_seconds = self._clock()
        self._num_rows += num_rows
        self._success.add(self._requests.add(moments))

    def failed(self, seconds: float) -> None:
        """Count a request that got an error, which may also be a refusal."""
        self._last_seconds = self._clock()
        self._fail.add(max(0, round(seconds * 1e9)))

    def computed(self, num_rows: int, moments: Sequence[float]) -> None:
        """Count a batch: when it left, began, ended and was given back."""
        self._num_batches += 1
        self._batches.setdefault(num_rows, _Parts()).add((moments[0], *moments))

    def found(self, seconds: float) -> None:
        """Count a request that the cache answered."""
        self._last_seconds = self._clock()
        ns = max(0, round(seconds * 1e9))
        self._cache_hit.add(ns)
        self._success.add(ns)

    def missed(self, seconds: float) -> None:
        """Count a request that the cache did not know, and the time it took to find out."""
        self._cache_miss.add(max(0, round(seconds * 1e9)))

    def snapshot(self) -> GraphStatistics:
        """The counts as they are now."""
        queue, given, inferred, joined = (part.frozen() for part in self._requests.parts)
        return GraphStatistics(
            last_inference_ms=round(self._last_seconds * 1e3),
            inference_count=self._num_rows,
            execution_count=self._num_batches,
            success=self._success.frozen(),
            fail=self._fail.frozen(),
            queue=queue,
            compute_input=given,
            compute_infer=inferred,
            compute_output=joined,
            cache_hit=self._cache_hit.frozen(),
            cache_miss=self._cache_miss.frozen(),
            batches=tuple(_batch(size, parts) for size, parts in sorted(self._batches.items())),
        )


def _batch(size: int, parts: _Parts) -> BatchStatistics:
    return BatchStatistics(size, *(part.frozen() for part in parts.parts[1:]))
