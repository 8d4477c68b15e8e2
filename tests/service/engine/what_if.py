"""What a machine would do that is not here: the service's own decisions, on a device and a clock that are simulated.

    python -m tests.service.engine.what_if

draws loadtests/reports/what-if.png: one GPU, eight models, and traffic whose rates follow Zipf's law.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from loadtests.chart import Panel, draw
from models.manifest import TensorSpec
from service.engine.batching.batcher import Batcher
from service.engine.batching.batches import BatchBuffer, BatchOutcome, Request
from service.engine.batching.cost import LearnedCost
from service.engine.batching.pool import Pool
from service.engine.batching.scheduling import Limits
from service.engine.device_turns import DeviceTurns, Share
from service.engine.transport.messages import InferenceTiming
from service.errors import ServiceError
from service.telemetry.metrics import GraphMetrics, Metrics
from tests.service.engine.fakes import FakeLoop

FIGURE = Path("loadtests/reports/what-if.png")
# ResNet-50 in fp16 on an H200, by batch: loadtests/reports/gpu-h200.json.
H200_SECONDS = {1: 2.17e-3, 8: 2.57e-3, 16: 2.36e-3, 32: 3.69e-3, 64: 7.29e-3}
OBJECTIVE_SECONDS = 0.05
NUM_MODELS = 8
INPUTS = (TensorSpec(name="x", datatype="UINT8", shape=(-1, 1)),)
# The whole device: a piece of work has it to itself.
WHOLE = 2


@dataclass
class SimulatedInstance:
    """Takes as long for a batch as the cost says, and a little more or less."""

    loop: FakeLoop
    cost: LearnedCost
    chance: random.Random

    def start(
        self,
        batch: BatchBuffer,
        on_done: Callable[[BatchBuffer, BatchOutcome], None],
        expected_seconds: float,
        *,
        is_alone: bool,
        is_degraded: bool = False,
    ) -> None:
        seconds = self.cost.seconds(batch.num_rows) * self.chance.uniform(0.9, 1.2)
        outcome = BatchOutcome(self.loop.time(), seconds, {"y": np.zeros((batch.num_rows, 1), np.uint8)})
        self.loop.call_at(self.loop.time() + seconds, lambda: on_done(batch, outcome))


@dataclass
class Tally:
    """What became of the requests for one model."""

    num_asked: int = 0
    num_refused: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def num_in_time(self) -> int:
        return sum(seconds <= OBJECTIVE_SECONDS for seconds in self.seconds)


@dataclass
class WhatIf:
    """Models that share a device, each with its own batcher and an objective, or with none."""

    seconds_by_rows: Mapping[int, float]
    num_models: int = NUM_MODELS
    objective_seconds: float | None = OBJECTIVE_SECONDS
    seed: int = 0

    def __post_init__(self) -> None:
        self.loop, self.chance = FakeLoop(), random.Random(self.seed)
        self.tallies = [Tally() for _ in range(self.num_models)]
        self._turns = DeviceTurns(WHOLE, self.loop.time)
        self._metrics = Metrics(CollectorRegistry())
        self._batchers = [self._open(str(index)) for index in range(self.num_models)]

    def _open(self, name: str) -> Batcher:
        limits = Limits(max(self.seconds_by_rows), 0.0, 1024, objective_seconds=self.objective_seconds)
        cost, truth = LearnedCost(self.seconds_by_rows), LearnedCost(self.seconds_by_rows)
        pool = Pool(1, Share(self._turns, self.objective_seconds), WHOLE, self.loop.call_soon)
        instances = [SimulatedInstance(self.loop, truth, self.chance)]
        metrics = GraphMetrics(self._metrics, name, "1", "model")
        return Batcher(INPUTS, instances, limits, cost.of_rows(1), self.loop, metrics, pool)

    def run(self, requests_per_second: float, seconds: float) -> None:
        """Requests of one row at random times (Poisson), for models of which the k-th is asked for 1/k as often."""
        weights = [1 / rank for rank in range(1, self.num_models + 1)]
        end = self.loop.time() + seconds
        while self.loop.time() < end:
            self.loop.advance(self.chance.expovariate(requests_per_second))
            self._ask(self.chance.choices(range(self.num_models), weights)[0])
        self.loop.advance(10.0)

    def _ask(self, index: int) -> None:
        now, tally = self.loop.time(), self.tallies[index]
        tally.num_asked += 1

        def on_done(_: Request, outcome: ServiceError | InferenceTiming) -> None:
            if isinstance(outcome, ServiceError):
                tally.num_refused += 1
            else:
                tally.seconds.append(self.loop.time() - now)

        self._batchers[index].submit(Request(1, b"\0", ("y",), now, now + 30.0, on_done))

    def in_time_per_second(self, seconds: float) -> float:
        """How many were answered within the objective, of all models."""
        return sum(tally.num_in_time for tally in self.tallies) / seconds


def make_panels(rates: Sequence[int], seconds: float) -> list[Panel]:
    """The answers in time by what is asked for, and how late those are that were admitted."""
    in_time: dict[str, list[float | None]] = {"with an objective of 50 ms": [], "without": []}
    latest: dict[str, list[float | None]] = {name: [] for name in in_time}
    for rate in rates:
        for name, objective_seconds in zip(in_time, (OBJECTIVE_SECONDS, None), strict=True):
            what_if = WhatIf(H200_SECONDS, objective_seconds=objective_seconds)
            what_if.run(rate, seconds)
            answered = [each for tally in what_if.tallies for each in tally.seconds]
            in_time[name].append(what_if.in_time_per_second(seconds))
            latest[name].append(1e3 * float(np.percentile(answered, 99)))
    categories = [str(rate) for rate in rates]
    titles = (("Answers within 50 ms", "a second", in_time), ("p99 of those who are answered", "ms", latest))
    return [
        Panel(title=title, unit=unit, categories=categories, series=series, kind="lines")
        for title, unit, series in titles
    ]


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="simulated, for each load (default: 3)")
    parser.add_argument("--output", type=Path, default=FIGURE, help=f"the figure (default: {FIGURE})")
    options = parser.parse_args()
    panels = make_panels([1000, 2000, 4000, 6000, 8000, 10000, 14000], options.seconds)
    for panel in panels:
        for name, values in panel.series.items():
            rounded = ", ".join(f"{value:,.0f}" for value in values if value is not None)
            sys.stdout.write(f"{panel.title}, {panel.unit}, {name}: {rounded}\n")
    draw(options.output, panels, "One GPU, eight ResNet-50 by Zipf's law (simulated)")


if __name__ == "__main__":
    main()
