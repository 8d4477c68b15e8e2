from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from models.manifest import TensorSpec
from service.engine.batching.batcher import Batcher
from service.engine.batching.batches import BatchOutcome, Request, Span
from service.engine.batching.cost import LearnedCost
from service.engine.batching.scheduling import REASONS, Limits
from service.engine.transport.messages import InferenceTiming
from service.errors import (
    Cancelled,
    DeadlineExceeded,
    DeadlineUnreachable,
    InferenceFailed,
    ObjectiveUnreachable,
    QueueFull,
    ServiceError,
)
from service.telemetry.metrics import GraphMetrics, Metrics
from tests.service.engine.fakes import ACTION, FakeLoop, Faults, HeldInstance, InjectedError

TOGETHER = st.tuples(st.just("together"), st.integers(1, 5))
COPIES = ("place", "place_together")
INPUTS = (TensorSpec(name="x", datatype="UINT16", shape=(-1, 2)),)


@dataclass
class Bench:
    """A batcher with a fake clock, held instances, and what became of each request."""

    num_instances: int = 1
    limits: Limits = field(default_factory=lambda: Limits(4, 0.0, 16))
    cost: LearnedCost = field(default_factory=lambda: LearnedCost({}))
    twin_cost: LearnedCost | None = None

    def __post_init__(self) -> None:
        self.loop = FakeLoop()
        self.registry = CollectorRegistry()
        metrics = GraphMetrics(Metrics(self.registry), "m", "1", "g")
        self.instances = [HeldInstance(self.loop) for _ in range(self.num_instances)]
        twin = self.twin_cost.of_rows(1) if self.twin_cost is not None else None
        cost, loop = self.cost.of_rows(1), self.loop
        self.batcher = Batcher(INPUTS, self.instances, self.limits, cost, loop, metrics, twin_cost=twin)
        self.outcomes: dict[Request, ServiceError | InferenceTiming] = {}
        self.runs: list[int] = []

    def submit(self, *values: int, timeout_seconds: float = 60.0, priority: int = 0) -> Request:
        rows = np.array([[value, value + 1] for value in values], np.uint16)
        deadline = self.loop.now + timeout_seconds
        request = Request(len(values), rows.tobytes(), ("y",), self.loop.now, deadline, self.outcomes.__setitem__)
        request.priority = priority
        self.batcher.submit(request)
        return request

    def submit_together(self, *requests: Sequence[int], timeout_seconds: float = 60.0) -> list[Request]:
        """Submit requests as one message brings them; their answers come batch by batch."""
        rows = [np.array([[value, value + 1] for value in values], np.uint16).tobytes() for values in requests]
        deadline = self.loop.now + timeout_seconds
        made = [
            Request(len(payload) // 4, payload, ("y",), self.loop.now, deadline, self.outcomes.__setitem__)
            for payload in rows
        ]
        for request in made:
            request.on_batch = self._settle_batch
        self.batcher.submit_all(made, b"".join(rows))
        return made

    def _settle_batch(self, spans: Sequence[Span], outcome: BatchOutcome, size: int) -> None:
        self.runs.append(len(spans))
        for before, after in pairwise(spans):
            assert before.start + before.count == after.start
        for span in spans:
            assert span.request not in self.outcomes
            span.request.parts = [(0, outcome.rows(span.start, span.count, ("y",)))]
            self.outcomes[span.request] = InferenceTiming(0.0, outcome.compute_seconds, size)

    def answers(self, request: Request) -> list[int]:
        assert isinstance(self.outcomes[request], InferenceTiming)
        return [int(value) for value in request.joined()["y"][:, 0]]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"model": "m", "version": "1", "graph": "g", **labels})


def test_an_idle_instance_starts_at_the_end_of_the_turn() -> None:
    bench = Bench()

    request = bench.submit(5)
    bench.loop.advance()
    bench.instances[0].finish()

    assert bench.answers(request) == [10]


def test_requests_of_one_turn_share_a_batch() -> None:
    bench = Bench()

    requests = [bench.submit(value) for value in (1, 2, 3)]
    bench.loop.advance()
    bench.instances[0].finish()

    assert bench.instances[0].sizes == [3]
    assert [bench.answers(request) for request in requests] == [[2], [4], [6]]


