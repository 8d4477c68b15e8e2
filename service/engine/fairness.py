"""Fair queueing: whose turn it is among callers who share something, whatever it is counted in.

Before callers go priorities, the best first; what waits behind better ones gets a share all the same.

Each caller's use is counted in virtual time, as use divided by weight, and the one who has used least is next. A caller
who comes back begins where the others are: nobody saves up turns while idle, and nobody owes for what nobody else
wanted. This is start-time fair queueing (Goyal et al., 1996) and, for tokens, the virtual token counter (Sheng et al.,
2024). No clock, no I/O.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import insort
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from models.config import PRIORITIES
from service.engine.transport.messages import Caller

MIN_FORGOTTEN = 1024
DEFAULT_PRIORITY = PRIORITIES["normal"]
LAST_RANK = 4
# While what is of a better priority wants all, the others get this share at least.
GUARANTEED_SHARE = 1 / 4
PATIENCE = 1 / GUARANTEED_SHARE - 1
"""How much of others may go before, for each unit of its own."""


class Usage:
    """What callers have used, by their name, in virtual time; `level` is the virtual time of the last turn."""

    def __init__(self) -> None:
        self.level = 0.0
        self._used: dict[str, float] = {}
        self._forget_at = MIN_FORGOTTEN

    def of(self, name: str) -> float:
        """The use of a caller who begins to wait now."""
        return max(self.level, self._used.get(name, 0.0))

    def since(self, turn: float, name: str) -> float:
        """The use of a caller who has waited since it was `turn`."""
        return max(turn, self._used.get(name, 0.0))

    def add(self, caller: Caller, amount: float) -> None:
        """Count what a caller uses."""
        self._used[caller.name] = self.of(caller.name) + amount / caller.weight
        if len(self._used) > self._forget_at:
            self._used = {name: used for name, used in self._used.items() if used > self.level}
            self._forget_at = max(MIN_FORGOTTEN, 2 * len(self._used))


class Waiting(Protocol):
    """What waits."""

    @property
    def caller(self) -> Caller:
        """Whose it is."""

    @property
    def request(self) -> int:
        """The request that it is a part of; 0 where it is all of one."""


class Ranked(Waiting, Protocol):
    """What waits, with a priority."""

    @property
    def priority(self) -> int:
        """Its priority; 1 is the best, 0 none."""


Item = TypeVar("Item", bound=Waiting)
RankedItem = TypeVar("RankedItem", bound=Ranked)


class _Line(Generic[Item]):
    """What waits of one caller: his requests take turns, so that one of many parts does not keep out the next."""

    def __init__(self) -> None:
        self._items: list[tuple[int, int, Item]] = []  # by turn, then by arrival
        self._turn = self._num_appended = 0
        self._next_turns: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return (item for _, _, item in self._items)

    def append(self, item: Item) -> None:
        turn = self._turn
        if item.request:
            turn = max(turn, self._next_turns.get(item.request, 0))
            self._next_turns[item.request] = turn + 1
        self._num_appended += 1
        insort(self._items, (turn, self._num_appended, item), key=itemgetter(0, 1))

    def first(self) -> Item:
        return self._items[0][2]

    def last(self) -> Item:
        return self._items[-1][2]

    def pop(self) -> None:
        self._turn, _, _ = self._items.pop(0)

    def remove(self, item: Item) -> bool:
        place = next((place for place, (_, _, other) in enumerate(self._items) if other == item), None)
        if place is None:
            return False
        del self._items[place]
        return True


class FairQueue(Generic[Item]):
    """What waits, in turns between the requests of each caller; the caller who has used least is next."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._lines: dict[str, _Line[Item]] = {}
        # A heap with what each caller had used when it was pushed, which may be more by now.
        self._turns: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._num_items = 0

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[Item]:
        return itertools.chain.from_iterable(self._lines.values())

    def held(self) -> Iterator[tuple[str, int]]:
        """How much of each caller waits."""
        return ((name, len(line)) for name, line in self._lines.items())

    def append(self, item: Item) -> None:
        """Queue an item behind those of its caller."""
        name = item.caller.name
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line()
            heapq.heappush(self._turns, (self.usage.of(name), next(self._order), name))
        line.append(item)
        self._num_items += 1

    def first(self) -> Item:
        """The item whose turn it is; there must be one."""
        while True:
            turn, _, name = self._turns[0]
            used = self.usage.since(turn, name)
            if used == turn:
                self.usage.level = max(self.usage.level, turn)
                return self._lines[name].first()
            heapq.heapreplace(self._turns, (used, next(self._order), name))

    def pop(self) -> Item:
        """Take the item whose turn it is; there must be one."""
        item = self.first()
        line = self._lines[item.caller.name]
        line.pop()
        self._num_items -= 1
        if not line:
            heapq.heappop(self._turns)
            del self._lines[item.caller.name]
        return item

    def remove(self, item: Item) -> bool:
        """Take an item out of turn; return whether it was waiting."""
        name = item.caller.name
        line = self._lines.get(name)
        if line is None or not line.remove(item):
            return False
        self._num_items -= 1
        if not line:
            del self._lines[name]
            self._turns = [entry for entry in self._turns if entry[2] != name]
            heapq.heapify(self._turns)
        return True

    def last_of(self, name: str) -> Item | None:
        """The item of a caller that came last."""
        line = self._lines.get(name)
        return line.last() if line else None


