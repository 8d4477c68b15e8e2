"""A semaphore that callers share: first in, first out for each of them, and in turn between them."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple


class _Waiter(NamedTuple):
    amount: int
    future: asyncio.Future[None]


class Turns:
    """A capacity that is used by amounts; one caller has `max_per_caller` of it at most.

    An amount above a bound is allowed where nothing else counts towards it.
    """

    def __init__(self, capacity: int, max_per_caller: int | None = None) -> None:
        self._capacity = capacity
        self._max_per_caller = capacity if max_per_caller is None else max_per_caller
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # the first caller is next
        self._used_by: Counter[str] = Counter()
        self.num_used = 0

    @asynccontextmanager
    async def take(self, caller: str, amount: int = 1) -> AsyncIterator[None]:
        """Wait for this caller's turn, and have the amount for the block."""
        await self._acquire(caller, amount)
        try:
            yield
        finally:
            self._release(caller, amount)

    async def _acquire(self, caller: str, amount: int) -> None:
        waiter = _Waiter(amount, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(caller, deque()).append(waiter)
        self._admit()
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                self._release(caller, amount)
            else:
                self._remove(caller, waiter)
                self._admit()  # it may have been before smaller ones
            raise

    def _release(self, caller: str, amount: int) -> None:
        self.num_used -= amount
        self._used_by[caller] -= amount
        if not self._used_by[caller]:
            del self._used_by[caller]
        self._admit()

    def _remove(self, caller: str, waiter: _Waiter) -> None:
        waiters = self._waiting.get(caller)
        if waiters and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[caller]

    def _admit(self) -> None:
        """Let in whose turn it is, as long as there is room; who has enough is passed over."""
        while (caller := self._next_caller()) is not None:
            waiters = self._waiting[caller]
            amount, future = waiters[0]
            if future.cancelled():
                self._remove(caller, waiters[0])
                continue
            if not _fits(self.num_used, amount, self._capacity):
                return  # smaller ones do not overtake: it would wait for ever
            waiters.popleft()
            self._waiting.move_to_end(caller)
            if not waiters:
                del self._waiting[caller]
            self.num_used += amount
            self._used_by[caller] += amount
            future.set_result(None)

    def _next_caller(self) -> str | None:
        for caller, waiters in self._waiting.items():
            if _fits(self._used_by[caller], waiters[0].amount, self._max_per_caller):
                return caller
        return None


def _fits(used: int, amount: int, capacity: int) -> bool:
    return used == 0 or used + amount <= capacity