def test_requests_of_one_message_are_answered_as_one() -> None:
    bench = Bench(limits=Limits(8, 0.0, 16))

    requests = bench.submit_together([1], [2, 3], [4])
    bench.loop.advance()
    bench.instances[0].finish()

    assert bench.instances[0].sizes == [4]
    assert bench.runs == [3]
    assert [bench.answers(request) for request in requests] == [[2], [4, 6], [8]]
    assert bench.sample("hotplate_rows_total") == 4


def test_of_one_message_what_exceeds_the_queue_is_refused_alone() -> None:
    bench = Bench(limits=Limits(4, 0.0, 6))
    bench.submit(1, 2, 3, 4)
    bench.loop.advance()

    *admitted, refused = bench.submit_together([5, 6], [7, 8], [9, 10], [11])
    while bench.instances[0].is_busy:
        bench.instances[0].finish()

    assert isinstance(bench.outcomes[refused], QueueFull)
    assert [bench.answers(request) for request in admitted] == [[10, 12], [14, 16], [18, 20]]


def test_a_request_of_a_message_that_is_cancelled_leaves_the_others() -> None:
    bench = Bench(limits=Limits(8, 0.0, 16))
    requests = bench.submit_together([1], [2], [3], [4])
    bench.batcher.cancel(requests[0])
    bench.loop.advance()
    bench.batcher.cancel(requests[2])

    bench.instances[0].finish()

    assert bench.runs == [1, 1]  # a gap ends a run
    assert isinstance(bench.outcomes[requests[0]], Cancelled)
    assert isinstance(bench.outcomes[requests[2]], Cancelled)
    assert [bench.answers(requests[index]) for index in (1, 3)] == [[4], [8]]


def test_the_next_batch_fills_while_one_computes() -> None:
    bench = Bench()
    bench.submit(1)
    bench.loop.advance()

    later = [bench.submit(value) for value in (2, 3, 4)]
    bench.loop.advance()
    bench.instances[0].finish()
    bench.instances[0].finish()

    assert bench.instances[0].sizes == [1, 3]
    assert [bench.answers(request) for request in later] == [[4], [6], [8]]


def test_a_full_batch_leaves_without_waiting() -> None:
    bench = Bench(limits=Limits(4, 10.0, 16))

    bench.submit(1, 2, 3, 4)
    bench.loop.advance()

    assert bench.instances[0].sizes == [4]


def test_a_part_batch_waits_for_the_window_of_its_oldest_request() -> None:
    bench = Bench(limits=Limits(4, 0.010, 16))
    bench.submit(1)
    bench.loop.advance(0.006)
    bench.submit(2)
    bench.loop.advance(0.0039)
    assert bench.instances[0].sizes == []

    bench.loop.advance(0.0002)

    assert bench.instances[0].sizes == [2]


def test_a_deadline_within_the_window_ends_it_although_the_timer_fires_late() -> None:
    bench = Bench(limits=Limits(4, 10.0, 16))
    patient = bench.submit(1)
    hasty = bench.submit(2, timeout_seconds=0.1)
    bench.loop.advance(0.07)
    assert bench.instances[0].sizes == []

    bench.loop.now += 0.029  # the loop was busy for all but a moment of what is left
    bench.loop.advance()
    bench.instances[0].finish()

    assert bench.instances[0].sizes == [2]
    assert [bench.answers(request) for request in (patient, hasty)] == [[2], [4]]


def test_an_idle_instance_helps_out_before_a_deadline_passes_behind_a_long_batch() -> None:
    bench = Bench(num_instances=2, limits=Limits(4, 0.0, 16, num_instances=2, efficient_rows=4))
    bench.submit(9)
    bench.loop.advance()
    hasty = bench.submit(2, timeout_seconds=0.1)
    bench.loop.advance(0.05)
    assert bench.instances[1].sizes == []

    bench.loop.advance(0.03)
    bench.instances[1].finish()

    assert bench.answers(hasty) == [4]


