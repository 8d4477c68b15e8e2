"""What the steps of a language model take, learned as they run, and the number of threads that pays.

What is measured at load is a first guess, of a moment. Medians of what ran lately correct it: no single run counts.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median

log = logging.getLogger(__name__)

DECODE, PREFILL = "decode", "prefill"
# Of so many runs of a kind, those of a size count by themselves if they are enough, and the last ones of any size else.
_NUM_KEPT, _NUM_ENOUGH, _NUM_RECENT = 64, 3, 15
# Medians are taken anew after so many runs.
_NUM_NEW = 8
# Chunks of prompts have about this size.
_USUAL_CHUNK = 64
# Another number of threads must take so much less time to be taken.
CLEAR_GAIN = 0.9
# How often another number of threads is tried, and the share of the time that this may take.
PROBE_SECONDS, PROBE_SHARE = 1.0, 0.01


class _Pace:
    """How many times as long as was measured at load runs take now, by their size."""

    def __init__(self) -> None:
        self._ratios: deque[tuple[int, float]] = deque(maxlen=_NUM_KEPT)
        self._num_new = 0
        self._medians: dict[int, float] = {}

    def observe(self, size: int, ratio: float) -> None:
        self._ratios.append((size.bit_length(), ratio))
        self._num_new += 1
        if self._num_new >= _NUM_NEW or len(self._ratios) < _NUM_RECENT:
            self._num_new = 0
            self._medians.clear()

    def of(self, size: int) -> float:
        place = size.bit_length()
        if (known := self._medians.get(place)) is None:
            known = self._medians[place] = self._median(place)
        return known

    def _median(self, place: int) -> float:
        ratios = [ratio for each, ratio in self._ratios if each == place]
        if len(ratios) < _NUM_ENOUGH:
            ratios = [ratio for _, ratio in self._ratios]
        return median(ratios[-_NUM_RECENT:]) if len(ratios) >= _NUM_ENOUGH else 1.0


class StepCost:
    """The seconds of steps with one number of threads.

    A decode step was measured with texts of `length` tokens, and takes `cached_token_seconds` more for each further
    token of each text.
    """

    def __init__(
        self,
        decode_seconds: Mapping[int, float],
        prefill_token_seconds: float,
        *,
        length: int = 0,
        cached_token_seconds: float = 0.0,
    ) -> None:
        self.decode_seconds = dict(sorted(decode_seconds.items()))
        self._sizes, self._seconds = [*self.decode_seconds], [*self.decode_seconds.values()]
        self._token_seconds = prefill_token_seconds
        self._length, self._cached_token_seconds = length, cached_token_seconds
        self._decode_pace, self._prefill_pace = _Pace(), _Pace()

    @property
    def prefill_token_seconds(self) -> float:
        """The seconds of a token in a chunk of usual size."""
        return self.prefill(_USUAL_CHUNK) / _USUAL_CHUNK

    def decode(self, num_rows: int, length: float | None = None) -> float:
        """The seconds of a decode step of texts that have `length` tokens on average."""
        return self._measured(num_rows, length) * self._decode_pace.of(num_rows)

    def prefill(self, num_tokens: int) -> float:
        """The seconds of a chunk of prompts."""
        return self._token_seconds * num_tokens * self._prefill_pace.of(num_tokens)

    def observe_decode(self, num_rows: int, length: float, seconds: float) -> None:
        """Learn from a decode step that ran."""
        if seconds > 0 and (measured := self._measured(num_rows, length)) > 0:
            self._decode_pace.observe(num_rows, seconds / measured)

    def observe_prefill(self, num_tokens: int, seconds: float) -> None:
        """Learn from a chunk that ran."""
        if seconds > 0 and self._token_seconds > 0:
            self._prefill_pace.observe(num_tokens, seconds / (self._token_seconds * num_tokens))

    def _measured(self, num_rows: int, length: float | None) -> float:
        seconds = self._interpolated(num_rows)
        beyond = 0.0 if length is None else (length - self._length) * num_rows * self._cached_token_seconds
        return max(seconds + beyond, seconds / 2)

    def _interpolated(self, num_rows: int) -> float:
        sizes, seconds = self._sizes, self._seconds
        place = min(bisect_left(sizes, num_rows), len(sizes) - 1)
        if not place or num_rows >= sizes[place]:
            return seconds[place]
        share = (num_rows - sizes[place - 1]) / (sizes[place] - sizes[place - 1])
        return seconds[place - 1] + share * (seconds[place] - seconds[place - 1])


class StepCosts:
    """The costs with each number of threads, the first of which is taken until another is clearly cheaper.

    The others are tried from time to time, which shows when the machine has become busy, or idle.
    """

    def __init__(self, by_threads: Mapping[int, StepCost], clock: Callable[[], float] = lambda: 0.0) -> None:
        self._by_threads = dict(by_threads)
        self._clock = clock
        first = next(iter(self._by_threads))
        self._chosen = {DECODE: first, PREFILL: first}
        self._probe_at = dict.fromkeys(self._chosen, clock() + PROBE_SECONDS)

    @property
    def prefill_token_seconds(self) -> float:
        """The seconds of a token of a prompt."""
        return self._by_threads[self._chosen[PREFILL]].prefill_token_seconds

    @property
    def decode_seconds(self) -> dict[int, float]:
        """The seconds of decode steps by their rows, as they were measured at load."""
        return self._by_threads[self._chosen[DECODE]].decode_seconds

    def num_threads(self, kind: str) -> int:
        """The number of threads that runs of a kind have now."""
        return self._chosen[kind]

    def wanted_threads(self, kind: str) -> int:
        """The number of threads that the next run of a kind should have room for: a trial may have more than usual."""
        is_trial_due = self._clock() >= self._probe_at[kind]
        return max(self._by_threads) if is_trial_due else self._chosen[kind]

    def decode(self, num_rows: int, length: float | None = None) -> float:
        """The seconds of a decode step of texts that have `length` tokens on average."""
        return self._by_threads[self._chosen[DECODE]].decode(num_rows, length)

    def choose(self, kind: str, size: int, max_threads: int) -> int:
        """The number of threads of the next run, which may be a trial."""
        chosen = self._chosen[kind]
        others = [each for each in self._by_threads if each != chosen]
        if not others:
            return chosen
        fitting = [each for each in self._by_threads if each <= max_threads] or [min(self._by_threads)]
        if self._clock() >= self._probe_at[kind] and (untried := [each for each in others if each in fitting]):
            self._probe_at[kind] = self._clock() + PROBE_SECONDS
            return untried[0]
        best = min(others, key=lambda each: self._seconds(kind, each, size))
        if self._seconds(kind, best, size) < CLEAR_GAIN * self._seconds(kind, chosen, size):
            log.info("another number of threads is faster now", extra={"graph": kind, "threads": best, "was": chosen})
            self._chosen[kind] = chosen = best
        return chosen if chosen in fitting else max(fitting)

    def observe(self, kind: str, num_threads: int, size: int, length: float, seconds: float) -> None:
        """Learn from a run: `size` texts of `length` tokens, or tokens of prompts."""
        cost = self._by_threads[num_threads]
        if num_threads != self._chosen[kind]:
            self._probe_at[kind] = max(self._probe_at[kind], self._clock() + seconds / PROBE_SHARE)
        if kind == DECODE:
            cost.observe_decode(size, length, seconds)
        else:
            cost.observe_prefill(size, seconds)

    def most_rows(self, num_slots: int, length: float, objective_seconds: float | None) -> int:
        """How many texts a step may continue that should take no longer; one at least."""
        if objective_seconds is None:
            return num_slots
        rows = range(num_slots + 1)
        return max(bisect_right(rows, objective_seconds, key=lambda each: self.decode(each, length)) - 1, 1)

    def _seconds(self, kind: str, num_threads: int, size: int) -> float:
        cost = self._by_threads[num_threads]
        return cost.decode(size) if kind == DECODE else cost.prefill(size)
