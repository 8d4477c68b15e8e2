"""Turns: how many batches may run at once, and whose is the next, where several queues share instances.

A turn is the right to run one batch. It knows lanes only by their oldest request and the work before them.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from service.engine.batching.scheduling import NO_BACKLOG, Backlog


class Lane(Protocol):
    """A queue that waits for turns."""

    @property
    def oldest_arrival(self) -> float:
        """When the request arrived that waits longest; infinite where none waits."""

    @property
    def backlog(self) -> Backlog:
        """The work that waits or is being computed."""

    def pump(self) -> None:
        """Take turns for what is due."""


class Pool:
    """The turns that lanes share, numbered as the instances that will run their batches."""

    def __init__(self, num_turns: int) -> None:
        self.idle = deque(range(num_turns))
        self.drift = 1.0
        self._lanes: list[Lane] = []

    def join(self, lane: Lane) -> None:
        """Let a lane have turns."""
        self._lanes.append(lane)

    def leave(self, lane: Lane) -> None:
        """Forget a lane that has nothing to do."""
        self._lanes.remove(lane)

    def release(self, turn: int, lane: Lane) -> None:
        """Take a turn back from a lane; the lane whose request waits longest goes first."""
        self.idle.append(turn)
        if len(self._lanes) > 1:
            waiting = [other for other in self._lanes if other is not lane and other.oldest_arrival < float("inf")]
            for each in sorted([lane, *waiting], key=lambda each: each.oldest_arrival):
                each.pump()
        else:
            lane.pump()

    def backlog_beside(self, lane: Lane) -> Backlog:
        """The work of all the other lanes."""
        if len(self._lanes) <= 1:
            return NO_BACKLOG
        others = [other.backlog for other in self._lanes if other is not lane]
        return Backlog(
            sum(other.rows for other in others),
            sum(other.num_bytes for other in others),
            sum(other.seconds for other in others),
        )