def test_a_request_of_many_rows_is_split_and_rejoined_in_order() -> None:
    bench = Bench()
    bench.submit(100)
    request = bench.submit(*range(10))
    bench.loop.advance()
    while bench.instances[0].is_busy:
        bench.instances[0].finish()

    assert bench.instances[0].sizes == [4, 4, 3]
    assert bench.answers(request) == [2 * value for value in range(10)]


def test_two_instances_compute_at_once() -> None:
    bench = Bench(num_instances=2)

    requests = [bench.submit(1, 2, 3, 4), bench.submit(5, 6)]
    bench.loop.advance()

    assert [instance.sizes for instance in bench.instances] == [[4], [2]]
    bench.instances[1].finish()
    assert bench.answers(requests[1]) == [10, 12]
    bench.instances[0].finish()
    assert bench.answers(requests[0]) == [2, 4, 6, 8]


def test_a_full_queue_refuses_exactly_what_exceeds_it() -> None:
    bench = Bench(limits=Limits(4, 0.0, 8))
    bench.submit(0)
    bench.loop.advance()

    requests = [bench.submit(value) for value in range(10)]

    refused = [r for r in requests if isinstance(bench.outcomes.get(r), QueueFull)]
    assert refused == requests[8:]
    assert bench.sample("hotplate_failures_total", reason="queue_full") == 2


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    bench = Bench(cost=LearnedCost({1: 1.0, 4: 1.0}))
    bench.submit(0)
    bench.loop.advance()

    request = bench.submit(1, timeout_seconds=0.5)

    outcome = bench.outcomes[request]
    assert isinstance(outcome, DeadlineUnreachable)
    assert outcome.retry_after_seconds is not None


def test_what_would_miss_the_objective_is_refused_at_once_and_told_when_to_come_back() -> None:
    bench = Bench(limits=Limits(4, 0.0, 64, objective_seconds=0.1), cost=LearnedCost({1: 0.02, 4: 0.02}))
    for value in range(16):
        bench.submit(value)

    refused = [outcome for outcome in bench.outcomes.values() if isinstance(outcome, ObjectiveUnreachable)]
    assert len(refused) == len(bench.outcomes) == 16 - 12  # three batches in 75 ms
    assert all(error.retry_after_seconds == pytest.approx(0.08 - 0.075) for error in refused)


def test_requests_that_come_together_are_each_held_to_the_objective() -> None:
    bench = Bench(limits=Limits(4, 0.0, 64, objective_seconds=0.1), cost=LearnedCost({1: 0.02, 4: 0.02}))

    bench.submit_together(*[[value] * 2 for value in range(16)])

    refused = [outcome for outcome in bench.outcomes.values() if isinstance(outcome, ObjectiveUnreachable)]
    assert len(refused) == len(bench.outcomes) == 16 - 6  # three batches in 75 ms


def test_a_cheaper_twin_computes_what_the_objective_leaves_no_time_for() -> None:
    cost, twin_cost = LearnedCost({1: 0.02, 4: 0.02}), LearnedCost({1: 0.005, 4: 0.005})
    bench = Bench(limits=Limits(4, 0.0, 64, objective_seconds=0.1), cost=cost, twin_cost=twin_cost)
    (instance,) = bench.instances
    for value in range(16):
        bench.submit(value)
    bench.loop.advance()
    while instance.is_busy:
        instance.finish()

    assert instance.degraded == [True, True, False, False]  # 80 and 60 ms would be too much, 40 are not
    assert len(bench.outcomes) == 16
    assert not any(isinstance(outcome, ServiceError) for outcome in bench.outcomes.values())


def test_who_asks_for_more_than_the_objective_allows_is_served_where_nothing_waits() -> None:
    bench = Bench(limits=Limits(4, 0.0, 64, objective_seconds=0.01), cost=LearnedCost({1: 0.02, 4: 0.02}))
    bench.submit(*range(8))

    assert not bench.outcomes


