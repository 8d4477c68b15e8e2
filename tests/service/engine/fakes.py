"""A clock that tests set, and an instance that computes on command: what a batcher is tested with."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from service.engine.batching.batches import BatchBuffer, BatchOutcome

# What may happen to a batcher, for the tests of any order of events.
ACTION = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("finish"), st.integers(0, 1)),
    st.tuples(st.just("advance"), st.integers(0, 40)),
)


class InjectedError(Exception):
    """A defect that a test put there."""


class Faults:
    """Makes some of all the calls of the methods it is given fail: those whose numbers are `at`."""

    def __init__(self, at: Iterable[int]) -> None:
        self.at = set(at)
        self.num_calls = self.num_raised = 0

    def around(self, part: Any, *names: str) -> Any:
        """The part, of which these methods may fail, or every one."""
        faults = self

        class Around:
            def __getattr__(self, name: str) -> Any:
                value = getattr(part, name)
                return faults.wrap(value) if callable(value) and (not names or name in names) else value

            def __setattr__(self, name: str, value: Any) -> None:
                setattr(part, name, value)

        return Around()

    def wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.num_calls += 1
            if self.num_calls in self.at:
                self.num_raised += 1
                raise InjectedError(f"call {self.num_calls} fails: {method}")
            return method(*args, **options)

        return call


@dataclass(order=True)
class FakeTimer:
    when: float
    order: int
    callback: Callable[[], object] = field(compare=False)
    is_cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """The batcher's scheduler, whose time passes only in `advance`."""

    def __init__(self) -> None:
        self.now = 100.0
        self._order = itertools.count()
        self._timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
        timer = FakeTimer(when, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def call_soon(self, callback: Callable[..., object], *args: Any) -> FakeTimer:
        return self.call_at(self.now, partial(callback, *args))

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass and make every call that falls due."""
        end = self.now + seconds
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            self.now = max(self.now, timer.when)
            if not timer.is_cancelled:
                timer.callback()
        self.now = end


class HeldInstance:
    """Doubles every row of the input `x` into the output `y`, but only on command."""

    def __init__(self, loop: FakeLoop, compute_seconds: float = 0.001) -> None:
        self._loop = loop
        self._compute_seconds = compute_seconds
        self._job: tuple[BatchBuffer, Callable[[BatchBuffer, BatchOutcome], None]] | None = None
        self.sizes: list[int] = []
        self.degraded: list[bool] = []

    @property
    def is_busy(self) -> bool:
        return self._job is not None

    def start(
        self,
        batch: BatchBuffer,
        on_done: Callable[[BatchBuffer, BatchOutcome], None],
        expected_seconds: float,
        *,
        is_alone: bool,
        is_degraded: bool = False,
    ) -> None:
        assert self._job is None, "an instance was given a second batch"
        self._job = (batch, on_done)
        self.sizes.append(batch.num_rows)
        self.degraded.append(is_degraded)
        self._started_at = self._loop.time()

    def finish(self, outcome: BatchOutcome | None = None) -> None:
        """Complete the batch in hand."""
        assert self._job is not None
        (batch, on_done), self._job = self._job, None
        if outcome is None:
            values = batch.arrays["x"][: batch.num_rows].astype(np.int64) * 2
            outcome = BatchOutcome(self._started_at, self._compute_seconds, {"y": values})
        on_done(batch, outcome)
        self._loop.advance()
