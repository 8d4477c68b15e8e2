"""Finds threads of the engine that compute no more: those that wait for ever, and those that nobody waits for any more.

The event loop proves by its beats that it turns, and looks from there at what its compute threads hold. Threads of ONNX
Runtime compute with them, so CPU time is that of the process, less the loop's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic, process_time, thread_time
from typing import Protocol

# Work may take so many times what it should before it is taken to be hung.
NUM_USUAL = 5.0
# Less of one processor's time is none: threads that sleep wake up now and then.
MAX_IDLE_SHARE = 0.01


class Dated(Protocol):
    """A request with a deadline."""

    deadline: float


@dataclass(slots=True, eq=False)
class Work:
    """A batch, or a step of texts, that a thread computes for `requests()`, and how long it has been seen to hang.

    It should take `usual_seconds`. `idle_seconds` count while the process computes nothing, `overdue_seconds` once
    every deadline has passed.
    """

    requests: Callable[[], Iterable[Dated]]
    usual_seconds: float
    began_at: float
    idle_seconds: float = 0.0
    overdue_seconds: float = 0.0


class ComputeThread(Protocol):
    """A thread that computes one piece of work at a time."""

    work: Work | None

    @property
    def name(self) -> str:
        """The name of the thread, which begins with that of its model."""


Hung = tuple[ComputeThread, Work]


class ComputeWatch:
    """Decides which thread is hung; asked about every `interval_seconds`.

    It counts the time in which it could itself look: after a pause of the whole process, all threads seem idle.
    """

    def __init__(self, hang_seconds: float, interval_seconds: float, now: float, cpu_seconds: float) -> None:
        self._hang_seconds = hang_seconds - interval_seconds  # work may just have begun when it is first looked at
        self._interval_seconds = interval_seconds
        self._looked_at = now
        self._cpu_seconds = cpu_seconds

    def hung(self, threads: Iterable[ComputeThread], now: float, cpu_seconds: float) -> Hung | None:
        """A thread that is hung, and what it computes; `cpu_seconds` are those of all compute threads so far."""
        seconds = min(now - self._looked_at, 2 * self._interval_seconds)
        is_idle = cpu_seconds - self._cpu_seconds < MAX_IDLE_SHARE * seconds
        self._looked_at, self._cpu_seconds = now, cpu_seconds
        found = None
        for thread in threads:
            if (work := thread.work) is None:
                continue
            work.idle_seconds = work.idle_seconds + seconds if is_idle else 0.0
            if now > max((request.deadline for request in work.requests()), default=now):
                work.overdue_seconds += seconds
            most = max(self._hang_seconds, NUM_USUAL * work.usual_seconds)
            if max(work.idle_seconds, work.overdue_seconds) > most:
                found = thread, work
        return found


async def until_hung(
    threads: Callable[[], Iterable[ComputeThread]], hang_seconds: float, interval_seconds: float
) -> Hung:
    """Wait until a thread is hung; runs in the loop that gives the threads their work."""
    watch = ComputeWatch(hang_seconds, interval_seconds, monotonic(), _cpu_seconds())
    while (found := watch.hung(threads(), monotonic(), _cpu_seconds())) is None:
        await asyncio.sleep(interval_seconds)
    return found


def _cpu_seconds() -> float:
    return process_time() - thread_time()
