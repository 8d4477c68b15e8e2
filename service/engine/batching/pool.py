"""The instances that compute the batches of one graph or of several, and their turns on the device."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from service.engine.batching.batches import Span
from service.engine.batching.scheduling import NO_BACKLOG, Backlog
from service.engine.device_turns import Share, Turn
from service.engine.fairness import Usage, rank
from service.engine.transport.messages import Caller

log = logging.getLogger(__name__)

# How fast the usual wait for the device is learned, and what is none.
WAIT_WEIGHT = 0.1
MIN_WAIT_SECONDS = 1e-3


class Pooled(Protocol):
    """A batcher, as far as its pool knows it."""

    row_elements: int

    @property
    def held_rows(self) -> Mapping[str, int]:
        """The rows that wait, by caller."""

    @property
    def next_caller(self) -> Caller | None:
        """The caller of the first request in the next batch, if there is one."""

    @property
    def oldest_arrival(self) -> float:
        """The arrival of the request that has waited longest; infinite where none waits."""

    def backlog(self, max_batches: float = math.inf) -> Backlog:
        """The work that is waiting or being computed, of that which waits so many batches at most."""

    def pump(self) -> None:
        """Dispatch every batch that is due."""

    def displace(self, name: str) -> bool:
        """Refuse the latest request of a caller; return whether there was one."""


class Pool:
    """The instances that several batchers share, by their index; they take turns by callers, then by age.

    With a `share` of the device, each batch takes a turn on `num_threads` cores; `call_in_loop` is for other threads.
    """

    def __init__(
        self,
        num_instances: int,
        share: Share | None = None,
        num_threads: int = 1,
        call_in_loop: Callable[..., object] | None = None,
    ) -> None:
        self.idle = deque(range(num_instances))
        self._batchers: list[Pooled] = []
        self._usage = Usage()
        self._share = share
        self._taken: dict[int, Turn] = {}
        self._refused_at: float | None = None
        self._wait_seconds = 0.0
        if share is not None and call_in_loop is not None:
            self._call_in_loop = call_in_loop
            self._claimant = share.turns.join(num_threads, self._announce, share.weight)

    def join(self, batcher: Pooled) -> None:
        """Let a batcher use the instances."""
        self._batchers.append(batcher)

    def leave(self, batcher: Pooled) -> None:
        """Remove a batcher that is idle."""
        self._batchers.remove(batcher)

    def close(self) -> None:
        """Compute no more."""
        if self._share is not None:
            self._share.turns.leave(self._claimant)

    def take(self, now: float, since: float, seconds: float, spans: Sequence[Span]) -> int | None:
        """Take an idle instance for a batch, whose oldest request has waited `since` a time; None: it is not due yet.

        The batchers are pumped when its turn on the device has come.
        """
        if self._share is None:
            return self.idle.popleft()
        best = min([rank(span.request.priority) for span in spans])
        turn = self._share.turns.take(self._claimant, seconds, self._share.due_at(since, seconds), best)
        if turn is None:
            self._refused_at = self._refused_at or now
            return None
        waited_seconds = now - self._refused_at if self._refused_at is not None else 0.0
        self._wait_seconds += WAIT_WEIGHT * (waited_seconds - self._wait_seconds)
        self._refused_at = None
        index = self.idle.popleft()
        self._taken[index] = turn
        return index

    def release(self, index: int, batcher: Pooled) -> None:
        """Take an instance back from a batcher, and give it to the one whose turn it is."""
        self.idle.append(index)
        if self._share is not None:
            self._share.turns.release(self._taken.pop(index))
        if len(self._batchers) > 1:
            self._pump(batcher)
        else:
            batcher.pump()
        if self._share is not None:
            self._share.turns.settle()

    def _pump(self, batcher: Pooled | None = None) -> None:
        waiting = [other for other in self._batchers if other is batcher or other.next_caller is not None]
        for each in sorted(waiting, key=self._turn):
            shielded(each.pump)

    def _announce(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is ending
            self._call_in_loop(self._on_turn)

    def _on_turn(self) -> None:
        assert self._share is not None
        self._pump()
        if self._claimant.turn is not None:  # whoever waited has left
            self._refused_at = None
            self._share.turns.withdraw(self._claimant)

    def _turn(self, batcher: Pooled) -> tuple[float, float]:
        caller = batcher.next_caller
        return (self._usage.of(caller.name) if caller is not None else math.inf), batcher.oldest_arrival

    def took(self, spans: Sequence[Span], row_elements: int) -> None:
        """Count what a batch takes of the instances, where several batchers share them."""
        if len(self._batchers) > 1:
            self._usage.level = self._usage.of(spans[0].request.caller.name)
            for span in spans:
                self._usage.add(span.request.caller, span.count * row_elements)

    @property
    def turn_seconds(self) -> float:
        """How long a batch waits for the turns of other models, by those that are claimed or by what is usual."""
        if self._share is None:
            return 0.0
        return max(self._share.turns.seconds_ahead(self._claimant), self._wait_seconds)

    def backlog_beside(self, batcher: Pooled, max_batches_each: float = math.inf) -> Backlog:
        """The work of all the other batchers, or so many batches of each, and the usual wait for the device.

        Where there is an objective, `turn_seconds` is the wait.
        """
        is_promised = self._share is not None and self._share.objective_seconds is not None
        wait_seconds = self._wait_seconds if self._wait_seconds > MIN_WAIT_SECONDS and not is_promised else 0.0
        if len(self._batchers) <= 1:
            return Backlog(0, 0, wait_seconds) if wait_seconds else NO_BACKLOG
        others = [other.backlog(max_batches_each) for other in self._batchers if other is not batcher]
        return Backlog(
            sum(other.rows for other in others),
            sum(other.num_bytes for other in others),
            sum(other.seconds for other in others) + wait_seconds,
        )

    def held(self) -> dict[str, int]:
        """What waits of each caller, in elements."""
        held: dict[str, int] = {}
        for batcher in self._batchers:
            for name, num_rows in batcher.held_rows.items():
                held[name] = held.get(name, 0) + num_rows * batcher.row_elements
        return held

    def displace(self, name: str) -> bool:
        """Refuse the latest request of a caller who holds most of the queue; return whether there was one."""
        holding = [batcher for batcher in self._batchers if name in batcher.held_rows]
        most = max(holding, key=lambda each: each.held_rows[name] * each.row_elements)
        return most.displace(name)


def shielded(call: Callable[..., object], *args: Any) -> None:
    """Call; a defect goes no further than the log, for others still wait for their turn."""
    try:
        call(*args)
    except Exception:
        log.exception("a batcher went on after a defect")
