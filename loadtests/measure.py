"""Measures cells: one load on one server, between two bursts of bare ONNX Runtime, because the machine drifts.

A cell is the median of its rounds, and its fraction of bare is taken against the neighbours of each round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests import procfs
from loadtests.bare import BareProcess, Burst
from loadtests.scrape import Histogram, parse_histogram
from loadtests.servers import Server, fetch
from loadtests.wrk import Latencies, run_wrk

RAW, PNG = "application/octet-stream", "image/png"
_BATCH_METRIC = "hotplate_batch_size"


@dataclass(frozen=True, slots=True)
class Load:
    """What a client sends: the file it posts, as which media type, over how many connections, with which headers."""

    body: Path
    media_type: str
    concurrency: int
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """One burst of load; `cpu_cores` is CPU seconds of the server a second, `bare_*` the mean of the two neighbours.

    `bare_spread` is how far the neighbours lie apart, over their mean: large where others use the machine too.
    """

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    num_errors: int
    cpu_cores: float
    bare_images_per_second: float
    bare_p50_ms: float | None
    bare_spread: float
    batch_sizes: Histogram | None


class Rounds:
    """The figures of one load: medians over its rounds, fractions of bare taken round by round."""

    __slots__ = ()
    rounds: list[Round]

    def median(self, figure: Callable[[Round], float]) -> float:
        """The median of a figure over the rounds."""
        return statistics.median(map(figure, self.rounds))

    @property
    def rate(self) -> float:
        """Good replies a second."""
        return self.median(lambda r: r.requests_per_second)

    @property
    def fraction_of_bare(self) -> float:
        """Good replies a second over the images a second of bare ONNX Runtime next to them."""
        return self.median(lambda r: r.requests_per_second / r.bare_images_per_second)

    @property
    def mean_batch_size(self) -> float | None:
        """Rows a batch, where the server tells."""
        means = [r.batch_sizes.mean for r in self.rounds if r.batch_sizes and r.batch_sizes.mean is not None]
        return statistics.median(means) if means else None


@dataclass(frozen=True, slots=True)
class Cell(Rounds):
    """All rounds of one load on one server."""

    server: str
    model: str
    media_type: str
    concurrency: int
    rounds: list[Round] = field(default_factory=list)

    @property
    def added_ms(self) -> float | None:
        """The median reply time less that of a bare `session.run` on one image; only at concurrency 1."""
        added = [r.p50_ms - r.bare_p50_ms for r in self.rounds if r.bare_p50_ms is not None]
        return statistics.median(added) if added else None

    def to_json(self) -> dict[str, Any]:
        """The medians and every round, as JSON values."""
        rounds = [
            {name: getattr(r, name) for name in Round.__slots__ if name != "batch_sizes"}
            | {"batch_sizes": r.batch_sizes.counts if r.batch_sizes else None}
            for r in self.rounds
        ]
        return {
            "server": self.server,
            "model": self.model,
            "media_type": self.media_type,
            "concurrency": self.concurrency,
            "requests_per_second": self.rate,
            "fraction_of_bare": self.fraction_of_bare,
            "p50_ms": self.median(lambda r: r.p50_ms),
            "p99_ms": self.median(lambda r: r.p99_ms),
            "added_ms": self.added_ms,
            "cpu_cores": self.median(lambda r: r.cpu_cores),
            "mean_batch_size": self.mean_batch_size,
            "rounds": rounds,
        }


@dataclass(frozen=True, slots=True)
class Gauge:
    """How one model is measured: the bare process beside it, the burst that is its limit, and for how long."""

    model: str
    bare: BareProcess
    limit: Burst
    seconds: float
    burst_seconds: float

    def _neighbour(self, concurrency: int) -> tuple[float, float | None]:
        pace = self.bare.run(self.limit, self.burst_seconds)
        if concurrency > 1:
            return pace.images_per_second, None
        one = Burst(1, self.limit.threads)
        return pace.images_per_second, self.bare.run(one, self.burst_seconds).p50_ms

    def run_round(self, server: Server, path: str, load: Load) -> Round:
        """Bare, a load of HTTP, bare.

        Raises: WrkError, OSError.
        """
        url = server.url(path)
        return self.take_round(
            server,
            load.concurrency,
            lambda: run_wrk(url, load.body, load.media_type, load.concurrency, self.seconds, load.headers),
        )

    def take_round(self, server: Server, concurrency: int, drive: Callable[[], Latencies]) -> Round:
        """Bare, whatever `drive` loads the server with, bare.

        Raises: OSError, and what `drive` raises.
        """
        before = self._neighbour(concurrency)
        sizes, cpu, started = batch_sizes(server, self.model), procfs.cpu_seconds(server.pid), time.monotonic()
        seen = drive()
        cpu_cores = (procfs.cpu_seconds(server.pid) - cpu) / (time.monotonic() - started)
        later_sizes = batch_sizes(server, self.model)
        after = self._neighbour(concurrency)
        bare_p50s = [p50 for _, p50 in (before, after) if p50 is not None]
        return Round(
            requests_per_second=seen.good_requests_per_second,
            p50_ms=seen.p50_ms,
            p99_ms=seen.p99_ms,
            num_errors=seen.num_errors,
            cpu_cores=cpu_cores,
            bare_images_per_second=(before[0] + after[0]) / 2,
            bare_p50_ms=statistics.mean(bare_p50s) if bare_p50s else None,
            bare_spread=2 * abs(before[0] - after[0]) / (before[0] + after[0]),
            batch_sizes=later_sizes.minus(sizes) if sizes and later_sizes else None,
        )

    def run_cells(self, server: Server, path: str, loads: list[Load], num_rounds: int) -> list[Cell]:
        """Go through all loads once a round, so that each cell is spread over the whole time."""
        cells = [Cell(server.name, self.model, load.media_type, load.concurrency) for load in loads]
        for _ in range(num_rounds):
            for cell, load in zip(cells, loads, strict=True):
                cell.rounds.append(self.run_round(server, path, load))
        return cells


def batch_sizes(server: Server, model: str) -> Histogram | None:
    """The batches that the server has run so far; None where it does not tell."""
    status, page = fetch(server.url("/metrics"))
    histogram = parse_histogram(page.decode(errors="replace"), _BATCH_METRIC, {"model": model})
    return histogram if status == 200 and histogram.counts else None


def idle_cores(server: Server, seconds: float) -> float:
    """CPU seconds a second that the server uses while nobody calls it."""
    time.sleep(0.5)
    cpu, started = procfs.cpu_seconds(server.pid), time.monotonic()
    time.sleep(seconds)
    return (procfs.cpu_seconds(server.pid) - cpu) / (time.monotonic() - started)
