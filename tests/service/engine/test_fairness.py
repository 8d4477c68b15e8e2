from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from service.engine.fairness import MIN_FORGOTTEN, FairQueue, Usage, may_displace
from service.engine.transport.messages import Caller


@dataclass(frozen=True)
class Item:
    caller: Caller
    number: int = 0
    request: int = 0


def served(queue: FairQueue[Item], count: int) -> list[str]:
    names = []
    for _ in range(count):
        item = queue.pop()
        queue.usage.add(item.caller, 1)
        names.append(item.caller.name)
    return names


def fill(queue: FairQueue[Item], count: int, *callers: Caller) -> None:
    for caller in callers:
        for number in range(count):
            queue.append(Item(caller, number))


def test_who_comes_second_does_not_wait_for_all_of_the_first() -> None:
    queue: FairQueue[Item] = FairQueue()
    fill(queue, 5, Caller("a"), Caller("b"))

    assert served(queue, 10) == ["a", "b"] * 5


def test_a_request_of_many_parts_takes_turns_with_the_next_of_the_same_caller() -> None:
    queue: FairQueue[Item] = FairQueue()
    caller = Caller("a")
    for number in range(6):
        queue.append(Item(caller, number, request=1))
    assert [queue.pop().number for _ in range(2)] == [0, 1]
    for number in range(10, 12):
        queue.append(Item(caller, number, request=2))
    queue.append(Item(caller, 20))

    assert [queue.pop().number for _ in range(len(queue))] == [10, 20, 2, 11, 3, 4, 5]


def test_a_weight_is_a_share() -> None:
    queue: FairQueue[Item] = FairQueue()
    fill(queue, 90, Caller("light", 1.0), Caller("heavy", 3.0))

    names = served(queue, 80)

    assert names.count("heavy") == 60


def test_nobody_saves_turns_while_away() -> None:
    queue: FairQueue[Item] = FairQueue()
    fill(queue, 100, Caller("a"))
    served(queue, 50)
    fill(queue, 50, Caller("b"))

    assert served(queue, 20).count("b") == 10


def test_nobody_owes_for_what_nobody_else_wanted() -> None:
    queue: FairQueue[Item] = FairQueue()
    fill(queue, 1000, Caller("a"))
    served(queue, 1000)
    fill(queue, 10, Caller("b"), Caller("a"))

    assert served(queue, 10).count("a") >= 4


def test_what_leaves_out_of_turn_leaves_the_others_in_order() -> None:
    queue: FairQueue[Item] = FairQueue()
    fill(queue, 2, Caller("a"), Caller("b"))

    assert queue.remove(Item(Caller("a"), 0))
    assert queue.remove(Item(Caller("a"), 1))
    assert not queue.remove(Item(Caller("a"), 1))
    queue.append(Item(Caller("a"), 2))

    assert len(queue) == 3
    assert served(queue, 3) == ["b", "a", "b"]
    assert not queue


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=200))
def test_whatever_happens_each_caller_is_served_in_order_and_nothing_is_lost(events: list[tuple[str, int]]) -> None:
    queue: FairQueue[Item] = FairQueue()
    waiting: list[Item] = []
    for number, (name, kind) in enumerate(events):
        if kind == 0 and waiting:
            item = queue.pop()
            queue.usage.add(item.caller, 1 + number % 7)
            assert item == next(each for each in waiting if each.caller == item.caller)
            waiting.remove(item)
        elif kind == 1 and waiting:
            assert queue.remove(waiting.pop(number % len(waiting)))
        else:
            waiting.append(Item(Caller(name), number))
            queue.append(waiting[-1])
        assert len(queue) == len(waiting)
        assert dict(queue.held()) == Counter(each.caller.name for each in waiting)
        assert set(queue) == set(waiting)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.integers(1, 200))
def test_callers_who_wait_all_the_time_differ_by_one_turn_at_most(sizes: list[int], num_turns: int) -> None:
    queue: FairQueue[Item] = FairQueue()
    callers = [Caller(str(number)) for number in range(len(sizes))]
    fill(queue, 200, *callers)
    used = dict.fromkeys(callers, 0)
    for _ in range(num_turns):
        item = queue.pop()
        size = sizes[int(item.caller.name)]
        queue.usage.add(item.caller, size)
        used[item.caller] += size

    assert max(used.values()) - min(used.values()) <= max(sizes)


def test_callers_who_are_even_are_forgotten() -> None:
    usage = Usage()
    for number in range(10 * MIN_FORGOTTEN):
        usage.level = number
        usage.add(Caller(str(number)), 1)

    assert len(usage._used) <= MIN_FORGOTTEN + 1


def test_a_full_queue_makes_room_up_to_an_equal_share() -> None:
    assert may_displace(0, 1, 2, 64)
    assert may_displace(31, 1, 2, 64)
    assert not may_displace(32, 1, 2, 64)
    assert not may_displace(63, 1, 1, 63)
