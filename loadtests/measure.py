"""What is looked at while a server is under load: its CPU time, its batches, and bare ONNX Runtime before and after."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from loadtests import procfs
from loadtests.bare import Bare, Burst
from loadtests.load_clients import Latencies
from loadtests.results import Figures
from loadtests.servers import Server, fetch

_BATCH_METRIC, _REQUESTS_METRIC = "hotplate_batch_size", "hotplate_requests_total"
# After a load the next one begins within this, unless another server is started first.
_MOMENT_SECONDS = 0.5
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


def read_metrics(server: Server) -> str:
    """The metrics page of a server now; empty where the server has none."""
    status, page = fetch(server.url("/metrics"))
    return page.decode(errors="replace") if status == 200 else ""


def read_histogram(server: Server, name: str, **labels: str) -> Histogram:
    """A histogram of a server now; empty where the server has none."""
    return parse_histogram(read_metrics(server), name, labels)


def count_ok(page: str, model: str) -> int:
    """The requests for a model that the server has answered well, over HTTP or gRPC."""
    matches = filter(None, map(_SAMPLE.match, page.splitlines()))
    found = [(dict(_LABEL.findall(match[2] or "")), match[3]) for match in matches if match[1] == _REQUESTS_METRIC]
    return sum(round(float(n)) for had, n in found if had["model"] == model and had["status"] in ("200", "OK"))


def idle_cores(server: Server, seconds: float) -> float:
    """CPU seconds a second that the server uses while nobody calls it."""
    time.sleep(0.5)
    cpu, started = procfs.cpu_seconds(server.pid), time.monotonic()
    time.sleep(seconds)
    return (procfs.cpu_seconds(server.pid) - cpu) / (time.monotonic() - started)


def observe_cpu(pid: int, drive: Callable[[], Figures]) -> Figures:
    """The figures of a load, and the CPU seconds of a process and its children meanwhile: a second, and a program."""
    before, started = procfs.cpu_seconds_by_program(pid), time.monotonic()
    figures = drive()
    seconds = time.monotonic() - started
    used = {name: cpu - before.get(name, 0.0) for name, cpu in procfs.cpu_seconds_by_program(pid).items()}
    return figures | {"cpu_cores": sum(used.values()) / seconds, "cpu_seconds": used}


def observe(server: Server, model: str, drive: Callable[[], Figures], **labels: str) -> Figures:
    """The figures of a load on a server, its CPU time, and what its own metrics say of it."""
    labels = {"model": model, **labels}
    before = read_metrics(server)
    figures = observe_cpu(server.pid, drive)
    after = read_metrics(server)
    batches = parse_histogram(after, _BATCH_METRIC, labels).minus(parse_histogram(before, _BATCH_METRIC, labels))
    num_ok = count_ok(after, model) - count_ok(before, model)
    return figures | {
        "mean_batch_size": batches.mean,
        "batch_sizes": batches.counts or None,
        "num_ok": num_ok if _REQUESTS_METRIC in after else None,
    }


def figures_of(seen: Latencies) -> Figures:
    """What a client measured."""
    return {
        "requests_per_second": seen.good_requests_per_second,
        "num_requests": seen.num_requests,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "p999_ms": seen.p999_ms,
        "num_errors": seen.num_errors,
    }


def observe_client(server: Server, model: str, drive: Callable[[], Latencies]) -> Figures:
    """What a client measured, what that cost the server, and the CPU microseconds a request of each of its programs.

    A reply is an error, too, where the server does not count it as a good one: a gRPC client may see HTTP alone.
    """
    figures = observe(server, model, lambda: figures_of(drive()))
    count, num_ok = max(1, figures["num_requests"]), figures["num_ok"]
    if num_ok is not None and num_ok < count - figures["num_errors"]:
        figures |= {
            "num_errors": count - num_ok,
            "requests_per_second": figures["requests_per_second"] * num_ok / count,
        }
    micros = {name: 1e6 * seconds / count for name, seconds in figures.pop("cpu_seconds").items()}
    return figures | {
        "cpu_us": sum(micros.values()),
        "api_us": micros.get("api_process"),
        "engine_us": micros.get("engine_process"),
        "p99_over_p50": figures["p99_ms"] / figures["p50_ms"],
    }


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Bare ONNX Runtime at one moment: images a second on one thread and on all cores, and one `session.run`."""

    one_thread: float
    all_cores: float
    p50_ms: float


@dataclass(slots=True)
class Gauge:
    """Bare ONNX Runtime beside a load: the process, and the bursts that are the limits for the model."""

    model: str
    bare: Bare
    one_thread: Burst
    all_cores: Burst
    _last: tuple[float, Neighbour] | None = None

    def neighbour(self) -> Neighbour:
        """Bare now, or a moment ago: what comes after one load comes before the next."""
        if self._last is None or time.monotonic() - self._last[0] > _MOMENT_SECONDS:
            one, many = self.bare.run(self.one_thread), self.bare.run(self.all_cores)
            alone = self.bare.run(Burst(1, seconds=self.one_thread.seconds))
            bare = Neighbour(one.images_per_second, many.images_per_second, alone.p50_ms)
            self._last = time.monotonic(), bare
        return self._last[1]

    def measure(self, server: Server, drive: Callable[[], Latencies]) -> Figures:
        """Bare, a load, bare: the machine drifts, so the fractions of bare are taken against the two neighbours.

        `bare_spread` is how far these lie apart over their mean: large where others use the machine too.
        """
        before = self.neighbour()
        figures = observe_client(server, self.model, drive)
        after = self.neighbour()
        one, many = (before.one_thread + after.one_thread) / 2, (before.all_cores + after.all_cores) / 2
        bare_p50_ms, rate = (before.p50_ms + after.p50_ms) / 2, figures["requests_per_second"]
        return figures | {
            "bare_images_per_second": one,
            "bare_spread": abs(before.one_thread - after.one_thread) / one,
            "bare_p50_ms": bare_p50_ms,
            "fraction_of_bare": rate / one,
            "fraction_of_all_cores": rate / many,
            "added_ms": figures["p50_ms"] - bare_p50_ms,
            "beside_us": figures["cpu_us"] - 1e6 / one,
        }
