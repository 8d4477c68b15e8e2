"""What batches cost: measured when a model is loaded, and learned from what runs afterwards.

A size is counted in elements: the rows of a batch times the elements of a row. What has never run is not guessed from
below: a larger batch is taken to cost what the largest known one does, so that it is tried, and known from then on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

# The first runs of a size take memory and warm up; the fastest of so many is its time.
NUM_FIRST_RUNS = 8
DRIFT_WEIGHT = 0.05
MAX_DRIFT = 100.0
# What a refusal takes off while nothing runs that could be learned from: after some, a request is tried again.
DOUBT = 0.8
MIN_SHORT_ROWS = 8


@dataclass(slots=True)
class _Point:
    """The time of batches of about one size, and how many of them have run."""

    size: int
    seconds: float
    num_runs: int = NUM_FIRST_RUNS


class LearnedCost:
    """The cost of one graph's batches by their size in elements, adapted to how fast the machine is now."""

    def __init__(self, seconds_by_size: Mapping[int, float]) -> None:
        self._points = {size.bit_length(): _Point(size, seconds) for size, seconds in seconds_by_size.items()}
        self._drift = 1.0
        self._line()

    def seconds(self, size: int) -> float:
        """The expected time of a batch."""
        return self._drift * self._usual_seconds(size)

    def of_rows(self, num_elements: int) -> RowsCost:
        """The cost of batches whose rows have so many elements."""
        return RowsCost(self, num_elements)

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        point = self._points.get(size.bit_length())
        if point is None:
            self._points[size.bit_length()] = _Point(size, seconds / self._drift, 1)
            self._line()
        elif point.num_runs < NUM_FIRST_RUNS:
            point.num_runs += 1
            if (usual := seconds / self._drift * point.size / size) < point.seconds:
                point.seconds = usual
                self._line()
        elif (expected := self._usual_seconds(size)) > 0:
            drift = self._drift + DRIFT_WEIGHT * (seconds / expected - self._drift)
            self._drift = min(max(drift, 1 / MAX_DRIFT), MAX_DRIFT)

    def doubt(self) -> None:
        """Expect less: a request was refused for its cost, and nothing runs that could show whether rightly."""
        for point in self._points.values():
            point.seconds *= DOUBT
        self._line()

    def _line(self) -> None:
        points = sorted(self._points.values(), key=lambda point: point.size)
        self._sizes = [point.size for point in points]
        self._seconds = [point.seconds for point in points]

    def _usual_seconds(self, size: int) -> float:
        sizes, seconds = self._sizes, self._seconds
        place = bisect_left(sizes, size)
        if place == len(sizes):
            return seconds[-1] if seconds else 0.0
        if sizes[place] == size:
            return seconds[place]
        if not place:
            return seconds[0] * size / sizes[0]
        share = (size - sizes[place - 1]) / (sizes[place] - sizes[place - 1])
        return seconds[place - 1] + share * (seconds[place] - seconds[place - 1])


@dataclass(frozen=True, slots=True)
class RowsCost:
    """The cost of batches of rows of one size."""

    learned: LearnedCost
    num_elements: int

    def seconds(self, num_rows: int) -> float:
        """The expected time of a batch of `num_rows`."""
        return self.learned.seconds(num_rows * self.num_elements)

    def observe(self, num_rows: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        self.learned.observe(num_rows * self.num_elements, seconds)


def short_rows(seconds_by_bucket: Mapping[int, float], max_seconds: float, tolerance: float = 1.2) -> int | None:
    """The largest measured batch that is short, if its rows are many and cost as little as those of the best, or None.

    Larger ones would only keep the next requests and their callers waiting for each other. Of few rows that would not
    be so: they would be parts of one request.
    """
    short = max((size for size, seconds in seconds_by_bucket.items() if seconds <= max_seconds), default=0)
    if short < MIN_SHORT_ROWS:
        return None
    best = min(seconds / size for size, seconds in seconds_by_bucket.items())
    return short if seconds_by_bucket[short] / short <= tolerance * best else None


def efficient_rows(seconds_by_bucket: Mapping[int, float], tolerance: float = 1.2) -> int:
    """The smallest measured batch whose rows cost at most `tolerance` times those of the best; 1 where none was."""
    if not seconds_by_bucket:
        return 1
    best = min(seconds / size for size, seconds in seconds_by_bucket.items())
    return min(size for size, seconds in seconds_by_bucket.items() if seconds / size <= tolerance * best)
