from __future__ import annotations

import pytest

from service.engine.batching.cost import NUM_FIRST_RUNS, LearnedCost, efficient_rows, short_rows


def test_a_batch_is_efficient_when_its_rows_cost_little_more_than_the_cheapest() -> None:
    assert efficient_rows({1: 1.0, 2: 1.2, 4: 1.6, 8: 2.8}) == 4
    assert efficient_rows({1: 0.5, 2: 1.0, 4: 2.0}) == 1
    assert efficient_rows({}) == 1


def test_a_size_between_two_that_are_known_costs_what_lies_between() -> None:
    cost = LearnedCost({1: 0.1, 8: 0.8, 32: 2.0})

    assert cost.seconds(8) == pytest.approx(0.8)
    assert cost.seconds(20) == pytest.approx(1.4)
    assert cost.of_rows(4).seconds(2) == pytest.approx(0.8)


def test_a_size_beyond_all_that_ran_is_tried_not_guessed() -> None:
    cost = LearnedCost({4: 0.0001})

    assert cost.seconds(4_000_000) == pytest.approx(0.0001)

    cost.observe(4_000_000, 0.03)
    assert cost.seconds(4_000_000) == pytest.approx(0.03)
    assert cost.seconds(4) == pytest.approx(0.0001)


def test_a_graph_of_which_nothing_ran_costs_nothing_that_is_known() -> None:
    assert LearnedCost({}).seconds(1000) == 0.0


def test_the_first_runs_of_a_size_count_by_the_fastest() -> None:
    cost = LearnedCost({})

    for seconds in (9.0, 0.5, 0.2, 0.4):
        cost.observe(100, seconds)

    assert cost.seconds(100) == pytest.approx(0.2)


def test_the_drift_follows_slower_batches_and_stays_bounded() -> None:
    cost = LearnedCost({8: 0.001})

    for _ in range(200):
        cost.observe(8, 0.003)
    assert cost.seconds(8) == pytest.approx(0.003, rel=0.01)

    for _ in range(200):
        cost.observe(8, 1e9)
    assert cost.seconds(8) == pytest.approx(0.1)


def test_a_slow_machine_slows_all_sizes() -> None:
    cost = LearnedCost({8: 0.001, 64: 0.010})

    for _ in range(200):
        cost.observe(8, 0.002)

    assert cost.seconds(64) == pytest.approx(0.020, rel=0.01)


def test_a_size_that_once_took_for_ever_is_tried_again_in_the_end() -> None:
    cost = LearnedCost({4: 0.0001})
    cost.observe(1000, 600.0)

    refusals = 0
    while cost.seconds(1000) > 30.0:
        cost.doubt()
        refusals += 1
    cost.observe(1000, 0.02)

    assert refusals < 20
    assert cost.seconds(1000) == pytest.approx(0.02)


def test_what_was_measured_at_load_is_not_measured_anew() -> None:
    cost = LearnedCost({8: 0.001})

    for _ in range(NUM_FIRST_RUNS):
        cost.observe(8, 0.0005)

    assert cost.seconds(8) > 0.0005


def test_the_largest_short_batch_is_large_enough_where_its_rows_cost_no_more() -> None:
    light = {1: 0.00015, 8: 0.0008, 16: 0.0016, 32: 0.0032}

    assert short_rows(light, 0.002) == 16
    assert short_rows(light, 0.0001) is None
    assert short_rows({1: 0.001, 8: 0.0011, 16: 0.002, 32: 0.0025}, 0.0015) is None  # larger ones cost less a row
    assert short_rows({}, 0.002) is None


def test_a_batch_of_few_rows_is_no_bound_however_short() -> None:
    assert short_rows({1: 0.001, 2: 0.002, 4: 0.004, 8: 0.008}, 0.002) is None