class RankedQueue(Generic[RankedItem]):
    """What waits by priority and, among what is of one priority, fair between callers.

    It keeps what has been taken before each rank that waits, in the unit that callers' use is counted in.
    """

    def __init__(self) -> None:
        self._by_rank: dict[int, FairQueue[RankedItem]] = {}
        self._passed: dict[int, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting))

    def __bool__(self) -> bool:
        return bool(self._passed)

    def __iter__(self) -> Iterator[RankedItem]:
        return itertools.chain.from_iterable(self._waiting)

    @property
    def _waiting(self) -> list[FairQueue[RankedItem]]:
        """The queues in which something waits, the last to be served first."""
        return [self._by_rank[rank] for rank in sorted(self._passed, reverse=True)]

    def append(self, item: RankedItem) -> None:
        """Queue an item."""
        place = rank(item.priority)
        self._passed.setdefault(place, 0.0)
        self._by_rank.setdefault(place, FairQueue()).append(item)

    def first(self) -> RankedItem:
        """The item whose turn it is; there must be one."""
        return self._by_rank[next_rank(self._passed)].first()

    def took(self, item: RankedItem, amount: float, *, is_gone: bool) -> None:
        """Count what the first item takes, which leaves the queue if it `is_gone`."""
        place = rank(item.priority)
        if len(self._passed) > 1:
            self._passed = count_turn(self._passed, place, amount)
        if is_gone:
            self._by_rank[place].pop()
            self._forget_empty(place)
        self.use(item, amount)

    def use(self, item: RankedItem, amount: float) -> None:
        """Count what an item takes that has waited here."""
        self._by_rank[rank(item.priority)].usage.add(item.caller, amount)

    def remove(self, item: RankedItem) -> None:
        """Take an item out of turn, if it is here."""
        place = rank(item.priority)
        if place in self._by_rank and self._by_rank[place].remove(item):
            self._forget_empty(place)

    def _forget_empty(self, place: int) -> None:
        if not self._by_rank[place]:
            del self._passed[place]

    def held(self) -> dict[str, int]:
        """How much of each caller waits."""
        held: dict[str, int] = {}
        for queue in self._waiting:
            for name, num_items in queue.held():
                held[name] = held.get(name, 0) + num_items
        return held

    def last_behind(self, priority: int) -> RankedItem | None:
        """The item that would be served last, if its rank is worse than that of a priority."""
        if (worst := max(self._passed, default=0)) <= rank(priority):
            return None
        queue = self._by_rank[worst]
        name, _ = max(queue.held(), key=itemgetter(1))
        return queue.last_of(name)

    def num_behind(self, priority: int) -> int:
        """How much waits with a worse rank than that of a priority."""
        return sum(len(self._by_rank[place]) for place in self._passed if place > rank(priority))

    def last_of(self, name: str) -> RankedItem | None:
        """The item of a caller that would be served last."""
        found = (queue.last_of(name) for queue in self._waiting)
        return next((last for last in found if last is not None), None)


def rank(priority: int) -> int:
    """The rank of a priority, lowest first: 1 goes ahead of those without one (0), 3 behind them."""
    return min(priority or DEFAULT_PRIORITY, LAST_RANK)


def next_rank(passed: Mapping[int, float]) -> int:
    """The rank that is next of those that wait; `passed` is what was taken of others meanwhile.

    It is the best, unless a worse one has not had its guaranteed share.
    """
    best = min(passed)
    return max((place for place, amount in passed.items() if amount >= PATIENCE), default=best)


def count_turn(passed: Mapping[int, float], place: int, amount: float) -> dict[int, float]:
    """What has been taken before each rank that waits but the best, once one of them has taken an amount."""
    best = min(passed)
    counted = {other: before if other in (best, place) else before + amount for other, before in passed.items()}
    if place != best:
        counted[place] -= amount * PATIENCE
    return counted


def may_displace(num_held: int, num_more: int, num_callers: int, most: int) -> bool:
    """Whether a full queue that holds `most` makes room for a caller: up to an equal share of each of `num_callers`."""
    return (num_held + num_more) * num_callers <= most
