"""A graph that loses rows: each test's rows are pairs of numbers, and the answer is twice the pair."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from models.manifest import TensorSpec
from service.engine.batching.batcher import Batcher, OnLostRows
from service.engine.batching.batches import BatchOutcome, Request
from service.engine.batching.cost import LearnedCost
from service.engine.batching.graph_queue import GraphQueue
from service.engine.batching.pool import Pool
from service.engine.batching.rows import RowRules, whole_rules
from service.engine.batching.scheduling import Limits
from service.engine.batching.shape_batchers import ShapeBatchers
from service.engine.transport.messages import InferenceTiming
from service.errors import Cancelled, ServiceError
from service.telemetry.metrics import GraphMetrics, Metrics
from tests.service.engine.fakes import ACTION, FakeLoop, HeldInstance

RULES = RowRules((TensorSpec(name="x", datatype="UINT16", shape=(-1, 2)),))


@dataclass
class Bench:
    """The queue of a graph with a fake clock, held instances, and what became of each request."""

    num_instances: int = 1
    is_batched: bool = True
    outcomes: dict[Request, ServiceError | InferenceTiming] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = FakeLoop()
        self.metrics = GraphMetrics(Metrics(CollectorRegistry()), "m", "1", "g")
        self.instances = [HeldInstance(self.loop) for _ in range(self.num_instances)]
        self.alone = [HeldInstance(self.loop)]
        opens = self._batches if self.is_batched else None
        self.queue = GraphQueue(RULES, opens, self._whole, self.reasons.append)

    def _batches(self, on_lost_rows: OnLostRows) -> Batcher:
        limits, cost = Limits(4, 0.0, 16, self.num_instances), LearnedCost({}).of_rows(1)
        return Batcher(RULES.inputs, self.instances, limits, cost, self.loop, self.metrics, on_lost_rows=on_lost_rows)

    def _whole(self) -> ShapeBatchers:
        limits, cost = Limits(1, 0.0, 2), LearnedCost({})
        return ShapeBatchers(whole_rules(RULES.inputs), self.alone, limits, cost, self.loop, self.metrics, Pool(1))

    def submit(self, *values: int) -> Request:
        rows = np.array([[value, value + 1] for value in values], np.uint16).reshape(-1, 2)
        request = Request(len(values), rows.tobytes(), ("y",), self.loop.now, 1e9, self.outcomes.__setitem__)
        self.queue.submit(request)
        self.loop.advance()
        return request

    def lose_rows(self, index: int = 0) -> None:
        self.instances[index].finish(BatchOutcome(self.loop.now, 0.001, lost_rows="its output has 1 row for 3"))

    def finish_all(self) -> None:
        while busy := [each for each in (*self.instances, *self.alone) if each.is_busy]:
            busy[0].finish()

    def answers(self, request: Request) -> list[int]:
        assert isinstance(self.outcomes[request], InferenceTiming)
        return [int(value) for value in request.joined()["y"][:, 0]]


def test_a_batch_that_loses_rows_is_computed_again_request_by_request() -> None:
    bench = Bench()
    first = bench.submit(0)
    requests = [bench.submit(1), bench.submit(2, 3)]
    bench.instances[0].finish()

    bench.lose_rows()
    bench.finish_all()

    assert bench.answers(first) == [0]
    assert [bench.answers(request) for request in requests] == [[2], [4, 6]]
    assert bench.reasons == ["its output has 1 row for 3"]


def test_the_model_is_not_batched_from_then_on() -> None:
    bench = Bench()
    bench.submit(0)
    bench.lose_rows()
    bench.finish_all()

    later = [bench.submit(1), bench.submit(2)]
    bench.finish_all()

    assert bench.instances[0].sizes == [1]
    assert [bench.answers(request) for request in later] == [[2], [4]]
    assert not bench.queue.is_batched


def test_what_was_accepted_is_not_refused_by_the_smaller_queue() -> None:
    bench = Bench()
    requests = [bench.submit(value) for value in range(12)]

    bench.lose_rows()
    bench.finish_all()

    assert [bench.answers(request) for request in requests] == [[2 * value] for value in range(12)]


def test_a_request_in_two_batches_is_answered_once_when_one_of_them_loses_rows() -> None:
    bench = Bench(num_instances=2)
    request = bench.submit(1, 2, 3, 4, 5, 6)

    bench.lose_rows(0)
    bench.finish_all()

    assert bench.answers(request) == [2, 4, 6, 8, 10, 12]
    assert bench.queue.is_idle


def test_rows_that_were_right_stay_right_when_another_batch_loses_rows() -> None:
    bench = Bench(num_instances=2)
    sound, broken = bench.submit(1, 2, 3, 4), bench.submit(5, 6)

    bench.lose_rows(1)
    bench.instances[0].finish()
    bench.finish_all()

    assert (bench.answers(sound), bench.answers(broken)) == ([2, 4, 6, 8], [10, 12])


def test_a_request_without_rows_is_computed_by_itself() -> None:
    bench = Bench()

    request = bench.submit()
    bench.finish_all()

    assert bench.answers(request) == []
    assert bench.queue.is_batched
    assert bench.instances[0].sizes == []


def test_a_caller_who_leaves_is_found_in_either_queue() -> None:
    bench = Bench()
    bench.submit(0)
    leaving, staying = bench.submit(1), bench.submit(2)
    bench.lose_rows()

    bench.queue.cancel(leaving)
    bench.finish_all()

    assert isinstance(bench.outcomes[leaving], Cancelled)
    assert bench.answers(staying) == [4]


@settings(max_examples=60)
@given(st.lists(ACTION, max_size=50), st.integers(1, 2), st.integers(0, 20))
def test_whatever_is_lost_every_request_gets_its_own_answer(
    actions: list[tuple[str, int]], num_instances: int, losing: int
) -> None:
    bench = Bench(num_instances)
    submitted: list[tuple[Request, list[int]]] = []
    for turn, (action, number) in enumerate(actions):
        if action == "submit":
            values = [100 * len(submitted) + i for i in range(number)]
            submitted.append((bench.submit(*values), values))
        elif action == "cancel" and submitted:
            bench.queue.cancel(submitted[number % len(submitted)][0])
        elif action == "finish" and bench.instances[number % num_instances].is_busy:
            if turn >= losing:
                bench.lose_rows(number % num_instances)
            else:
                bench.instances[number % num_instances].finish()
        elif action == "advance":
            bench.loop.advance(number / 1000)
    bench.finish_all()

    for request, values in submitted:
        if isinstance(bench.outcomes[request], InferenceTiming):
            assert bench.answers(request) == [2 * value for value in values]
    assert bench.queue.is_idle
    assert bench.queue.waiting_rows == 0
