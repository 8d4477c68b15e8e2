from __future__ import annotations

from dataclasses import dataclass

import pytest

from service.engine.batching.scheduling import (
    Dispatch,
    Limits,
    Wait,
    admit,
    decide,
    expected_seconds,
    slack_seconds,
)

GREEDY = Limits(max_batch_size=8, max_queue_delay_seconds=0.0, max_queue_rows=16)
PATIENT = Limits(max_batch_size=8, max_queue_delay_seconds=0.010, max_queue_rows=16)
FOREVER = float("inf")


@dataclass(frozen=True)
class Line:
    """A cost by the row and by the batch."""

    seconds_per_row: float
    seconds_per_batch: float

    def seconds(self, num_rows: int) -> float:
        return self.seconds_per_row * num_rows + self.seconds_per_batch


def test_an_idle_instance_takes_a_single_row_at_once() -> None:
    assert decide(1, 0.0, FOREVER, 1, GREEDY) == Dispatch("idle")


def test_nothing_leaves_while_every_instance_computes() -> None:
    assert decide(8, 5.0, FOREVER, 0, GREEDY) == Wait(None)


def test_an_empty_queue_waits_for_an_event() -> None:
    assert decide(0, 0.0, FOREVER, 1, GREEDY) == Wait(None)


def test_a_full_batch_leaves_without_waiting() -> None:
    assert decide(8, 0.0, FOREVER, 1, PATIENT) == Dispatch("full")


def test_the_window_is_measured_from_the_oldest_request() -> None:
    decision = decide(3, 0.004, FOREVER, 1, PATIENT)

    assert isinstance(decision, Wait)
    assert decision.seconds == pytest.approx(0.006)


def test_a_part_batch_leaves_when_the_window_ends() -> None:
    assert decide(3, 0.010, FOREVER, 1, PATIENT) == Dispatch("window")


def test_a_tight_deadline_ends_the_window_early() -> None:
    assert decide(3, 0.0, 0.002, 1, PATIENT) == Wait(0.002)
    assert decide(3, 0.0, -0.001, 1, PATIENT) == Dispatch("deadline")


def test_a_batch_that_is_due_twice_leaves_for_what_was_due_first() -> None:
    assert decide(3, 0.011, -0.004, 1, PATIENT) == Dispatch("deadline")
    assert decide(3, 0.014, -0.001, 1, PATIENT) == Dispatch("window")


def test_a_second_instance_joins_in_only_for_an_efficient_batch() -> None:
    two = Limits(8, 0.0, 16, num_instances=2, efficient_rows=4)

    assert decide(3, 0.0, FOREVER, 2, two) == Dispatch("idle")
    assert decide(3, 0.0, FOREVER, 1, two) == Wait(None)
    assert decide(4, 0.0, FOREVER, 1, two) == Dispatch("idle")


def test_a_second_instance_joins_in_for_a_deadline() -> None:
    two = Limits(8, 0.0, 16, num_instances=2, efficient_rows=4)

    assert decide(3, 5.0, 0.002, 1, two) == Wait(0.002)
    assert decide(3, 5.0, 0.0, 1, two) == Dispatch("deadline")


@pytest.mark.parametrize(
    ("timeout_seconds", "batch_seconds", "slack"),
    [(30.0, 0.01, 29.94), (0.1, 0.01, 0.065), (0.004, 0.0, 0.003), (0.1, 0.2, -0.125)],
)
def test_a_deadline_leaves_time_for_the_batch_and_a_reserve(
    timeout_seconds: float, batch_seconds: float, slack: float
) -> None:
    assert slack_seconds(7.0, 7.0 + timeout_seconds, 7.0, batch_seconds) == pytest.approx(slack)
    assert slack_seconds(7.0, 7.0 + timeout_seconds, 8.0, batch_seconds) == pytest.approx(slack - 1)


def test_a_request_is_admitted_while_the_queue_has_room() -> None:
    assert admit(2, 14, 0, 1.0, Line(0.001, 0.001), GREEDY) is None


def test_a_request_beyond_the_bound_is_refused_with_the_time_the_queue_needs() -> None:
    refusal = admit(3, 14, 0, 10.0, Line(0.01, 0.0), GREEDY)

    assert refusal is not None
    assert refusal.reason == "full"
    assert refusal.retry_after_seconds == pytest.approx(0.14)


def test_a_request_larger_than_the_queue_is_let_into_an_empty_one() -> None:
    assert admit(40, 0, 0, 10.0, Line(0.001, 0.0), GREEDY) is None


def test_a_deadline_that_cannot_be_met_is_refused_with_the_missing_time() -> None:
    refusal = admit(1, 16 - 1, 0, 0.010, Line(0.001, 0.005), GREEDY)

    assert refusal is not None
    assert refusal.reason == "deadline"
    assert refusal.retry_after_seconds == pytest.approx(2 * 0.013 - 0.010)


def test_two_instances_halve_the_expected_wait() -> None:
    two = Limits(8, 0.0, 64, num_instances=2)

    assert expected_seconds(8, 24, 0, Line(0.0, 0.1), two) == pytest.approx(0.2)
    assert expected_seconds(8, 24, 0, Line(0.0, 0.1), GREEDY) == pytest.approx(0.4)


def test_the_wait_is_never_expected_shorter_than_the_requests_own_batch() -> None:
    many = Limits(8, 0.0, 64, num_instances=100)

    assert expected_seconds(8, 0, 0, Line(0.01, 0.0), many) == pytest.approx(0.08)
