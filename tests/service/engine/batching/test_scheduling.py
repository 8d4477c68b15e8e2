from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batching.scheduling import (
    Cost,
    Dispatch,
    Limits,
    Wait,
    admit,
    decide,
    drifted,
    efficient_rows,
    expected_seconds,
    fit_cost,
    slack_seconds,
)

GREEDY = Limits(max_batch_size=8, max_queue_delay_seconds=0.0, max_queue_rows=16)
PATIENT = Limits(max_batch_size=8, max_queue_delay_seconds=0.010, max_queue_rows=16)
FOREVER = float("inf")


def test_an_idle_instance_takes_a_single_row_at_once() -> None:
    assert decide(1, 0.0, FOREVER, 1, GREEDY) == Dispatch()


def test_nothing_leaves_while_every_instance_computes() -> None:
    assert decide(8, 5.0, FOREVER, 0, GREEDY) == Wait(None)


def test_an_empty_queue_waits_for_an_event() -> None:
    assert decide(0, 0.0, FOREVER, 1, GREEDY) == Wait(None)


def test_a_full_batch_leaves_without_waiting() -> None:
    assert decide(8, 0.0, FOREVER, 1, PATIENT) == Dispatch()


def test_the_window_is_measured_from_the_oldest_request() -> None:
    decision = decide(3, 0.004, FOREVER, 1, PATIENT)

    assert isinstance(decision, Wait)
    assert decision.seconds == pytest.approx(0.006)


def test_a_part_batch_leaves_when_the_window_ends() -> None:
    assert decide(3, 0.010, FOREVER, 1, PATIENT) == Dispatch()


def test_a_tight_deadline_ends_the_window_early() -> None:
    assert decide(3, 0.0, 0.002, 1, PATIENT) == Wait(0.002)
    assert decide(3, 0.0, -0.001, 1, PATIENT) == Dispatch()


def test_a_second_instance_joins_in_only_for_an_efficient_batch() -> None:
    two = Limits(8, 0.0, 16, num_instances=2, efficient_rows=4)

    assert decide(3, 0.0, FOREVER, 2, two) == Dispatch()
    assert decide(3, 0.0, FOREVER, 1, two) == Wait(None)
    assert decide(4, 0.0, FOREVER, 1, two) == Dispatch()


def test_a_second_instance_joins_in_for_a_deadline() -> None:
    two = Limits(8, 0.0, 16, num_instances=2, efficient_rows=4)

    assert decide(3, 5.0, 0.002, 1, two) == Wait(0.002)
    assert decide(3, 5.0, 0.0, 1, two) == Dispatch()


@pytest.mark.parametrize(
    ("timeout_seconds", "batch_seconds", "slack"),
    [(30.0, 0.01, 29.94), (0.1, 0.01, 0.065), (0.004, 0.0, 0.003), (0.1, 0.2, -0.125)],
)
def test_a_deadline_leaves_time_for_the_batch_and_a_reserve(
    timeout_seconds: float, batch_seconds: float, slack: float
) -> None:
    assert slack_seconds(7.0, 7.0 + timeout_seconds, 7.0, batch_seconds) == pytest.approx(slack)
    assert slack_seconds(7.0, 7.0 + timeout_seconds, 8.0, batch_seconds) == pytest.approx(slack - 1)


def test_a_batch_is_efficient_when_its_rows_cost_little_more_than_the_cheapest() -> None:
    assert efficient_rows({1: 1.0, 2: 1.2, 4: 1.6, 8: 2.8}) == 4
    assert efficient_rows({1: 0.5, 2: 1.0, 4: 2.0}) == 1


def test_a_request_is_admitted_while_the_queue_has_room() -> None:
    assert admit(2, 14, 0, 1.0, Cost(0.001, 0.001), GREEDY) is None


def test_a_request_beyond_the_bound_is_refused_with_the_time_the_queue_needs() -> None:
    refusal = admit(3, 14, 0, 10.0, Cost(0.01, 0.0), GREEDY)

    assert refusal is not None
    assert refusal.is_queue_full
    assert refusal.retry_after_seconds == pytest.approx(0.14)


def test_a_request_larger_than_the_queue_is_let_into_an_empty_one() -> None:
    assert admit(40, 0, 0, 10.0, Cost(0.001, 0.0), GREEDY) is None


def test_a_deadline_that_cannot_be_met_is_refused_with_the_missing_time() -> None:
    refusal = admit(1, 16 - 1, 0, 0.010, Cost(0.001, 0.005), GREEDY)

    assert refusal is not None
    assert not refusal.is_queue_full
    assert refusal.retry_after_seconds == pytest.approx(2 * 0.013 - 0.010)


def test_two_instances_halve_the_expected_wait() -> None:
    two = Limits(8, 0.0, 64, num_instances=2)

    assert expected_seconds(8, 24, 0, Cost(0.0, 0.1), two) == pytest.approx(0.2)
    assert expected_seconds(8, 24, 0, Cost(0.0, 0.1), GREEDY) == pytest.approx(0.4)


def test_the_wait_is_never_expected_shorter_than_the_requests_own_batch() -> None:
    many = Limits(8, 0.0, 64, num_instances=100)

    assert expected_seconds(8, 0, 0, Cost(0.01, 0.0), many) == pytest.approx(0.08)


@given(st.floats(1e-6, 1.0), st.floats(0.0, 1.0))
def test_the_cost_line_is_recovered_from_exact_measurements(per_row: float, per_batch: float) -> None:
    line = Cost(per_row, per_batch)

    fitted = fit_cost({n: line.seconds(n) for n in (1, 2, 4, 8)})

    assert fitted.seconds(5) == pytest.approx(line.seconds(5), rel=1e-6)


def test_the_cost_line_never_slopes_down() -> None:
    assert fit_cost({1: 0.010, 8: 0.002}).seconds_per_row == 0.0


def test_one_bucket_is_taken_as_all_cost_by_the_row() -> None:
    assert fit_cost({4: 0.008}) == Cost(0.002, 0.0)


def test_the_drift_follows_slower_batches_and_stays_bounded() -> None:
    factor = 1.0
    for _ in range(200):
        factor = drifted(factor, 0.001, 0.003)

    assert factor == pytest.approx(3.0, rel=0.01)
    assert drifted(1.0, 1e-9, 1e9) == 100.0
    assert drifted(1.5, 0.0, 1.0) == 1.5
