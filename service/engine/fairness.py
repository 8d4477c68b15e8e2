"""Fair queueing: whose turn it is among callers who share something, whatever it is counted in.

Each caller's use is counted in virtual time, as use divided by weight, and the one who has used least is next. A caller
who comes back begins where the others are: nobody saves up turns while idle, and nobody owes for what nobody else
wanted. This is start-time fair queueing (Goyal et al., 1996) and, for tokens, the virtual token counter (Sheng et al.,
2024). No clock, no I/O.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from service.engine.transport.messages import Caller

MIN_FORGOTTEN = 1024


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


Item = TypeVar("Item", bound=Waiting)


class FairQueue(Generic[Item]):
    """What waits, first come first served for each caller; the caller who has used least is next."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._lines: dict[str, deque[Item]] = {}
        # A heap with what each caller had used when it was pushed, which may be more by now.
        self._turns: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._num_items = 0

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[Item]:
        return itertools.chain.from_iterable(self._lines.values())

    @property
    def num_callers(self) -> int:
        """The callers who wait."""
        return len(self._lines)

    def num_of(self, name: str) -> int:
        """How much of a caller waits."""
        return len(self._lines.get(name, ()))

    def append(self, item: Item) -> None:
        """Queue an item behind those of its caller."""
        name = item.caller.name
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = deque()
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
                return self._lines[name][0]
            heapq.heapreplace(self._turns, (used, next(self._order), name))

    def pop(self) -> Item:
        """Take the item whose turn it is; there must be one."""
        item = self.first()
        line = self._lines[item.caller.name]
        line.popleft()
        self._num_items -= 1
        if not line:
            heapq.heappop(self._turns)
            del self._lines[item.caller.name]
        return item

    def remove(self, item: Item) -> bool:
        """Take an item out of turn; return whether it was waiting."""
        name = item.caller.name
        line = self._lines.get(name, deque())
        if item not in line:
            return False
        line.remove(item)
        self._num_items -= 1
        if not line:
            del self._lines[name]
            self._turns = [entry for entry in self._turns if entry[2] != name]
            heapq.heapify(self._turns)
        return True

    def longest(self) -> str:
        """The caller of whom most waits."""
        return max(self._lines, key=lambda name: len(self._lines[name]))

    def last_of(self, name: str) -> Item | None:
        """The item of a caller that came last."""
        line = self._lines.get(name)
        return line[-1] if line else None


def may_displace(num_held: int, num_more: int, num_callers: int, most: int) -> bool:
    """Whether a full queue that holds `most` makes room for a caller: up to an equal share of each of `num_callers`."""
    return (num_held + num_more) * num_callers <= most
