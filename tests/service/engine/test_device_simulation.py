"""What the turns promise, on a simulated device with recorded costs: the decisions are the real ones, time is not.

Work that has fewer cores than threads takes longer in proportion.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from models.config import PRIORITIES, Priority
from service.engine.device_turns import DeviceTurns, Share, Turn

SECONDS = 30.0


@dataclass
class Simulation:
    """A device, a clock that jumps from event to event, and what is to come."""

    num_cores: int
    now: float = 0.0
    busy_core_seconds: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.turns = DeviceTurns(self.num_cores, lambda: self.now)

    def at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def run(self) -> None:
        while self._events and self.now < SECONDS:
            self.now, _, act = heapq.heappop(self._events)
            act()


@dataclass(eq=False)
class Model:
    """One model: callers who wait for an answer, rest for a while, and ask again; each piece of work answers one."""

    simulation: Simulation
    seconds: float
    num_threads: int = 1
    num_instances: int = 1
    objective_seconds: float | None = None
    weight: float = 1.0
    priority: Priority = "normal"
    latencies: list[float] = field(default_factory=list)
    _asked: deque[tuple[float, float]] = field(default_factory=deque)
    _num_running: int = 0

    def __post_init__(self) -> None:
        self._share = Share(self.simulation.turns, self.objective_seconds, self.weight)
        self._claimant = self.simulation.turns.join(self.num_threads, self._begin, self.weight)

    def called_by(self, num_callers: int, rest_seconds: float = 0.0) -> Model:
        for index in range(num_callers):
            self.simulation.at(1e-3 * index, lambda: self._ask(rest_seconds))
        return self

    def p(self, share: int) -> float:
        return statistics.quantiles(self.latencies, n=100)[share - 1]

    def _ask(self, rest_seconds: float) -> None:
        self._asked.append((self.simulation.now, rest_seconds))
        self._begin()

    def _begin(self) -> None:
        while self._asked and self._num_running < self.num_instances:
            due_at = self._share.due_at(self._asked[0][0], self.seconds)
            turn = self.simulation.turns.take(self._claimant, self.seconds, due_at, PRIORITIES[self.priority])
            if turn is None:
                return
            self._start(turn)
        self.simulation.turns.withdraw(self._claimant)

    def _start(self, turn: Turn) -> None:
        self._num_running += 1
        asked_at, rest_seconds = self._asked.popleft()
        seconds = self.seconds * self.num_threads / turn.num_cores
        self.simulation.busy_core_seconds += seconds * turn.num_cores
        self.simulation.at(self.simulation.now + seconds, lambda: self._end(turn, asked_at, rest_seconds))

    def _end(self, turn: Turn, asked_at: float, rest_seconds: float) -> None:
        now = self.simulation.now
        self._num_running -= 1
        self.latencies.append(now - asked_at)
        self.simulation.at(now + rest_seconds, lambda: self._ask(rest_seconds))
        self.simulation.turns.release(turn)
        self._begin()
        self.simulation.turns.settle()


def classifier(simulation: Simulation) -> Model:
    return Model(simulation, 0.008, num_threads=2).called_by(4, rest_seconds=0.1)


def painter(simulation: Simulation) -> Model:
    return Model(simulation, 0.24, num_threads=2)


def writer(simulation: Simulation) -> Model:
    return Model(simulation, 0.003, num_threads=2).called_by(1)


def test_who_classifies_does_not_wait_for_paintings() -> None:
    alone, both = Simulation(2), Simulation(2)
    usual, beside = classifier(alone), classifier(both)
    painter(both).called_by(2)
    for simulation in (alone, both):
        simulation.run()

    # On half of the cores each takes twice as long, and never as long as a painting.
    assert usual.p(50) < beside.p(50) <= 2 * usual.p(50) + 0.008
    assert beside.p(99) < 0.24 / 3


def test_texts_go_on_beside_paintings_and_classifications() -> None:
    simulation = Simulation(2)
    text = writer(simulation)
    classifier(simulation)
    painter(simulation).called_by(2)
    simulation.run()

    one_of_each = 2 * (0.003 + 0.008)  # on half of the cores: its own step, and whoever had begun before
    assert text.p(99) <= one_of_each + 1e-6


@pytest.mark.parametrize("num_callers", [1, 16])
def test_a_painting_takes_at_most_twice_as_long_beside_a_full_load(num_callers: int) -> None:
    alone, full = Simulation(2), Simulation(2)
    usual, beside = painter(alone).called_by(1), painter(full).called_by(1)
    Model(full, 0.008, num_threads=2).called_by(num_callers)
    for simulation in (alone, full):
        simulation.run()

    assert beside.p(50) <= 2.0 * usual.p(50) + 1e-6


def test_no_core_is_idle_while_work_of_every_length_waits() -> None:
    simulation = Simulation(4)
    for seconds, num_threads in ((0.24, 1), (0.12, 2), (0.01, 1), (0.004, 4)):
        Model(simulation, seconds, num_threads, num_instances=2).called_by(8)
    simulation.run()

    # Cores are idle only while who needs all of them waits for the last.
    assert simulation.busy_core_seconds > 0.75 * 4 * simulation.now


def test_eight_models_with_traffic_of_every_size_meet_their_objectives_on_sixteen_cores() -> None:
    simulation = Simulation(16)
    models = [Model(simulation, 0.01, num_threads=1, num_instances=4, objective_seconds=0.1) for _ in range(8)]
    for rank, model in enumerate(models, 1):  # the rates of Zipf's law
        model.called_by(max(64 // rank, 1), rest_seconds=0.1)
    heavy = Model(simulation, 0.5, num_threads=4).called_by(2)
    simulation.run()

    assert all(model.p(99) < 0.15 for model in models)
    assert heavy.p(99) < 2.5


def test_a_model_with_a_shorter_objective_waits_less() -> None:
    simulation = Simulation(2)
    urgent, patient = (
        Model(simulation, 0.01, num_threads=2, objective_seconds=objective).called_by(8) for objective in (0.02, 1.0)
    )
    simulation.run()

    assert urgent.p(50) < patient.p(50) / 2
    assert patient.latencies


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_of_two_models_that_want_more_than_there_is_each_has_its_weight(weight: float) -> None:
    simulation = Simulation(2)
    light = Model(simulation, 0.01, num_threads=2).called_by(64)
    heavy = Model(simulation, 0.01, num_threads=2, weight=weight).called_by(64)
    simulation.run()

    assert len(heavy.latencies) / len(light.latencies) == pytest.approx(weight, rel=0.1)


def test_a_model_that_is_asked_for_too_much_makes_nobody_else_late() -> None:
    simulation = Simulation(2)
    modest = Model(simulation, 0.01, num_threads=2, objective_seconds=0.1).called_by(2, rest_seconds=0.1)
    Model(simulation, 0.01, num_threads=2, objective_seconds=0.05).called_by(200)
    simulation.run()

    assert modest.p(99) <= 0.1


def test_batch_work_takes_what_the_others_leave_and_is_not_starved() -> None:
    alone, both = Simulation(2), Simulation(2)
    usual = Model(alone, 0.01, num_threads=2, priority="interactive").called_by(4, rest_seconds=0.05)
    beside = Model(both, 0.01, num_threads=2, priority="interactive").called_by(4, rest_seconds=0.05)
    batch = Model(both, 0.02, num_threads=2, priority="batch").called_by(8)
    for simulation in (alone, both):
        simulation.run()

    assert beside.p(99) <= usual.p(99) + 0.021  # whoever had begun before
    assert both.busy_core_seconds > 0.99 * 2 * both.now

    full = Simulation(2)
    Model(full, 0.01, num_threads=2, priority="interactive").called_by(16)
    starved = Model(full, 0.02, num_threads=2, priority="batch").called_by(1)
    full.run()

    assert 20 < len(starved.latencies) < len(batch.latencies)
