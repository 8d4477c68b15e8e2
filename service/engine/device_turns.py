"""Whose turn it is on the cores of the device, over all models: the best priority, then whose answer is due first.

Everything that computes takes a turn for each piece of work: a batch, a tile, a step of texts. Threads that compute are
never more than the cores. Long work leaves a core to short work, which would otherwise wait as long; what is alone on
the device has all of it. What comes late as it wants more than its share waits for those who do not, and nobody waits
for ever for a better priority.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from service.engine.fairness import DEFAULT_PRIORITY, PATIENCE

# Work that takes longer than this must not take every core while others compute shorter work.
LONG_SECONDS = 0.05
# Who has not computed for this long is not there.
PRESENCE_SECONDS = 2.0
# Without an objective, an answer is due after so many times what it takes to compute, and not sooner than this.
OBJECTIVE_FACTOR = 10.0
MIN_OBJECTIVE_SECONDS = 0.02
# How long work waits at least for that of a better priority, before it counts as one better.
AGEING_SECONDS = 0.5
# Who is this far ahead of the others, in core-seconds of a weight of 1, has had more than its share.
MAX_LEAD_SECONDS = 0.1
# Late work of those goes behind what is due within so many times what it takes, and was in time so far.
REPRIEVE = 2.0


@dataclass(frozen=True, slots=True)
class Turn:
    """The cores that somebody computes on, until he gives them back."""

    claimant: Claimant
    num_cores: int
    is_long: bool
    began_at: float


@dataclass(slots=True, eq=False)
class Claimant:
    """One that computes on the device, a piece of work at a time or several; each piece keeps `num_threads` busy.

    `call` is called, in any thread, when a turn that it had to wait for has come; `take` returns it then. `used` are
    the core-seconds that it has had, over its weight.
    """

    num_threads: int
    call: Callable[[], None]
    weight: float = 1.0
    turn: Turn | None = None
    is_long: bool = False
    seconds: float = 0.0
    due_at: float = math.inf
    rank: int = DEFAULT_PRIORITY
    patience_seconds: float = AGEING_SECONDS
    asked_at: float = math.inf
    used: float = 0.0
    seen_short_at: float = -math.inf
    seen_at: float = -math.inf


class DeviceTurns:
    """Gives turns; every method may be called in any thread."""

    def __init__(self, num_cores: int, clock: Callable[[], float]) -> None:
        # A single core is shared by the system between long and short work: neither waits for the other's end.
        self._num_cores = self._num_free = max(num_cores, 2)
        self._num_long = 0
        self._clock = clock
        self._claimants: set[Claimant] = set()
        self._waiting: list[Claimant] = []
        self._running: list[Turn] = []
        self._lock = threading.Lock()

    def join(self, num_threads: int, call: Callable[[], None], weight: float = 1.0) -> Claimant:
        """Let somebody compute on the device."""
        claimant = Claimant(num_threads, call, weight)
        with self._lock:
            self._claimants.add(claimant)
        return claimant

    def leave(self, claimant: Claimant) -> None:
        """Take a claimant out who computes nothing any more."""
        with self._lock:
            self._claimants.discard(claimant)
        self.withdraw(claimant)

    def take(self, claimant: Claimant, seconds: float, due_at: float, rank: int = DEFAULT_PRIORITY) -> Turn | None:
        """Take a turn for work of about so many seconds; None where others are first: then the claimant waits."""
        now = self._clock()
        with self._lock:
            if claimant.turn is None:
                self._see(claimant, now)
                claimant.due_at, claimant.seconds, claimant.rank = due_at, seconds, rank
                claimant.is_long = seconds > LONG_SECONDS
                claimant.patience_seconds = max(AGEING_SECONDS, PATIENCE * seconds)
                if not claimant.is_long:
                    claimant.seen_short_at = now
                if claimant not in self._waiting:
                    claimant.asked_at = now
                    self._waiting.append(claimant)
                called = self._give(now)
            else:
                called = []
            turn, claimant.turn = claimant.turn, None
        for other in called:
            if other is not claimant:
                other.call()
        return turn

    def release(self, turn: Turn) -> None:
        """Give cores back; whose turn it is then, `settle` decides."""
        seconds = self._clock() - turn.began_at
        with self._lock:
            self._running.remove(turn)
            turn.claimant.used += seconds * turn.num_cores / turn.claimant.weight
            self._num_free += turn.num_cores
            self._num_long -= turn.num_cores if turn.is_long else 0

    def settle(self) -> None:
        """Give free cores to those who wait."""
        if not self._waiting:
            return
        with self._lock:
            called = self._give(self._clock())
        for claimant in called:
            claimant.call()

    def withdraw(self, claimant: Claimant) -> None:
        """Claim nothing any more, and give back a turn that was not used."""
        with self._lock:
            if claimant in self._waiting:
                self._waiting.remove(claimant)
            turn, claimant.turn = claimant.turn, None
        if turn is not None:
            self.release(turn)
            self.settle()

    def is_shared(self, claimant: Claimant) -> bool:
        """Whether others compute on the device, too."""
        since = self._clock() - PRESENCE_SECONDS
        with self._lock:
            return any(other.seen_at > since for other in self._claimants if other is not claimant)

    def seconds_ahead(self, claimant: Claimant) -> float:
        """How long a turn of a claimant waits for those of others, of work of its length, that wait or run."""
        now = self._clock()
        with self._lock:
            waiting = [each for each in self._waiting if each is not claimant and each.rank <= claimant.rank]
            seconds = sum(each.seconds * self._part(each) for each in waiting if each.is_long == claimant.is_long)
            for turn in self._running:
                if turn.claimant is not claimant and turn.is_long == claimant.is_long:
                    left_seconds = turn.began_at + turn.claimant.seconds - now
                    seconds += max(left_seconds, 0.0) * turn.num_cores / self._num_cores
        return seconds

    def _part(self, claimant: Claimant) -> float:
        return min(claimant.num_threads, self._num_cores) / self._num_cores

    def _see(self, claimant: Claimant, now: float) -> None:
        """Note that a claimant is there: whoever comes back begins where the others are, and has nothing saved up."""
        if claimant.seen_at <= now - PRESENCE_SECONDS:
            claimant.used = max(claimant.used, self._least_used(now))
        claimant.seen_at = now

    def _least_used(self, now: float) -> float:
        return min((each.used for each in self._claimants if each.seen_at > now - PRESENCE_SECONDS), default=0.0)

    def _in_turn(self, now: float) -> list[Claimant]:
        """Those who wait, the first first."""
        if len(self._waiting) <= 1:
            return list(self._waiting)
        most = self._least_used(now) + MAX_LEAD_SECONDS

        def place(claimant: Claimant) -> tuple[int, float, float]:
            due_at = claimant.due_at
            if due_at <= now and claimant.used > most:  # too late: first those who can still be in time
                due_at = now + REPRIEVE * claimant.seconds
            return _aged_rank(claimant, now), due_at, claimant.used

        return sorted(self._waiting, key=place)

    def _give(self, now: float) -> list[Claimant]:
        """Give turns to those who are first, as far as there are cores."""
        given = []
        for claimant in self._in_turn(now):
            num_cores, num_free = self._room(claimant, now)
            if num_cores <= num_free:
                self._num_free -= num_cores
                self._num_long += num_cores if claimant.is_long else 0
                claimant.turn = Turn(claimant, num_cores, claimant.is_long, now)
                self._running.append(claimant.turn)
                self._waiting.remove(claimant)
                given.append(claimant)
            elif now >= claimant.due_at and not claimant.is_long:
                break  # whoever needs many cores would wait for ever for them behind those who need few
        return given

    def _room(self, claimant: Claimant, now: float) -> tuple[int, int]:
        """The cores that the claimant would take, and those that are free for such work.

        Where there is long and short work, each has its part of the cores, and none waits for the other.
        """
        most = self._num_cores
        if claimant.is_long:
            most -= self._is_among_short(claimant, now)
            return min(claimant.num_threads, most), min(self._num_free, most - self._num_long)
        rank = _aged_rank(claimant, now)
        num_long = self._num_long or any(each.is_long and _aged_rank(each, now) <= rank for each in self._waiting)
        most -= min(num_long, most - 1)
        num_short = self._num_cores - self._num_free - self._num_long
        return min(claimant.num_threads, most), min(self._num_free, most - num_short)

    def _is_among_short(self, claimant: Claimant, now: float) -> bool:
        since = now - PRESENCE_SECONDS
        return any(other.seen_short_at > since for other in self._claimants if other is not claimant)


def _aged_rank(claimant: Claimant, now: float) -> int:
    """Its rank; one better each time that its patience has ended."""
    return claimant.rank - int(max(now - claimant.asked_at, 0.0) / claimant.patience_seconds)


@dataclass(frozen=True, slots=True)
class Share:
    """A model's share of the device: the turns that it takes, and how long its answers should take, if that is said.

    Of two models that want more than there is, one with twice the `weight` has twice as much.
    """

    turns: DeviceTurns
    objective_seconds: float | None = None
    weight: float = 1.0

    def due_at(self, since: float, seconds: float) -> float:
        """When work that takes `seconds` should be done that has been asked for `since` a time."""
        return since + (self.objective_seconds or max(OBJECTIVE_FACTOR * seconds, MIN_OBJECTIVE_SECONDS))