def test_with_an_objective_batches_leave_time_for_the_next() -> None:
    cost = LearnedCost({1: 0.01, 2: 0.02, 4: 0.04})
    bench = Bench(limits=Limits(4, 0.0, 64, objective_seconds=0.06), cost=cost)
    first = bench.submit(*range(6))
    bench.loop.advance()
    while first not in bench.outcomes:
        bench.instances[0].finish()
        bench.loop.advance()

    assert bench.instances[0].sizes[0] == 2
    assert sum(bench.instances[0].sizes) == 6


def test_what_waits_with_a_worse_priority_keeps_nobody_out() -> None:
    bench = Bench(limits=Limits(2, 0.0, 8, objective_seconds=0.1), cost=LearnedCost({1: 0.02, 2: 0.02}))
    behind = [bench.submit(value, priority=3) for value in range(7)]

    urgent = bench.submit(9, priority=1)

    assert urgent not in bench.outcomes
    assert any(each not in bench.outcomes for each in behind)


def test_a_request_whose_deadline_passes_in_the_queue_is_never_computed() -> None:
    bench = Bench()
    bench.submit(1)
    bench.loop.advance()
    late = bench.submit(2, timeout_seconds=0.1)
    punctual = bench.submit(3)

    bench.loop.advance(0.11)
    bench.instances[0].finish()
    bench.instances[0].finish()

    assert isinstance(bench.outcomes[late], DeadlineExceeded)
    assert bench.answers(punctual) == [6]
    assert bench.instances[0].sizes == [1, 1]


def test_a_shorter_deadline_moves_the_timer_forward() -> None:
    bench = Bench()
    bench.submit(0)
    bench.loop.advance()
    bench.submit(1, timeout_seconds=10.0)
    bench.loop.advance()
    urgent = bench.submit(2, timeout_seconds=0.1)

    bench.loop.advance(0.2)

    assert isinstance(bench.outcomes[urgent], DeadlineExceeded)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_caller_who_leaves_frees_his_rows(victim: int) -> None:
    bench = Bench()
    bench.submit(9)
    bench.loop.advance()
    requests = [bench.submit(10, 11), bench.submit(20), bench.submit(30)]

    bench.batcher.cancel(requests[victim])
    bench.instances[0].finish()
    bench.instances[0].finish()

    stayed = [request for request in requests if request is not requests[victim]]
    expected = [[20, 22], [40], [60]]
    assert [bench.answers(request) for request in stayed] == [e for i, e in enumerate(expected) if i != victim]
    assert isinstance(bench.outcomes[requests[victim]], Cancelled)
    assert bench.batcher.waiting_rows == 0


def test_a_freed_place_is_taken_by_the_overflow() -> None:
    bench = Bench()
    bench.submit(0)
    bench.loop.advance()
    first = bench.submit(1, 2, 3)
    second = bench.submit(4, 5, 6)

    bench.batcher.cancel(first)
    bench.instances[0].finish()
    bench.instances[0].finish()

    assert bench.instances[0].sizes == [1, 3]
    assert bench.answers(second) == [8, 10, 12]


def test_cancelling_a_running_request_throws_its_result_away() -> None:
    bench = Bench()
    request = bench.submit(1)
    bench.loop.advance()

    bench.batcher.cancel(request)
    bench.instances[0].finish()

    assert isinstance(bench.outcomes[request], Cancelled)
    assert bench.batcher.computing_rows == 0


def test_cancelling_twice_settles_once() -> None:
    bench = Bench()
    request = bench.submit(1)

    bench.batcher.cancel(request)
    bench.batcher.cancel(request)
    bench.loop.advance()

    assert bench.sample("hotplate_failures_total", reason="cancelled") == 1


def test_a_poisonous_row_fails_alone() -> None:
    bench = Bench()
    requests = [bench.submit(value) for value in (1, 2, 3)]
    bench.loop.advance()

    values = np.array([[2, 3], [0, 0], [6, 7]])
    outcome = BatchOutcome(bench.loop.now, 0.001, {"y": values}, {1: InferenceFailed("It cannot be computed.")})
    bench.instances[0].finish(outcome)

    assert isinstance(bench.outcomes[requests[1]], InferenceFailed)
    assert [bench.answers(requests[0]), bench.answers(requests[2])] == [[2], [6]]


