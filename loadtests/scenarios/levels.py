"""Rates, latencies and tokens at each number of users.

Latencies are kept in bins of 1 %, so that a soak needs no more memory than a minute. It knows no Locust and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from loadtests.scenarios.catalog import COMPLETE

_BINS_PER_FACTOR = math.log(1.01)
_WINDOW_SECONDS = 10.0


def _bin(milliseconds: float) -> int:
    return round(math.log(max(milliseconds, 0.01)) / _BINS_PER_FACTOR)


@dataclass(slots=True)
class Samples:
    """Latencies in bins, by their number."""

    bins: dict[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.bins.values())

    def add(self, milliseconds: float) -> None:
        """Add one."""
        key = _bin(milliseconds)
        self.bins[key] = self.bins.get(key, 0) + 1

    def merge(self, other: Self) -> None:
        """Add those of another."""
        for key, count in other.bins.items():
            self.bins[key] = self.bins.get(key, 0) + count

    def percentile(self, percent: float) -> float | None:
        """The smallest latency that so many percent do not exceed, in milliseconds; None without any."""
        wanted, seen = math.ceil(self.count * percent / 100), 0
        for key in sorted(self.bins):
            seen += self.bins[key]
            if seen >= max(wanted, 1):
                return math.exp(key * _BINS_PER_FACTOR)
        return None

    def summary(self) -> dict[str, float | None]:
        """The usual percentiles."""
        return {f"p{p}_ms": self.percentile(p) for p in (50, 95, 99)}


@dataclass(slots=True)
class Tally:
    """Latencies of good replies and failures in some interval, by action; and the tokens of texts.

    `judged` holds what an action's limit is about: the time to the first token of a text, the whole of anything else.
    """

    latencies: dict[str, Samples] = field(default_factory=dict)
    judged: dict[str, Samples] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    num_tokens: int = 0

    def add(self, action: str, milliseconds: float, *, ok: bool) -> None:
        """Count a reply."""
        if not ok:
            self.failures[action] = self.failures.get(action, 0) + 1
            return
        self.latencies.setdefault(action, Samples()).add(milliseconds)
        if action != COMPLETE:
            self.judged.setdefault(action, Samples()).add(milliseconds)

    def add_text(self, first_token_ms: float, num_tokens: int) -> None:
        """Count the tokens of a stream, beside its reply."""
        self.judged.setdefault(COMPLETE, Samples()).add(first_token_ms)
        self.num_tokens += num_tokens

    def merge(self, other: Self) -> None:
        """Add those of another."""
        for mine, theirs in ((self.latencies, other.latencies), (self.judged, other.judged)):
            for action, samples in theirs.items():
                mine.setdefault(action, Samples()).merge(samples)
        for action, count in other.failures.items():
            self.failures[action] = self.failures.get(action, 0) + count
        self.num_tokens += other.num_tokens

    @property
    def num_good(self) -> int:
        """The number of good replies."""
        return sum(samples.count for samples in self.latencies.values())

    @property
    def failure_ratio(self) -> float:
        """The share of requests that failed; 0 without any."""
        failed = sum(self.failures.values())
        return failed / (failed + self.num_good) if failed else 0.0

    def to_wire(self) -> dict[str, Any]:
        """Plain values, for a message from a worker."""
        parts = {
            name: {a: s.bins for a, s in part.items()}
            for name, part in (("latencies", self.latencies), ("judged", self.judged))
        }
        return {**parts, "failures": self.failures, "num_tokens": self.num_tokens}

    @classmethod
    def from_wire(cls, values: Mapping[str, Any]) -> Self:
        """Read such a message."""
        parts = [{a: Samples(dict(bins)) for a, bins in values[name].items()} for name in ("latencies", "judged")]
        return cls(parts[0], parts[1], dict(values["failures"]), values["num_tokens"])


@dataclass(slots=True)
class Level:
    """Everything measured at one number of users."""

    users: int
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)

    @property
    def rate(self) -> float:
        """Good replies a second."""
        return self.tally.num_good / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Rates and percentiles, of all and by action."""
        every = Samples()
        for samples in self.tally.latencies.values():
            every.merge(samples)
        actions = {
            action: {"requests_per_second": samples.count / self.seconds if self.seconds else 0.0, **samples.summary()}
            for action, samples in sorted(self.tally.latencies.items())
        }
        text = self.tally.judged.get(COMPLETE, Samples())
        return {
            "users": self.users,
            "seconds": round(self.seconds, 1),
            "requests_per_second": self.rate,
            "failure_ratio": self.tally.failure_ratio,
            **every.summary(),
            "actions": actions,
            "first_token": text.summary(),
            "tokens_per_second": self.tally.num_tokens / self.seconds if self.seconds else 0.0,
        }


@dataclass(frozen=True, slots=True)
class Moment:
    """The last seconds before some time, for charts."""

    time: float
    users: int
    requests_per_second: float
    first_token_p50_ms: float | None
    first_token_p95_ms: float | None
    tokens_per_second: float


class Recorder:
    """Sorts tallies by the number of users; the first moments after a change do not count."""

    def __init__(self, settle_seconds: float = 1.0) -> None:
        self._settle_seconds = settle_seconds
        self._last: tuple[float, int, float] | None = None  # time, users, since when so many
        self._recent: list[tuple[float, float, Tally]] = []
        self._levels: dict[int, Level] = {}
        self.whole = Level(0)
        self.moments: list[Moment] = []

    @property
    def levels(self) -> list[Level]:
        """The levels that lasted for any time, by their number of users."""
        return [level for _, level in sorted(self._levels.items()) if level.seconds > 0]

    def add(self, now: float, users: int, tally: Tally) -> None:
        """Add the tally since the last call; `now` never decreases."""
        last_time, last_users, since = self._last or (now, users, now)
        if users != last_users:
            since = now
        self._last = (now, users, since)
        elapsed = now - last_time
        self.whole.seconds += elapsed
        self.whole.users = max(self.whole.users, users)
        self.whole.tally.merge(tally)
        if users and users == last_users and last_time - since >= self._settle_seconds:
            level = self._levels.setdefault(users, Level(users))
            level.seconds += elapsed
            level.tally.merge(tally)
        self._note_moment(now, users, elapsed, tally)

    def _note_moment(self, now: float, users: int, elapsed: float, tally: Tally) -> None:
        self._recent = [part for part in self._recent if part[0] > now - _WINDOW_SECONDS]
        self._recent.append((now, elapsed, tally))
        window, seconds = Tally(), sum(part[1] for part in self._recent)
        for _, _, part in self._recent:
            window.merge(part)
        first = window.judged.get(COMPLETE, Samples())
        rates = (window.num_good / seconds, window.num_tokens / seconds) if seconds else (0.0, 0.0)
        moment = Moment(now, users, rates[0], first.percentile(50), first.percentile(95), rates[1])
        self.moments.append(moment)
