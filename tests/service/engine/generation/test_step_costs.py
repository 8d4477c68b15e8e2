"""What steps cost, learned from those that ran, and the number of threads that pays, by a clock that tests set."""

from __future__ import annotations

import random

import pytest

from service.engine.generation.step_costs import DECODE, PREFILL, PROBE_SECONDS, StepCost, StepCosts


def cost(seconds: float = 0.001, token_seconds: float = 0.0001) -> StepCost:
    return StepCost({1: seconds, 8: 4 * seconds}, token_seconds, length=100, cached_token_seconds=1e-7)


def test_a_steps_time_lies_between_the_measured_ones() -> None:
    measured = StepCost({8: 0.009, 1: 0.002}, 0.0002)

    assert measured.decode(1) == 0.002
    assert measured.decode(4) == pytest.approx(0.005)
    assert measured.decode(100) == 0.009
    assert list(measured.decode_seconds) == [1, 8]


def test_longer_texts_take_longer_steps() -> None:
    assert cost().decode(8, 100) == pytest.approx(0.004)
    assert cost().decode(8, 1100) == pytest.approx(0.004 + 8 * 1000e-7)


def test_what_was_measured_at_load_is_corrected_by_what_runs() -> None:
    learned = cost()
    for _ in range(20):
        learned.observe_decode(8, 100, 0.008)
        learned.observe_prefill(64, 64 * 0.0003)

    assert learned.decode(8, 100) == pytest.approx(0.008)
    assert learned.decode(1, 100) == pytest.approx(0.002)  # which has not run: the machine is as slow for it
    assert learned.prefill_token_seconds == pytest.approx(0.0003)


def test_single_slow_runs_count_for_nothing() -> None:
    learned, generator = cost(), random.Random(1)
    for _ in range(200):
        learned.observe_decode(8, 100, 0.1 if generator.random() < 0.2 else 0.004)

    assert learned.decode(8, 100) == pytest.approx(0.004)


def test_each_size_is_known_by_its_own_runs_until_they_are_long_ago() -> None:
    learned = cost()
    for _ in range(10):
        learned.observe_decode(8, 100, 0.04)
        learned.observe_decode(1, 100, 0.001)
    assert learned.decode(8, 100) == pytest.approx(0.04)

    for _ in range(80):
        learned.observe_decode(1, 100, 0.001)
    assert learned.decode(8, 100) == pytest.approx(0.004)  # it was a slow moment: it may be tried again


def test_a_clock_that_stands_still_teaches_nothing() -> None:
    learned = cost()
    learned.observe_decode(8, 100, 0.0)
    learned.observe_prefill(64, 0.0)

    assert learned.decode(8, 100) == pytest.approx(0.004)
    assert learned.prefill(64) == pytest.approx(0.0064)


class Machine:
    """Steps of 8 texts by the number of their threads, on a clock."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.now, self.seconds = 0.0, seconds
        self.costs = StepCosts({1: cost(), 2: cost()}, lambda: self.now)
        self.num_runs = {1: 0, 2: 0}

    def run(self, seconds: float, max_threads: int = 2) -> int:
        """Run for a time; the number of threads that is chosen at its end."""
        end = self.now + seconds
        while self.now < end:
            num_threads = self.costs.choose(DECODE, 8, max_threads)
            self.num_runs[num_threads] += 1
            spent = self.seconds[num_threads] * random.Random(self.now).uniform(0.97, 1.03)
            self.now += spent
            self.costs.observe(DECODE, num_threads, 8, 100, spent)
        return self.costs.num_threads(DECODE)


def test_threads_are_chosen_anew_when_the_machine_has_changed() -> None:
    machine = Machine({1: 0.004, 2: 0.002})
    assert machine.costs.num_threads(DECODE) == 1
    assert machine.run(10) == 2

    machine.seconds = {1: 0.004, 2: 0.02}  # others compute, and threads wait for each other
    assert machine.run(10) == 1
    machine.seconds = {1: 0.004, 2: 0.002}
    assert machine.run(60) == 2
    assert machine.costs.num_threads(PREFILL) == 1  # nothing was seen of those


def test_a_small_gain_changes_nothing() -> None:
    machine = Machine({1: 0.004, 2: 0.0038})

    assert machine.run(60) == 1


def test_trials_take_little_time() -> None:
    machine = Machine({1: 0.004, 2: 0.4})
    machine.run(200)

    assert machine.num_runs[2] * 0.4 < 0.02 * 200


def test_no_more_threads_are_taken_than_cores_are_given() -> None:
    machine = Machine({1: 0.004, 2: 0.001})

    assert machine.run(5, max_threads=1) == 1
    assert machine.num_runs[2] == 0


def test_a_single_number_of_threads_is_never_tried_against_another() -> None:
    costs = StepCosts({2: cost()}, lambda: 10 * PROBE_SECONDS)

    assert costs.choose(DECODE, 1, 1) == costs.choose(PREFILL, 64, 4) == 2


def test_no_more_texts_are_continued_at_once_than_the_objective_allows_now() -> None:
    costs = StepCosts({1: cost()})
    assert costs.most_rows(8, 100, None) == 8
    assert costs.most_rows(8, 100, 0.0041) == 8
    assert costs.most_rows(8, 100, 0.0001) == 1

    for _ in range(20):
        costs.observe(DECODE, 1, 4, 100, 2 * cost().decode(4))
    assert costs.most_rows(8, 100, 0.0041) == 3


def test_a_model_that_began_with_one_thread_finds_that_more_are_faster() -> None:
    now, used = [0.0], set()
    costs = StepCosts({1: cost(0.004), 4: cost(0.004)}, lambda: now[0])
    assert costs.wanted_threads(DECODE) == 1

    for _ in range(4000):
        num_threads = costs.choose(DECODE, 1, costs.wanted_threads(DECODE))  # no more cores than it asked for
        used.add(num_threads)
        seconds = 0.004 / num_threads
        now[0] += seconds
        costs.observe(DECODE, num_threads, 1, 100, seconds)

    assert used == {1, 4}
    assert costs.num_threads(DECODE) == 4
    assert costs.num_threads(PREFILL) == 1
    assert costs.choose(DECODE, 1, 1) == 1  # what others need is left to them