def test_a_failed_part_drops_the_rest_of_its_request() -> None:
    bench = Bench()
    request = bench.submit(*range(10))
    bench.loop.advance()

    failed: dict[int, ServiceError] = {0: InferenceFailed("It cannot be computed.")}
    bench.instances[0].finish(BatchOutcome(bench.loop.now, 0.001, {"y": np.zeros((4, 2))}, failed))
    while bench.instances[0].is_busy:
        bench.instances[0].finish()

    assert isinstance(bench.outcomes[request], InferenceFailed)
    assert bench.batcher.waiting_rows == 0
    assert bench.batcher.num_waiting == 0


def test_the_timing_holds_queue_time_and_batch_size() -> None:
    bench = Bench()
    bench.submit(1)
    bench.loop.advance()
    request = bench.submit(2)
    bench.submit(3)
    bench.loop.advance(0.25)
    bench.instances[0].finish()
    bench.instances[0].finish()

    timing = bench.outcomes[request]
    assert isinstance(timing, InferenceTiming)
    assert timing.batch_size == 2
    assert timing.queue_seconds == pytest.approx(0.25)


def test_batches_are_counted_by_why_they_left() -> None:
    bench = Bench(limits=Limits(4, 0.010, 16))
    bench.submit(1, 2, 3, 4)
    bench.loop.advance()
    bench.instances[0].finish()
    bench.submit(5)
    bench.loop.advance(0.010)
    bench.instances[0].finish()
    bench.submit(6, timeout_seconds=0.008)
    bench.loop.advance(0.006)
    bench.instances[0].finish()

    counts = {reason: bench.sample("hotplate_batches_total", reason=reason) for reason in REASONS}
    assert counts == {"full": 1, "window": 1, "deadline": 1, "idle": 0}


def test_metrics_count_batches_rows_and_depth() -> None:
    bench = Bench()
    bench.submit(1, 2)
    bench.loop.advance()
    bench.submit(3)
    bench.loop.advance()
    assert bench.sample("hotplate_queue_depth") == 1

    bench.instances[0].finish()
    bench.instances[0].finish()

    assert bench.sample("hotplate_rows_total") == 3
    assert bench.sample("hotplate_batch_size_count") == 2
    assert bench.sample("hotplate_batch_size_sum") == 3
    assert bench.sample("hotplate_queue_seconds_count") == 2
    assert bench.sample("hotplate_queue_depth") == 0


@settings(max_examples=150)
@given(
    st.lists(ACTION | st.tuples(st.just("together"), st.integers(1, 5)), max_size=60),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.02]),
)
def test_whatever_happens_every_request_gets_its_own_answer(
    actions: list[tuple[str, int]], num_instances: int, delay_seconds: float
) -> None:
    bench = Bench(num_instances, Limits(4, delay_seconds, 24, num_instances))
    submitted: list[tuple[Request, list[int]]] = []
    next_value = 0
    for action, number in actions:
        if action == "submit":
            values = list(range(next_value, next_value + number))
            next_value += number
            submitted.append((bench.submit(*values, timeout_seconds=0.1), values))
        elif action == "together":
            each = [
                list(range(first, first + 1 + first % 3)) for first in range(next_value, next_value + 3 * number, 3)
            ]
            next_value += 3 * number
            submitted += zip(bench.submit_together(*each, timeout_seconds=0.1), each, strict=True)
        elif action == "cancel" and submitted:
            bench.batcher.cancel(submitted[number % len(submitted)][0])
        elif action == "finish" and bench.instances[number % num_instances].is_busy:
            bench.instances[number % num_instances].finish()
        elif action == "advance":
            bench.loop.advance(number / 1000)
    while any(instance.is_busy for instance in bench.instances) or bench.batcher.num_waiting:
        bench.loop.advance(0.05)
        for instance in bench.instances:
            if instance.is_busy:
                instance.finish()

    for request, values in submitted:
        assert request in bench.outcomes
        if isinstance(bench.outcomes[request], InferenceTiming):
            assert bench.answers(request) == [2 * value for value in values]
    assert bench.batcher.waiting_rows == bench.batcher.computing_rows == 0
    assert all(size <= 4 for instance in bench.instances for size in instance.sizes)


