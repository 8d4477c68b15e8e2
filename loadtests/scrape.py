"""Reads one histogram from a Prometheus text page and takes differences of it.

It knows the text format, not who writes it. Source: prometheus.io, "Exposition formats".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations a bucket (not cumulative), keyed by the bucket's upper bound as written, and their sum."""

    counts: dict[str, float]
    total: float

    @property
    def num_observations(self) -> float:
        """How many values were observed."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float | None:
        """The mean of the observed values; None when there are none."""
        return self.total / self.num_observations if self.num_observations else None

    def minus(self, earlier: Histogram) -> Histogram:
        """What was observed since `earlier`."""
        counts = {bound: count - earlier.counts.get(bound, 0.0) for bound, count in self.counts.items()}
        return Histogram({bound: count for bound, count in counts.items() if count > 0}, self.total - earlier.total)


def parse_histogram(page: str, name: str, labels: dict[str, str]) -> Histogram:
    """Read the histogram `name`, summed over every series that carries `labels`; empty when there is none."""
    cumulative: dict[str, float] = {}
    total = 0.0
    for line in page.splitlines():
        match = _SAMPLE.match(line)
        if match is None or match[1] not in (f"{name}_bucket", f"{name}_sum"):
            continue
        found = dict(_LABEL.findall(match[2] or ""))
        if any(found.get(key) != value for key, value in labels.items()):
            continue
        if match[1].endswith("_sum"):
            total += float(match[3])
        else:
            cumulative[found["le"]] = cumulative.get(found["le"], 0.0) + float(match[3])
    bounds = sorted(cumulative, key=float)
    previous = [0.0, *(cumulative[bound] for bound in bounds)]
    return Histogram({bound: cumulative[bound] - previous[i] for i, bound in enumerate(bounds)}, total)
