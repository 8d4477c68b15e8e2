from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batching.batches import Request
from service.engine.fairness import GUARANTEED_SHARE, RankedQueue
from service.engine.transport.messages import Caller


def request(caller: str = "", priority: int = 0, num_rows: int = 1) -> Request:
    made = Request(num_rows, b"", ("y",), 0.0, 60.0, lambda *_: None, priority=priority)
    made.caller = Caller(caller)
    return made


def take(queue: RankedQueue[Request], num_rows: int = 1) -> Request:
    first = queue.first()
    first.placed_rows += num_rows
    queue.took(first, num_rows, is_gone=first.placed_rows == first.num_rows)
    return first


def test_the_best_priority_is_first_and_the_others_get_their_share() -> None:
    queue = RankedQueue[Request]()
    for _ in range(100):
        queue.append(request(priority=1))
        queue.append(request(priority=2))
        queue.append(request(priority=3))

    taken = [take(queue).priority for _ in range(80)]

    assert taken[:3] == [1] * 3
    assert min(taken.count(2), taken.count(3)) >= 80 * GUARANTEED_SHARE - 1


def test_callers_of_one_priority_take_turns() -> None:
    queue = RankedQueue[Request]()
    for name in ["a"] * 6 + ["b"] * 3:
        queue.append(request(name))

    assert [take(queue).caller.name for _ in range(9)] == ["a", "b", "a", "b", "a", "b", "a", "a", "a"]


def test_a_large_request_gives_way_to_others_after_each_part() -> None:
    queue = RankedQueue[Request]()
    queue.append(request("a", num_rows=100))
    for _ in range(2):
        queue.append(request("b"))

    assert take(queue, 8).caller.name == "a"
    assert [take(queue).caller.name for _ in range(2)] == ["b", "b"]
    assert take(queue, 92).caller.name == "a"
    assert not queue


def test_the_last_of_a_caller_is_the_one_of_the_worst_priority() -> None:
    queue = RankedQueue[Request]()
    made = [request("a", 3), request("a", 1), request("b", 3)]
    for each in made:
        queue.append(each)

    assert queue.last_of("a") is made[0]
    assert queue.last_of("c") is None


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
def test_no_flood_of_a_better_priority_starves_a_worse_one(worse: int, flood_rows: int, own_rows: int) -> None:
    """Whatever the sizes, a worse priority that waits all the time gets a quarter of the rows, to within one turn."""
    queue = RankedQueue[Request]()
    rows = {1: 0, worse + 1: 0}
    for _ in range(1500 // min(flood_rows, own_rows)):
        queue.append(request("flood", 1, flood_rows))
        queue.append(request("own", worse + 1, own_rows))
    while sum(rows.values()) < 1000:
        first = queue.first()
        take(queue, first.num_rows)
        rows[first.priority] += first.num_rows

    assert rows[worse + 1] >= sum(rows.values()) * GUARANTEED_SHARE - max(flood_rows, 4)
    assert rows[worse + 1] <= sum(rows.values()) * GUARANTEED_SHARE + own_rows + 1
