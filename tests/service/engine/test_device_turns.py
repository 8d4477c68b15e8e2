"""Turns on the device's cores, on a clock that stands until it is moved."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from models.config import PRIORITIES, Priority
from service.engine.device_turns import (
    AGEING_SECONDS,
    LONG_SECONDS,
    MIN_OBJECTIVE_SECONDS,
    OBJECTIVE_FACTOR,
    PRESENCE_SECONDS,
    Claimant,
    DeviceTurns,
    Share,
    Turn,
)

SHORT, LONG = LONG_SECONDS / 4, LONG_SECONDS * 10


@dataclass
class Device:
    """A device of some cores, and who was called, in order."""

    num_cores: int = 2
    now: float = 0.0
    called: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turns = DeviceTurns(self.num_cores, lambda: self.now)

    def join(self, name: str, num_threads: int = 1, weight: float = 1.0) -> Claimant:
        return self.turns.join(num_threads, lambda: self.called.append(name), weight)

    def take(
        self, claimant: Claimant, seconds: float = SHORT, due_at: float = 1.0, priority: Priority = "normal"
    ) -> Turn | None:
        return self.turns.take(claimant, seconds, due_at, PRIORITIES[priority])

    def must_take(
        self, claimant: Claimant, seconds: float = SHORT, due_at: float = 1.0, priority: Priority = "normal"
    ) -> Turn:
        turn = self.take(claimant, seconds, due_at, priority)
        assert turn is not None
        return turn

    def give_back(self, turn: Turn) -> None:
        self.turns.release(turn)
        self.turns.settle()


@pytest.fixture
def device() -> Device:
    return Device()


def test_threads_are_never_more_than_the_cores(device: Device) -> None:
    first, second, third = device.join("first"), device.join("second"), device.join("third")
    turn = device.must_take(first)
    device.must_take(second)

    assert device.take(third) is None
    device.give_back(turn)

    assert device.called == ["third"]
    assert device.take(third) is not None


def test_whose_answer_is_due_first_is_first(device: Device) -> None:
    busy = device.join("busy", 2)
    turn = device.must_take(busy)
    late, early = device.join("late", 2), device.join("early", 2)
    assert device.take(late, due_at=3.0) is None
    assert device.take(early, due_at=2.0) is None

    device.give_back(turn)

    assert device.called == ["early"]


def test_who_gives_back_a_turn_does_not_go_before_those_who_are_due_earlier(device: Device) -> None:
    greedy, patient = device.join("greedy", 2), device.join("patient", 2)
    turn = device.must_take(greedy)
    assert device.take(patient, due_at=1.0) is None

    device.turns.release(turn)

    assert device.take(greedy, due_at=2.0) is None
    assert device.called == ["patient"]


def test_a_better_priority_goes_before_what_is_due_earlier(device: Device) -> None:
    turn = device.must_take(device.join("busy", 2))
    batch, interactive = device.join("batch", 2), device.join("interactive", 2)
    assert device.take(batch, due_at=1.0, priority="batch") is None
    assert device.take(interactive, due_at=9.0, priority="interactive") is None

    device.give_back(turn)

    assert device.called == ["interactive"]


@pytest.mark.parametrize("waited_seconds", [0.9 * AGEING_SECONDS, 1.1 * AGEING_SECONDS])
def test_who_has_waited_long_counts_as_of_the_next_better_priority(device: Device, waited_seconds: float) -> None:
    turn = device.must_take(device.join("busy", 2))
    batch, normal = device.join("batch", 2), device.join("normal", 2)
    assert device.take(batch, due_at=1.0, priority="batch") is None
    device.now += waited_seconds
    assert device.take(normal, due_at=2.0) is None

    device.give_back(turn)

    assert device.called == (["batch"] if waited_seconds > AGEING_SECONDS else ["normal"])


def test_short_work_leaves_no_core_to_long_work_of_a_worse_priority(device: Device) -> None:
    turn = device.must_take(device.join("busy", 2))
    first, second, painter = device.join("first"), device.join("second"), device.join("painter")
    assert device.take(painter, LONG, priority="batch") is None
    assert device.take(first) is None
    assert device.take(second) is None

    device.give_back(turn)

    assert device.called == ["first", "second"]


def test_who_asks_again_while_waiting_keeps_one_place(device: Device) -> None:
    busy, waiting = device.join("busy", 2), device.join("waiting", 2)
    turn = device.must_take(busy)
    for _ in range(3):
        assert device.take(waiting) is None

    device.give_back(turn)

    assert device.called == ["waiting"]
    device.give_back(device.must_take(waiting))
    assert device.take(busy) is not None


def test_alone_on_the_device_long_work_takes_every_core(device: Device) -> None:
    painter = device.join("painter")

    assert device.take(painter, LONG) is not None
    assert device.take(painter, LONG) is not None


def test_beside_short_work_long_work_leaves_a_core(device: Device) -> None:
    painter, classifier = device.join("painter"), device.join("classifier")
    device.give_back(device.must_take(classifier))
    device.must_take(painter, LONG)

    assert device.take(painter, LONG, due_at=-1.0) is None
    assert device.take(classifier) is not None


def test_wide_long_work_is_counted_on_the_cores_it_may_take(device: Device) -> None:
    painter, classifier = device.join("painter", 2), device.join("classifier")
    device.give_back(device.must_take(classifier))

    assert device.must_take(painter, LONG).num_cores == 1


def test_long_work_has_all_cores_again_once_short_work_has_gone(device: Device) -> None:
    painter, classifier = device.join("painter"), device.join("classifier")
    device.give_back(device.must_take(classifier))
    device.must_take(painter, LONG)

    device.now += PRESENCE_SECONDS

    assert device.take(painter, LONG) is not None


def test_short_work_of_the_same_model_keeps_no_core_free(device: Device) -> None:
    model = device.join("model")
    device.give_back(device.must_take(model, SHORT))
    device.must_take(model, LONG)

    assert device.take(model, LONG) is not None


def test_on_a_single_core_neither_long_nor_short_work_waits_for_the_others_end() -> None:
    single = Device(num_cores=1)
    painter, classifier = single.join("painter"), single.join("classifier")
    single.must_take(painter, LONG)

    assert single.take(classifier) is not None
    assert single.take(painter, LONG) is None


def test_long_work_that_waits_gets_a_core_beside_a_full_load_of_short_work(device: Device) -> None:
    painter, classifier = device.join("painter"), device.join("classifier", 2)
    turn = device.must_take(classifier)
    assert device.take(painter, LONG, due_at=100.0) is None

    device.turns.release(turn)

    assert device.must_take(classifier).num_cores == 1
    assert device.called == ["painter"]


def test_who_needs_every_core_gets_them_once_he_is_overdue(device: Device) -> None:
    wide, narrow = device.join("wide", 2), device.join("narrow")
    first, second = device.must_take(narrow), device.must_take(narrow)
    assert device.take(wide, due_at=1.0) is None
    device.turns.release(first)
    first = device.must_take(narrow, due_at=5.0)  # nobody waits for a second core that is not free

    device.now = 1.0
    device.turns.release(first)
    assert device.take(narrow, due_at=5.0) is None
    device.give_back(second)

    assert device.called == ["wide"]


def test_a_turn_that_nobody_uses_is_given_on(device: Device) -> None:
    busy, gone, next_ = device.join("busy", 2), device.join("gone", 2), device.join("next", 2)
    turn = device.must_take(busy)
    assert device.take(gone, due_at=1.0) is None
    assert device.take(next_, due_at=2.0) is None
    device.give_back(turn)

    device.turns.withdraw(gone)

    assert device.called == ["gone", "next"]


def test_who_leaves_waits_no_more(device: Device) -> None:
    busy, leaving = device.join("busy", 2), device.join("leaving")
    turn = device.must_take(busy)
    assert device.take(leaving) is None

    device.turns.leave(leaving)
    device.give_back(turn)

    assert device.called == []
    assert not device.turns.is_shared(busy)


def test_a_device_is_shared_while_others_compute_on_it(device: Device) -> None:
    one, other = device.join("one"), device.join("other")
    assert not device.turns.is_shared(one)

    device.must_take(other)
    assert device.turns.is_shared(one)
    device.now += PRESENCE_SECONDS

    assert not device.turns.is_shared(one)


def test_an_answer_is_due_by_the_objective_or_by_what_it_takes() -> None:
    turns = DeviceTurns(1, lambda: 0.0)

    assert Share(turns, 0.05).due_at(1.0, 0.1) == 1.05
    assert Share(turns).due_at(1.0, 0.1) == 1.0 + OBJECTIVE_FACTOR * 0.1
    assert Share(turns).due_at(1.0, 0.0) == 1.0 + MIN_OBJECTIVE_SECONDS


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_no_core_is_lost_and_nobody_waits_for_ever(seed: int) -> None:
    """Claimants of any width, in any order; each computes one piece at a time."""
    chance = random.Random(seed)
    device = Device(num_cores=chance.randint(2, 4))
    claimants = {str(i): device.join(str(i), chance.randint(1, 4)) for i in range(5)}
    running: dict[str, Turn] = {}
    served: dict[str, int] = dict.fromkeys(claimants, 0)

    def ask(name: str) -> None:
        turn = device.take(claimants[name], chance.choice((SHORT, LONG)), device.now + chance.random())
        if turn is not None:
            running[name] = turn
            served[name] += 1

    def step(act: Callable[[], None]) -> None:
        act()
        while device.called:
            ask(device.called.pop(0))
        assert sum(turn.num_cores for turn in running.values()) <= device.num_cores

    for _ in range(2000):
        device.now += chance.random() * 0.1
        name = chance.choice(list(claimants))
        if name in running:
            turn = running.pop(name)
            step(lambda turn=turn: device.give_back(turn))  # type: ignore[misc]
        else:
            step(lambda name=name: ask(name))  # type: ignore[misc]

    assert min(served.values()) > 50
