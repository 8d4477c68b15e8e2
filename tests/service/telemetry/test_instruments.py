"""Counters, gauges and histograms: the same figures and the same text as those of the client library."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import prometheus_client as library
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.telemetry.instruments import Counter, Family, Figures, Gauge, Histogram, add

BOUNDS = (0.001, 0.25, 1.0, 10.0)


class Exposed:
    """A registry of one family of ours."""

    def __init__(self, *families: Family[Counter] | Family[Gauge] | Family[Histogram]) -> None:
        self._families = families

    def collect(self) -> list[library.Metric]:
        return [family.metric(family.series()) for family in self._families]


def lines(registry: object) -> list[str]:
    """The lines of a scrape in any order, without the times of creation, which we do not keep."""
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_the_text_is_that_of_the_client_library(seed: int) -> None:
    registry, names = CollectorRegistry(), ("model", "path")
    theirs = (
        library.Counter("c", "Counts.", names, registry=registry),
        library.Gauge("g", 'Help with "quotes" and a \\.', names, registry=registry),
        library.Histogram("h", "Times.", names, buckets=BOUNDS, registry=registry),
    )
    ours = (
        Family("c", "Counts.", names, Counter),
        Family("g", 'Help with "quotes" and a \\.', names, Gauge),
        Family("h", "Times.", names, partial(Histogram, BOUNDS), BOUNDS),
    )
    draw = random.Random(seed)
    for _ in range(200):
        labels = draw.choice([("a", "/x"), ("b", '"\n\\'), ("", "ü")])
        amount = draw.choice([0, 1, 2.5, 1e-7, *BOUNDS, 11, 2**40])
        for counter, gauge, histogram in (theirs, ours):
            counter.labels(*labels).inc(amount)
            histogram.labels(*labels).observe(amount)
            gauge.labels(*labels).dec(amount) if amount < 1 else gauge.labels(*labels).set(amount)

    assert lines(Exposed(*ours)) == lines(registry)


def test_a_value_at_a_bound_counts_as_at_most_as_large() -> None:
    histogram = Histogram(BOUNDS)
    for value in (0, 0.001, 0.0011, 10, 10.1, 1e9):
        histogram.observe(value)

    assert histogram.counts == [2, 1, 0, 1, 2]


def test_the_same_labels_are_the_same_series() -> None:
    family = Family("c", "Counts.", ("model",), Counter)
    family.labels("a").inc()
    family.labels("a").inc(2)

    assert family.labels("a") is family.labels("a")
    assert family.series() == {("a",): [3.0]}


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_labels_that_are_not_those_of_the_family_are_refused(values: tuple[str, ...]) -> None:
    family = Family("requests", "Counts.", ("model", "route"), Counter)

    with pytest.raises(ValueError, match=r"requests has the labels \('model', 'route'\)"):
        family.labels(*values)
    assert family.series() == {}


def test_threads_that_make_a_series_at_once_get_the_same_one() -> None:
    family = Family("c", "Counts.", ("model",), Counter)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: family.labels(str(number % 100)), range(20_000)))

    assert len({id(series) for series in found}) == 100


def test_figures_are_added_by_name_and_labels_and_their_parts_stay_as_they_are() -> None:
    one: Figures = {"c": {("a",): [1.0], ("b",): [2.0]}, "h": {(): [0.5, 1, 0]}}
    two: Figures = {"c": {("a",): [10.0], ("d",): [3.0]}, "h": {(): [0.25, 0, 2]}, "g": {(): [7.0]}}
    total: Figures = {}
    for part in (one, two):
        add(total, part)

    assert total == {
        "c": {("a",): [11.0], ("b",): [2.0], ("d",): [3.0]}, "h": {(): [0.75, 1, 2]}, "g": {(): [7.0]}
    }  # fmt: skip
    assert (one["c"]["a",], two["c"]["a",]) == ([1.0], [10.0])
