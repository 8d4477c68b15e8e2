"""Pure decisions of the batcher: when a batch is dispatched, which requests are admitted, and what a batch costs.

No clock, no I/O, no state: everything is an argument, so every rule is tested as arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

# A wait shorter than this would end before a clock shows that time has passed.
CLOCK_RESOLUTION_SECONDS = 1e-6
# The part of a request's time that a window leaves for a late wake-up and the way back: a share, up to a maximum.
RESERVE_SHARE = 0.25
MAX_RESERVE_SECONDS = 0.05
DEFAULT_PRIORITY = 2
LAST_RANK = 4
# Of what is computed while requests of a worse priority wait, they get this share at least.
GUARANTEED_SHARE = 1 / 4
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
    """Why a request is refused, and when to try again."""

    is_queue_full: bool
    retry_after_seconds: float
    expected_seconds: float


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
    reserve_seconds = min(RESERVE_SHARE * (deadline - arrival), MAX_RESERVE_SECONDS)
    return deadline - reserve_seconds - batch_seconds - now


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
) -> Refusal | None:
    """Admit a request (None), or refuse it: the queue is full, or its deadline cannot be met.

    An empty queue admits a request with more rows than it holds, which could never be served otherwise. `beside` is the
    work of other queues that share the instances.
    """
    expected = expected_seconds(num_rows, waiting_rows, computing_rows, cost, limits, beside.seconds)
    rows = waiting_rows + beside.rows
    is_full = rows + num_rows > limits.max_queue_rows
    if limits.max_queue_bytes is not None:
        num_bytes = (waiting_rows + num_rows) * row_bytes + beside.num_bytes
        is_full = is_full or num_bytes > limits.max_queue_bytes
    if rows and is_full:
        return Refusal(True, expected_seconds(0, waiting_rows, computing_rows, cost, limits, beside.seconds), expected)
    if expected > timeout_seconds:
        return Refusal(False, expected - timeout_seconds, expected)
    return None


def expected_seconds(
    num_rows: int, waiting_rows: int, computing_rows: int, cost: Cost, limits: Limits, seconds_beside: float = 0.0
) -> float:
    """The time until `num_rows` more rows are computed, after those waiting and half of those computing."""
    if num_rows and not (waiting_rows or computing_rows or seconds_beside) and num_rows <= limits.max_batch_size:
        return cost.seconds(num_rows)  # as below, for a queue that is empty
    seconds = work_seconds(num_rows + waiting_rows + computing_rows / 2, cost, limits) + seconds_beside
    # Instances share the work, but the request's own last batch takes its full time.
    return max(seconds / limits.num_instances, cost.seconds(min(num_rows, limits.max_batch_size)) if num_rows else 0.0)


def work_seconds(num_rows: float, cost: Cost, limits: Limits) -> float:
    """The time that one instance takes for some rows, in batches as large as they may be."""
    full_batches, rest = divmod(num_rows, limits.max_batch_size)
    return full_batches * cost.seconds(limits.max_batch_size) + (cost.seconds(math.ceil(rest)) if rest else 0.0)


def rank(priority: int) -> int:
    """The rank of a priority in the queue, lowest first: 1 goes ahead of those without one (0), 3 behind them."""
    return min(priority or DEFAULT_PRIORITY, LAST_RANK)


def next_rank(passed_rows: Mapping[int, float]) -> int:
    """The rank that is next of those that wait; `passed_rows` are the rows of others that left meanwhile.

    It is the best, unless a worse one has not had its guaranteed share.
    """
    best = min(passed_rows)
    patience_rows = 1 / GUARANTEED_SHARE - 1
    return max((rank for rank, rows in passed_rows.items() if rows >= patience_rows), default=best)


def count_turn(passed_rows: Mapping[int, float], rank: int, num_rows: int) -> dict[int, float]:
    """What has left before each rank that waits but the best, once `num_rows` of one of them have left."""
    best = min(passed_rows)
    counted = {other: rows if other in (best, rank) else rows + num_rows for other, rows in passed_rows.items()}
    if rank != best:
        counted[rank] -= num_rows * (1 / GUARANTEED_SHARE - 1)
    return counted


def fair_waiting_rows(num_rows: int, held_rows: int, waiting_rows: int, placed_rows: int, num_callers: int) -> int:
    """How many of the rows that wait are computed before a request's `num_rows` at most, as callers take turns.

    Its caller has `held_rows` waiting; `placed_rows` of all are in the next batch already.
    """
    return min(waiting_rows, placed_rows + held_rows + (num_callers - 1) * (held_rows + num_rows))
