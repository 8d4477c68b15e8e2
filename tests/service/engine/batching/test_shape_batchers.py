"""Graphs whose rows vary in size: each test's rows are vectors, and a row's shape is its length."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from models.manifest import TensorSpec
from service.engine.batching import shape_batchers
from service.engine.batching.batches import Request
from service.engine.batching.cost import LearnedCost
from service.engine.batching.pool import Pool
from service.engine.batching.rows import RowRules
from service.engine.batching.scheduling import Limits
from service.engine.batching.shape_batchers import ShapeBatchers
from service.engine.transport.messages import InferenceTiming
from service.errors import Cancelled, DeadlineExceeded, DeadlineUnreachable, QueueFull, ServiceError
from service.telemetry.metrics import GraphMetrics, Metrics
from tests.service.engine.fakes import ACTION, FakeLoop, HeldInstance

RULES = RowRules((TensorSpec(name="x", datatype="UINT16", shape=(-1, -1)),))


@dataclass
class Bench:
    """ShapeBatchers of one graph with a fake clock, held instances, and what became of each request."""

    num_instances: int = 1
    limits: Limits = field(default_factory=lambda: Limits(4, 0.0, 16))
    cost: LearnedCost = field(default_factory=lambda: LearnedCost({}))
    max_batch_elements: int | None = None

    def __post_init__(self) -> None:
        self.loop = FakeLoop()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.pool = Pool(self.num_instances)
        self.instances, self.queue = self.graph("g")
        self.outcomes: dict[Request, ServiceError | InferenceTiming] = {}

    def graph(self, name: str) -> tuple[list[HeldInstance], ShapeBatchers]:
        """One more graph that has its turns from the same pool."""
        instances = [HeldInstance(self.loop) for _ in range(self.num_instances)]
        metrics = GraphMetrics(self.metrics, "m", "1", name)
        queue = ShapeBatchers(
            RULES, instances, self.limits, self.cost, self.loop, metrics, self.pool, self.max_batch_elements
        )
        return instances, queue

    def submit(
        self, length: int, *values: int, timeout_seconds: float = 60.0, queue: ShapeBatchers | None = None
    ) -> Request:
        rows = np.array([[value] * length for value in values], np.uint16)
        deadline = self.loop.now + timeout_seconds
        on_done = self.outcomes.__setitem__
        request = Request(len(values), rows.tobytes(), ("y",), self.loop.now, deadline, on_done, ((length,),))
        (queue or self.queue).submit(request)
        return request

    def answers(self, request: Request) -> list[list[int]]:
        assert isinstance(self.outcomes[request], InferenceTiming)
        answered: list[list[int]] = request.joined()["y"].tolist()
        return answered

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"model": "m", "version": "1", "graph": "g", **labels})


def test_rows_of_one_shape_share_a_batch_and_other_shapes_do_not() -> None:
    bench = Bench()
    requests = [bench.submit(2, 1), bench.submit(3, 5), bench.submit(2, 7)]
    bench.loop.advance()

    bench.instances[0].finish()
    bench.instances[0].finish()

    assert bench.instances[0].sizes == [2, 1]
    assert [bench.answers(request) for request in requests] == [[[2, 2]], [[10, 10, 10]], [[14, 14]]]


def test_the_shape_whose_request_has_waited_longest_goes_first() -> None:
    bench = Bench()
    bench.submit(2, 0)
    bench.loop.advance(0.1)
    order = [bench.submit(5, 1), bench.submit(3, 2)]
    bench.loop.advance(0.1)
    order.append(bench.submit(2, 3))
    bench.submit(5, 4)
    bench.loop.advance(0.1)

    settled: list[list[Request]] = []
    for _ in range(4):
        bench.instances[0].finish()
        settled.append([request for request in order if request in bench.outcomes])

    assert settled == [[], order[:1], order[:2], order]
    assert bench.instances[0].sizes == [1, 2, 1, 1]


def test_shapes_compute_side_by_side_on_all_instances() -> None:
    bench = Bench(num_instances=2, limits=Limits(4, 0.0, 16, num_instances=2, efficient_rows=4))

    first, second = bench.submit(2, 1), bench.submit(300, 2)
    bench.loop.advance()

    assert [instance.sizes for instance in bench.instances] == [[1], [1]]
    bench.instances[1].finish()
    assert second in bench.outcomes
    assert first not in bench.outcomes


def test_graphs_of_one_version_share_the_turns() -> None:
    bench = Bench()
    other_instances, other = bench.graph("h")
    bench.submit(2, 1)
    bench.loop.advance()
    later = bench.submit(2, 4, queue=other)
    bench.loop.advance()
    assert not other_instances[0].is_busy

    bench.instances[0].finish()
    other_instances[0].finish()

    assert bench.answers(later) == [[8, 8]]


def test_a_batch_is_bounded_by_the_elements_of_its_rows() -> None:
    bench = Bench(max_batch_elements=12)
    requests = [bench.submit(length, 1, 2, 3, 4) for length in (2, 4, 6, 99)]
    bench.loop.advance()
    while bench.instances[0].is_busy:
        bench.instances[0].finish()

    assert bench.instances[0].sizes[:1] == [4]
    assert sorted(bench.instances[0].sizes[1:]) == [1, 1, 1, 1, 1, 2, 2, 3]
    assert all(len(bench.answers(request)) == 4 for request in requests)


def test_an_idle_batcher_makes_room_for_a_new_shape_least_recently_used_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_batchers, "MAX_BATCHERS", 2)
    bench = Bench()
    for length in (2, 3, 2, 4):
        bench.submit(length, 1)
        bench.loop.advance()
        bench.instances[0].finish()

    assert bench.queue.shapes == [((2,),), ((4,),)]


def test_a_batcher_at_work_is_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_batchers, "MAX_BATCHERS", 1)
    bench = Bench()
    requests = [bench.submit(length, length) for length in (2, 3, 4)]
    bench.loop.advance()
    while bench.instances[0].is_busy:
        bench.instances[0].finish()

    assert [bench.answers(r)[0][0] for r in requests] == [4, 6, 8]
    bench.submit(5, 1)
    assert bench.queue.shapes == [((5,),)]


def test_batchers_with_large_buffers_are_dropped_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_batchers, "MAX_BUFFER_BYTES", 10_000)
    bench = Bench()
    for length in (1000, 2, 3):
        bench.submit(length, 1)
        bench.loop.advance()
        bench.instances[0].finish()

    assert bench.queue.shapes == [((2,),), ((3,),)]


def test_the_queue_is_limited_over_all_shapes() -> None:
    bench = Bench(limits=Limits(4, 0.0, 3))
    bench.submit(2, 0)
    bench.loop.advance()

    requests = [bench.submit(length, 1) for length in (2, 3, 4, 5)]

    assert [isinstance(bench.outcomes.get(request), QueueFull) for request in requests] == [False, False, False, True]
    assert bench.sample("hotplate_failures_total", reason="queue_full") == 1


def test_the_queue_is_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_batchers, "MAX_QUEUE_BYTES", 1000)
    bench = Bench()
    bench.submit(2, 0)
    bench.loop.advance()

    requests = [bench.submit(300, 1), bench.submit(200, 1), bench.submit(201, 1), bench.submit(2, 1)]

    outcomes = [bench.outcomes.get(request) for request in requests]
    assert [isinstance(outcome, QueueFull) for outcome in outcomes] == [False, False, True, True]
    assert "or 1000 bytes" in str(outcomes[2])


def test_a_row_larger_than_the_queue_is_let_into_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_batchers, "MAX_QUEUE_BYTES", 100)
    bench = Bench()
    request = bench.submit(300, 7)
    bench.loop.advance()
    bench.instances[0].finish()

    assert bench.answers(request) == [[14] * 300]


def test_a_deadline_counts_the_work_of_all_shapes_by_their_size() -> None:
    bench = Bench(cost=LearnedCost({2: 1.0, 64: 32.0}))
    bench.submit(2, 0)
    bench.loop.advance()
    bench.submit(20, 1)

    # The running row of 2 elements takes at most 1 s more, the row of 20 elements 10 s, the row itself 2 s.
    hopeless = bench.submit(4, 2, timeout_seconds=12.9)
    hopeful = bench.submit(4, 3, timeout_seconds=13.1)

    assert isinstance(bench.outcomes[hopeless], DeadlineUnreachable)
    assert hopeful not in bench.outcomes


def test_a_cancelled_request_leaves_its_queue() -> None:
    bench = Bench()
    bench.submit(2, 0)
    bench.loop.advance()
    leaving, staying = bench.submit(3, 1, 2), bench.submit(3, 5)

    bench.queue.cancel(leaving)
    bench.instances[0].finish()
    bench.instances[0].finish()

    assert isinstance(bench.outcomes[leaving], Cancelled)
    assert bench.answers(staying) == [[10, 10, 10]]
    assert bench.instances[0].sizes == [1, 1]


def test_cancelling_after_the_batcher_is_gone_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_batchers, "MAX_BATCHERS", 1)
    bench = Bench()
    answered = bench.submit(2, 1)
    bench.loop.advance()
    bench.instances[0].finish()
    bench.submit(3, 1)

    bench.queue.cancel(answered)

    assert isinstance(bench.outcomes[answered], InferenceTiming)


def test_a_deadline_that_passes_in_a_queue_is_reported_in_time() -> None:
    bench = Bench()
    bench.submit(2, 0)
    bench.loop.advance()
    late = bench.submit(3, 1, timeout_seconds=0.1)

    bench.loop.advance(0.11)

    assert isinstance(bench.outcomes[late], DeadlineExceeded)
    assert bench.queue.waiting_rows == 0


def test_the_queue_depth_counts_all_shapes_of_the_graph() -> None:
    bench = Bench()
    bench.submit(2, 0)
    bench.loop.advance()
    bench.submit(3, 1, 2)
    bench.submit(4, 3)
    bench.loop.advance()
    assert bench.sample("hotplate_queue_depth") == bench.queue.waiting_rows == 3
    assert bench.queue.num_waiting == 2

    bench.instances[0].finish()
    assert bench.sample("hotplate_queue_depth") == 1
    bench.instances[0].finish()
    assert bench.sample("hotplate_queue_depth") == 0


@settings(max_examples=100)
@given(st.lists(ACTION, max_size=60), st.integers(1, 2), st.sampled_from([0.0, 0.02]))
def test_whatever_happens_every_request_gets_its_own_answer(
    actions: list[tuple[str, int]], num_instances: int, delay_seconds: float
) -> None:
    bench = Bench(num_instances, Limits(4, delay_seconds, 24, num_instances), max_batch_elements=9)
    submitted: list[tuple[Request, int, list[int]]] = []
    for action, number in actions:
        if action == "submit":
            length = 1 + len(submitted) % 3
            values = [100 * len(submitted) + i for i in range(number)]
            submitted.append((bench.submit(length, *values, timeout_seconds=0.1), length, values))
        elif action == "cancel" and submitted:
            bench.queue.cancel(submitted[number % len(submitted)][0])
        elif action == "finish" and bench.instances[number % num_instances].is_busy:
            bench.instances[number % num_instances].finish()
        elif action == "advance":
            bench.loop.advance(number / 1000)
    while any(instance.is_busy for instance in bench.instances) or bench.queue.num_waiting:
        bench.loop.advance(0.05)
        for instance in bench.instances:
            if instance.is_busy:
                instance.finish()

    for request, length, values in submitted:
        assert request in bench.outcomes
        if isinstance(bench.outcomes[request], InferenceTiming):
            assert bench.answers(request) == [[2 * value] * length for value in values]
    assert bench.queue.waiting_rows == bench.queue.computing_rows == 0
    assert len(bench.pool.idle) == num_instances