def faulty_bench(faults: Faults, num_instances: int) -> Bench:
    """A bench of which every part that a batcher calls may fail."""
    bench = Bench(num_instances, Limits(4, 0.0, 24, num_instances))
    batcher, metrics, new_buffer = bench.batcher, bench.batcher._metrics, bench.batcher._new_buffer
    metrics.queue_seconds = faults.around(metrics.queue_seconds)
    metrics.queue_depth = faults.around(metrics.queue_depth)
    metrics.rows = faults.around(metrics.rows)
    metrics.record = faults.around(metrics.record)
    batcher._metrics = faults.around(metrics)
    batcher._cost = faults.around(batcher._cost)
    batcher._filling = faults.around(batcher._filling, *COPIES)
    batcher._new_buffer = faults.wrap(lambda: faults.around(new_buffer(), *COPIES))  # type: ignore[method-assign]
    batcher._instances = [faults.around(instance) for instance in bench.instances]
    return bench


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ACTION | TOGETHER, min_size=5, max_size=40),
    st.sets(st.integers(1, 120), max_size=8),
    st.integers(1, 2),
)
def test_whatever_fails_every_request_is_answered_and_every_turn_is_given_back(
    actions: list[tuple[str, int]], at: set[int], num_instances: int
) -> None:
    faults = Faults(at)
    bench = faulty_bench(faults, num_instances)
    submitted: list[Request] = []
    for action, number in actions:
        if action == "submit":
            with contextlib.suppress(InjectedError):  # who submits it is told
                submitted.append(bench.submit(*range(number), timeout_seconds=30))
        elif action == "together":
            with contextlib.suppress(InjectedError):
                submitted += bench.submit_together(*([value] for value in range(number)), timeout_seconds=30)
        elif action == "cancel" and submitted:
            bench.batcher.cancel(submitted[number % len(submitted)])
        elif action == "finish" and bench.instances[number % num_instances].is_busy:
            bench.instances[number % num_instances].finish()
        elif action == "advance":
            bench.loop.advance(number / 1000)
    for _ in range(200):
        bench.loop.advance(0.05)
        for instance in bench.instances:
            if instance.is_busy:
                instance.finish()

    assert all(request in bench.outcomes for request in submitted)
    assert bench.batcher.is_idle
    assert bench.batcher.waiting_rows == bench.batcher.computing_rows == 0
    assert sorted(bench.batcher._pool.idle) == list(range(num_instances))
    assert len(bench.batcher._free) == bench.batcher._num_buffers - 1
    faults.at.clear()
    last = bench.submit(7, 9)
    bench.loop.advance()
    next(instance for instance in bench.instances if instance.is_busy).finish()
    assert bench.answers(last) == [14, 18]


def test_what_is_urgent_goes_ahead_of_what_waits_behind_the_next_batch() -> None:
    bench = Bench(limits=Limits(1, 0.0, 16))
    done: list[int] = []
    requests = {value: bench.submit(value) for value in (1, 2)}
    bench.loop.advance()
    requests |= {value: bench.submit(value, priority=rank) for value, rank in ((3, 3), (4, 0), (5, 1))}

    for _ in requests:
        bench.instances[0].finish()
        done += [v for v, request in requests.items() if request in bench.outcomes and v not in done]

    # The first computes, the second is in the next batch; then 1 before none before 3.
    assert done == [1, 2, 5, 4, 3]
    assert [bench.answers(request) for request in requests.values()] == [[2], [4], [6], [8], [10]]


def test_nothing_overtakes_a_request_whose_rows_have_begun_to_leave() -> None:
    bench = Bench(limits=Limits(2, 0.0, 16))
    large = bench.submit(1, 2, 3, 4, 5, priority=5)
    urgent = bench.submit(6, priority=1)
    bench.loop.advance()

    for _ in range(3):
        bench.instances[0].finish()

    assert bench.answers(large) == [2, 4, 6, 8, 10]
    assert bench.answers(urgent) == [12]
    assert bench.instances[0].sizes == [2, 2, 2]
