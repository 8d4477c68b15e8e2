"""What a process measures itself with: counters, gauges and histograms, in families of one name.

They are plain numbers in memory, so that measuring costs an addition. There is no lock, for each series has one thread
that writes it: the event loop, the thread of its text generator, or the one that reads its GPU. Any thread may read.
The figures of several processes are lists of numbers that are added up; the client library only writes them out.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from prometheus_client import Metric
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
Series = dict[Labels, list[float]]
"""The values of a family by their labels: one number, or of a histogram the sum and the count of each bucket."""
Figures = dict[str, Series]
"""All that a process has measured, by the name of the family."""
Kind = Literal["counter", "gauge", "histogram"]
Sample = tuple[str, dict[str, str], float]  # the suffix of the name, further labels, the value


class Instrument(Protocol):
    """One series."""

    kind: ClassVar[Kind]

    def values(self) -> list[float]:
        """Its current values."""


AnInstrument = TypeVar("AnInstrument", bound=Instrument)


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)
    kind: ClassVar[Kind] = "counter"

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add an amount, which is not negative."""
        self.value += amount

    def values(self) -> list[float]:
        """Its current value."""
        return [float(self.value)]


class Gauge(Counter):
    """A number that rises and falls."""

    __slots__ = ()
    kind: ClassVar[Kind] = "gauge"

    def dec(self, amount: float = 1) -> None:
        """Subtract an amount."""
        self.value -= amount

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value


class Histogram:
    """How many values were at most as large as each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")
    kind: ClassVar[Kind] = "histogram"

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # of each bucket alone; the last one has no bound
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_many(self, value: float, count: int) -> None:
        """Count a value several times at the cost of one."""
        self.counts[bisect_left(self._bounds, value)] += count
        self.sum += value * count

    def values(self) -> list[float]:
        """The sum and the count of each bucket."""
        return [float(self.sum), *self.counts]


class Family(Generic[AnInstrument]):
    """The series of one name, by the values of their labels."""

    def __init__(
        self,
        name: str,
        help_text: str,
        label_names: Sequence[str],
        make: Callable[[], AnInstrument],
        bounds: Sequence[float] = (),
    ) -> None:
        self.name = name
        self.help_text = help_text
        self.label_names = tuple(label_names)
        self._make = make
        self.kind = make().kind
        self._bounds = [*map(floatToGoString, bounds), "+Inf"]
        self._series: dict[Labels, AnInstrument] = {}

    def labels(self, *values: str) -> AnInstrument:
        """The series with these values of the labels; it is made if it is new.

        Raises: ValueError if there are more or fewer values than labels.
        """
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}; {values} are not their values.")
            found = self._series.setdefault(values, self._make())  # one step: another thread may make it as well
        return found

    def series(self) -> Series:
        """The current values of all its series."""
        # Of a copy, made in one step, for another thread may add a series meanwhile.
        return {labels: each.values() for labels, each in self._series.copy().items()}

    def metric(self, series: Mapping[Labels, Sequence[float]]) -> Metric:
        """Values of this or other processes, as the client library writes them out."""
        metric = Metric(self.name, self.help_text, self.kind)
        for labels, values in series.items():
            named = dict(zip(self.label_names, labels, strict=True))
            for suffix, further, value in self._samples(values):
                metric.add_sample(self.name + suffix, named | further, value)
        return metric

    def _samples(self, values: Sequence[float]) -> Iterator[Sample]:
        total, *counts = values
        if self.kind != "histogram":
            yield "_total" if self.kind == "counter" else "", {}, total
            return
        yield "_sum", {}, total
        at_most = list(accumulate(counts))
        for bound, count in zip(self._bounds, at_most, strict=True):
            yield "_bucket", {"le": bound}, count
        yield "_count", {}, at_most[-1]


def add(total: Figures, part: Figures, largest: Container[str] = ()) -> None:
    """Add figures to others in place; series that have the same labels become one.

    `largest` are the gauges of which the largest value counts: a share of processes together is not the sum of theirs.
    """
    for name, series in part.items():
        into = total.setdefault(name, {})
        for labels, values in series.items():
            known = into.get(labels)
            join = max if name in largest else operator.add
            into[labels] = values if known is None else [*map(join, known, values)]
