"""Pure decisions of the batcher: when a batch is dispatched, which requests are admitted, and what a batch costs.

No clock, no I/O, no state: everything is an argument, so every rule is tested as arithmetic.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

# A wait shorter than this would end before a clock shows that time has passed.
CLOCK_RESOLUTION_SECONDS = 1e-6
# The part of a request's time that a window leaves for a late wake-up and the way back: a share, up to a maximum.
RESERVE_SHARE = 0.25
MAX_RESERVE_SECONDS = 0.05
# With an objective, a batch is no larger than so much of it allows: a request may come just after one has left.
BATCH_SHARE = 1 / 2
# A batch is left to a cheaper twin if what waits would otherwise take more than this part of the objective.
DEGRADED_SHARE = 3 / 4
# Why a batch leaves: it is full, the window of its oldest request ended, a deadline is near, or an instance was idle.
Reason = Literal["full", "window", "deadline", "idle"]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the batches and the queue of one graph."""

    max_batch_size: int
    max_queue_delay_seconds: float
    max_queue_rows: int
    num_instances: int = 1
    efficient_rows: int = 1
    max_queue_bytes: int | None = None
    objective_seconds: float | None = None


class Cost(Protocol):
    """The time that batches take."""

    def seconds(self, num_rows: int) -> float:
        """The expected time of a batch of `num_rows`."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Work that shares the instances: the rows that wait, their bytes, and the time of one instance to do it all."""

    rows: int
    num_bytes: int
    seconds: float


