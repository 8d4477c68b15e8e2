"""What is looked at while a server is under load: its CPU time, its batches, and bare ONNX Runtime before and after."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from loadtests import procfs
from loadtests.bare import Bare, Burst
from loadtests.results import Figures
from loadtests.servers import Server, fetch
from loadtests.wrk import Latencies

RAW, PNG = "application/octet-stream", "image/png"
_BATCH_METRIC = "hotplate_batch_size"
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations a bucket (not cumulative) by the bucket's upper bound as written, and their sum."""

    counts: dict[str, float]
    total: float

    @property
    def mean(self) -> float | None:
        """The mean of the observed values; None when there are none."""
        num_observations = sum(self.counts.values())
        return self.total / num_observations if num_observations else None

    def minus(self, earlier: Histogram) -> Histogram:
        """What was observed since `earlier`."""
        counts = {bound: count - earlier.counts.get(bound, 0.0) for bound, count in self.counts.items()}
        return Histogram({bound: count for bound, count in counts.items() if count > 0}, self.total - earlier.total)


def parse_histogram(page: str, name: str, labels: dict[str, str]) -> Histogram:
    """Read the histogram `name` of a Prometheus page, summed over every series that carries `labels`.

    It is empty when there is none. Source: prometheus.io, "Exposition formats".
    """
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


def read_histogram(server: Server, name: str, **labels: str) -> Histogram:
    """A histogram of a server now; empty where the server has none."""
    status, page = fetch(server.url("/metrics"))
    return parse_histogram(page.decode(errors="replace") if status == 200 else "", name, labels)


def batch_sizes(server: Server, model: str, **labels: str) -> Histogram | None:
    """The batches that the server has run so far; None where it does not count them."""
    histogram = read_histogram(server, _BATCH_METRIC, model=model, **labels)
    return histogram if histogram.counts else None


def idle_cores(server: Server, seconds: float) -> float:
    """CPU seconds a second that the server uses while nobody calls it."""
    time.sleep(0.5)
    cpu, started = procfs.cpu_seconds(server.pid), time.monotonic()
    time.sleep(seconds)
    return (procfs.cpu_seconds(server.pid) - cpu) / (time.monotonic() - started)


def observe_cpu(pid: int, drive: Callable[[], Figures]) -> Figures:
    """The figures of a load, and the CPU seconds a second of a process and its children meanwhile."""
    cpu, started = procfs.cpu_seconds(pid), time.monotonic()
    figures = drive()
    return figures | {"cpu_cores": (procfs.cpu_seconds(pid) - cpu) / (time.monotonic() - started)}


def observe(server: Server, model: str, drive: Callable[[], Figures], **labels: str) -> Figures:
    """The figures of a load on a server, its CPU time, and the batches that it ran meanwhile."""
    before = batch_sizes(server, model, **labels)
    figures = observe_cpu(server.pid, drive)
    after = batch_sizes(server, model, **labels)
    batches = after.minus(before) if before and after else after
    return figures | {
        "mean_batch_size": batches.mean if batches else None,
        "batch_sizes": batches.counts if batches else None,
    }


def figures_of(seen: Latencies) -> Figures:
    """What a client measured."""
    return {
        "requests_per_second": seen.good_requests_per_second,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "num_errors": seen.num_errors,
    }


@dataclass(frozen=True, slots=True)
class Gauge:
    """Bare ONNX Runtime beside a load: the process, and the burst that is the limit for the model."""

    model: str
    bare: Bare
    limit: Burst

    def _neighbour(self, callers: int) -> tuple[float, float | None]:
        rate = self.bare.run(self.limit).images_per_second
        if callers > 1:
            return rate, None
        one = Burst(1, self.limit.threads, seconds=self.limit.seconds)
        return rate, self.bare.run(one).p50_ms

    def measure(self, server: Server, callers: int, drive: Callable[[], Latencies]) -> Figures:
        """Bare, a load, bare: the machine drifts, so the fraction of bare is taken against the two neighbours.

        `bare_spread` is how far these lie apart over their mean: large where others use the machine too.
        """
        before = self._neighbour(callers)
        figures = observe(server, self.model, lambda: figures_of(drive()))
        after = self._neighbour(callers)
        mean = (before[0] + after[0]) / 2
        p50s = [p50 for _, p50 in (before, after) if p50 is not None]
        bare_p50_ms = statistics.mean(p50s) if p50s else None
        return figures | {
            "bare_images_per_second": mean,
            "bare_spread": abs(before[0] - after[0]) / mean,
            "bare_p50_ms": bare_p50_ms,
            "fraction_of_bare": figures["requests_per_second"] / mean,
            "added_ms": None if bare_p50_ms is None else figures["p50_ms"] - bare_p50_ms,
        }
