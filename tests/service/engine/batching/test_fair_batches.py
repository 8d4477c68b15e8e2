"""What one caller may do to another, with a clock that tests set: 8 rows take 8 ms, so the capacity is 1000 rows/s."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from models.manifest import TensorSpec
from service.engine.batching.batcher import Batcher
from service.engine.batching.batches import Request
from service.engine.batching.cost import LearnedCost
from service.engine.batching.pool import Pool
from service.engine.batching.rows import RowRules
from service.engine.batching.scheduling import Limits
from service.engine.batching.shape_batchers import ShapeBatchers
from service.engine.transport.messages import Caller, InferenceTiming
from service.errors import DeadlineUnreachable, QueueFull, ServiceError
from service.telemetry.metrics import GraphMetrics, Metrics
from tests.service.engine.fakes import FakeLoop, HeldInstance

BATCH_ROWS = 8
BATCH_SECONDS = 0.008
FIXED = (TensorSpec(name="x", datatype="UINT16", shape=(-1, 2)),)
VARYING = (TensorSpec(name="x", datatype="UINT16", shape=(-1, -1)),)


@dataclass
class Outcomes:
    """What became of one caller's requests, and how long those that were answered took."""

    num_sent: int = 0
    errors: list[ServiceError] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def success(self) -> float:
        return len(self.seconds) / (len(self.seconds) + len(self.errors))


class Service:
    """One graph, computed by one instance, as callers see it."""

    def __init__(self, max_queue_rows: int = 256, *, varies: bool = False) -> None:
        self.loop = FakeLoop()
        metrics = GraphMetrics(Metrics(CollectorRegistry()), "m", "1", "g")
        self.instance = HeldInstance(self.loop, BATCH_SECONDS)
        limits, cost = Limits(BATCH_ROWS, 0.0, max_queue_rows), LearnedCost({})
        self.queue: Batcher | ShapeBatchers
        if varies:
            rules, pool = RowRules(VARYING), Pool(1)
            self.queue = ShapeBatchers(rules, [self.instance], limits, cost, self.loop, metrics, pool)
        else:
            self.queue = Batcher(FIXED, [self.instance], limits, cost.of_rows(1), self.loop, metrics)
        self.outcomes: dict[str, Outcomes] = {}
        self._done_at = 0.0

    def send(self, name: str, num_rows: int = 1, width: int = 2, seconds: float = 1.0, priority: int = 0) -> None:
        outcomes = self.outcomes.setdefault(name, Outcomes())
        outcomes.num_sent += 1

        def on_done(request: Request, outcome: ServiceError | InferenceTiming) -> None:
            if isinstance(outcome, ServiceError):
                outcomes.errors.append(outcome)
            else:
                outcomes.seconds.append(self.loop.now - request.arrival)

        payload, now = np.zeros((num_rows, width), np.uint16).tobytes(), self.loop.now
        shapes = ((width,),) if isinstance(self.queue, ShapeBatchers) else ()
        request = Request(num_rows, payload, ("y",), now, now + seconds, on_done, shapes, priority)
        request.caller = Caller(name)
        self.queue.submit(request)

    def pass_millisecond(self) -> None:
        self.loop.advance(0.001)
        if self.instance.is_busy:
            self._done_at = self._done_at or self.loop.now + BATCH_SECONDS - 0.001
            if self.loop.now >= self._done_at - 1e-9:
                self._done_at = 0.0
                self.instance.finish()


@pytest.mark.parametrize("max_queue_rows", [16, 64, 1024])
@pytest.mark.parametrize("rows_each", [1, 5])
def test_a_flood_of_twenty_times_the_capacity_leaves_another_caller_alone(max_queue_rows: int, rows_each: int) -> None:
    service = Service(max_queue_rows)
    for millisecond in range(600):
        for _ in range(20 // rows_each):
            service.send("flood", rows_each, seconds=30)
        if millisecond % 5 == 0:
            service.send("other")
        service.pass_millisecond()

    other, flood = service.outcomes["other"], service.outcomes["flood"]
    assert other.success >= 0.95
    assert max(other.seconds) <= 5 * BATCH_SECONDS
    assert len(flood.seconds) * rows_each >= 0.7 * 600  # what is left of the capacity is all the flood's


def test_a_flood_in_one_shape_leaves_those_who_send_another_alone() -> None:
    service = Service(256, varies=True)
    for millisecond in range(600):
        for number in range(20):
            service.send("flood", width=2 + number % 3, seconds=30)
        if millisecond % 5 == 0:
            service.send("other", width=7)
        service.pass_millisecond()

    other = service.outcomes["other"]
    assert other.success >= 0.95
    assert max(other.seconds) <= 8 * BATCH_SECONDS


def test_a_flood_of_a_better_priority_slows_the_others_down_but_does_not_starve_them() -> None:
    service = Service(256)
    for millisecond in range(800):
        for caller in range(6):
            service.send(f"urgent {caller}", priority=1, seconds=30)
        if millisecond % 20 == 0:  # a twentieth of the capacity
            service.send("usual", seconds=30)
        service.pass_millisecond()

    usual = service.outcomes["usual"]
    assert usual.success >= 0.95
    assert len(usual.seconds) >= 0.9 * usual.num_sent
    assert max(usual.seconds) <= 0.2


def test_callers_who_flood_alike_get_alike() -> None:
    service = Service(64)
    for _ in range(400):
        for _ in range(10):
            for name in ("a", "b", "c"):
                service.send(name, seconds=30)
        service.pass_millisecond()

    answered = [len(outcomes.seconds) for outcomes in service.outcomes.values()]
    assert max(answered) <= 1.2 * min(answered)


def test_a_request_of_many_rows_gives_way_to_those_of_few() -> None:
    service = Service(1024)
    service.send("large", 800, seconds=30)
    for _ in range(100):
        service.send("small")
        for _ in range(8):
            service.pass_millisecond()

    assert service.outcomes["small"].success == 1
    assert max(service.outcomes["small"].seconds) < 4 * BATCH_SECONDS


def test_a_caller_whose_share_is_used_up_is_refused_though_others_hold_more() -> None:
    service = Service(16)
    for _ in range(17):
        service.send("a", seconds=30)
    for _ in range(9):
        service.send("b", seconds=30)

    assert [type(error) for error in service.outcomes["a"].errors] == [QueueFull] * 9
    assert [type(error) for error in service.outcomes["b"].errors] == [QueueFull]


def test_a_deadline_is_judged_by_what_goes_ahead_and_not_by_all_that_waits() -> None:
    service = Service(1024)
    for _ in range(20):
        for _ in range(20):
            service.send("flood", seconds=30)
        service.pass_millisecond()

    service.send("flood", seconds=0.05)
    service.send("other", seconds=0.05)
    for _ in range(60):
        service.pass_millisecond()

    assert [type(error) for error in service.outcomes["flood"].errors] == [DeadlineUnreachable]
    assert len(service.outcomes["other"].seconds) == 1