NO_BACKLOG = Backlog(0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What counts besides rows, where there is an objective.

    It is the time that running batches still take together, and that of the turns of other models before each batch.
    """

    left_seconds: float = 0.0
    turn_seconds: float = 0.0


NOTHING = Ahead()


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send what is queued, up to the largest batch, to an idle instance now, for this reason."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait this long for a fuller batch, unless something arrives before; None: until the next event."""

    seconds: float | None


FULL, WINDOW, DEADLINE, IDLE = map(Dispatch, REASONS)
UNTIL_NEXT_EVENT = Wait(None)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused, and when to try again; `allowed_seconds` are what it may take."""

    reason: Literal["full", "deadline", "objective"]
    retry_after_seconds: float
    expected_seconds: float
    allowed_seconds: float


def decide(
    waiting_rows: int, oldest_age_seconds: float, tightest_slack_seconds: float, num_idle: int, limits: Limits
) -> Dispatch | Wait:
    """Decide whether to dispatch the queued rows now.

    Work-conserving: without a configured delay, an idle instance takes whatever is queued. With one, it waits for a
    full batch, at most until the oldest request has waited that long or the tightest deadline leaves no slack. While
    one instance computes, another starts only a batch of `efficient_rows`, or one whose deadline is near: several small
    batches at once cost more than they gain, and the rows are dispatched anyway when the running batch is done.
    """
    if not waiting_rows or not num_idle:
        return UNTIL_NEXT_EVENT
    if waiting_rows >= limits.max_batch_size:
        return FULL
    remaining_seconds, due = tightest_slack_seconds, DEADLINE
    if not joins_in_late(waiting_rows, num_idle, limits):
        window_seconds = limits.max_queue_delay_seconds - oldest_age_seconds
        if window_seconds <= remaining_seconds:
            remaining_seconds, due = window_seconds, WINDOW if limits.max_queue_delay_seconds else IDLE
    if remaining_seconds <= CLOCK_RESOLUTION_SECONDS:
        return due
    return Wait(remaining_seconds) if math.isfinite(remaining_seconds) else UNTIL_NEXT_EVENT


def joins_in_late(waiting_rows: int, num_idle: int, limits: Limits) -> bool:
    """Whether an idle instance leaves the queued rows to those that compute, unless a deadline is near."""
    return num_idle < limits.num_instances and waiting_rows < limits.efficient_rows


def slack_seconds(arrival: float, deadline: float, now: float, batch_seconds: float) -> float:
    """How long a request may still wait for others: until its deadline, less its batch's time and a reserve."""
    return arrival + _without_reserve(deadline - arrival) - batch_seconds - now


def _without_reserve(seconds: float) -> float:
    return seconds - min(RESERVE_SHARE * seconds, MAX_RESERVE_SECONDS)


def admitted_seconds(alone_seconds: float, objective_seconds: float) -> float:
    """What a request may take that takes `alone_seconds` where nothing waits: who asks for much is not kept out."""
    seconds = _without_reserve(objective_seconds)
    return seconds if alone_seconds <= seconds else seconds + alone_seconds


def is_pressed(waiting_rows: int, cost: Cost, limits: Limits, ahead: Ahead) -> bool:
    """Whether what waits, in batches that take this, would leave too little time for those who come next."""
    if limits.objective_seconds is None:
        return False
    seconds = expected_seconds(0, waiting_rows, 0, cost, limits, 0.0, ahead)
    return seconds > DEGRADED_SHARE * _without_reserve(limits.objective_seconds)


def batch_rows(most: int, cost: Cost, objective_seconds: float) -> int:
    """The largest batch that leaves time for another within an objective, one row at least."""
    seconds = BATCH_SHARE * _without_reserve(objective_seconds)
    return max(bisect_right(range(most + 1), seconds, key=cost.seconds) - 1, 1)


def admit(
    num_rows: int,
    waiting_rows: int,
    computing_rows: int,
    timeout_seconds: float,
    cost: Cost,
    limits: Limits,
    *,
    row_bytes: int = 0,
    beside: Backlog = NO_BACKLOG,
    ahead: Ahead = NOTHING,
    largest_rows: int = 0,
) -> Refusal | None:
    """Admit a request (None), or refuse it: the queue is full, or its deadline or the objective cannot be met.

    An empty queue admits a request with more rows than it holds, which could never be served otherwise. `beside` is the
    work of other queues that share the instances. The rows may be those of several requests that came together, of
    which the largest has `largest_rows`.
    """
    expected = expected_seconds(num_rows, waiting_rows, computing_rows, cost, limits, beside.seconds, ahead)
    allowed = timeout_seconds
    if limits.objective_seconds is not None and num_rows:
        alone = expected_seconds(largest_rows or num_rows, 0, 0, cost, limits)
        allowed = min(allowed, admitted_seconds(alone, limits.objective_seconds))
    rows = waiting_rows + beside.rows
    is_full = rows + num_rows > limits.max_queue_rows
    if limits.max_queue_bytes is not None:
        num_bytes = (waiting_rows + num_rows) * row_bytes + beside.num_bytes
        is_full = is_full or num_bytes > limits.max_queue_bytes
    if rows and is_full:
        seconds = expected_seconds(0, waiting_rows, computing_rows, cost, limits, beside.seconds, ahead)
        return Refusal("full", seconds, expected, allowed)
    if expected > allowed:
        return Refusal("deadline" if expected > timeout_seconds else "objective", expected - allowed, expected, allowed)
    return None


def expected_seconds(
    num_rows: int,
    waiting_rows: int,
    computing_rows: int,
    cost: Cost,
    limits: Limits,
    seconds_beside: float = 0.0,
    ahead: Ahead = NOTHING,
) -> float:
    """The time until `num_rows` more rows are computed, after those waiting and half of those computing.

    An objective is a promise: then what is `ahead` counts, and every batch is as large as it may be, as later requests
    will fill it.
    """
    is_free = not (waiting_rows or computing_rows or seconds_beside or ahead.turn_seconds)
    if num_rows and is_free and num_rows <= limits.max_batch_size:
        return cost.seconds(num_rows)  # as below, for a queue that is empty
    if limits.objective_seconds is None:
        seconds = work_seconds(num_rows + waiting_rows + computing_rows / 2, cost, limits) + seconds_beside
    else:
        num_batches = math.ceil((num_rows + waiting_rows) / limits.max_batch_size)
        each_seconds = cost.seconds(limits.max_batch_size) + ahead.turn_seconds
        seconds = num_batches * each_seconds + ahead.left_seconds + seconds_beside
    # Instances share the work, but the request's own last batch takes its full time.
    return max(seconds / limits.num_instances, cost.seconds(min(num_rows, limits.max_batch_size)) if num_rows else 0.0)


def work_seconds(num_rows: float, cost: Cost, limits: Limits) -> float:
    """The time that one instance takes for some rows, in batches as large as they may be."""
    full_batches, rest = divmod(num_rows, limits.max_batch_size)
    return full_batches * cost.seconds(limits.max_batch_size) + (cost.seconds(math.ceil(rest)) if rest else 0.0)


def fair_waiting_rows(num_rows: int, held_rows: int, waiting_rows: int, placed_rows: int, num_callers: int) -> int:
    """How many of the rows that wait are computed before a request's `num_rows` at most, as callers take turns.

    Its caller has `held_rows` waiting; `placed_rows` of all are in the next batch already.
    """
    return min(waiting_rows, placed_rows + held_rows + (num_callers - 1) * (held_rows + num_rows))
