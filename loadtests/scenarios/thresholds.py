"""Thresholds of a load test: failures, latencies by action, rates; and the load up to which they hold.

It knows what was measured, not how. Source of the idea of a knee: the rate up to which a p99 stays under its limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.results import Verdict
from loadtests.scenarios.catalog import CLASSIFY, COMPLETE, DRAW, STYLIZE
from loadtests.scenarios.levels import Level

DEFAULT_LIMITS_MS = {CLASSIFY: 250.0, STYLIZE: 3000.0, COMPLETE: 500.0, DRAW: 500.0}
_LIMIT_WORDS = {COMPLETE: "time to first token"}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The limits: p99 by action in milliseconds (of a text: until its first token), failures, and least rates."""

    limits_ms: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_LIMITS_MS))
    max_failure_ratio: float = 0.01
    min_requests_per_second: float = 0.0
    min_tokens_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Knee:
    """The largest load under which every limit held; `failed_at` is the next one, None where none failed."""

    users: int
    requests_per_second: float
    failed_at: int | None
    reason: str = ""

    def describe(self) -> str:
        """The knee in a sentence."""
        if self.users == 0:
            return f"Not even {self.failed_at} users are sustained: {self.reason}."
        rate = f"{self.requests_per_second:.1f} requests/s ({self.users} users) with every p99 under its limit"
        if self.failed_at is None:
            return f"Sustains at least {rate}; no larger load was tried."
        return f"Sustains {rate}; not {self.failed_at} users: {self.reason}."


def check_level(level: Level, thresholds: Thresholds) -> list[Verdict]:
    """Failures and latencies of one level against their limits."""
    checks = [Verdict("failure ratio", thresholds.max_failure_ratio, level.tally.failure_ratio, at_most=True)]
    for action in sorted({*level.tally.judged, *level.tally.failures}):
        samples = level.tally.judged.get(action)
        words = f"{action}: p99 {_LIMIT_WORDS.get(action, 'latency')}, ms"
        found = samples.percentile(99) if samples else None
        checks.append(Verdict(words, thresholds.limits_ms[action], found, at_most=True))
    return checks


def find_knee(levels: Sequence[Level], thresholds: Thresholds) -> Knee | None:
    """Go up from the fewest users until a limit fails; None where nothing was measured."""
    held: Level | None = None
    for level in levels:
        failed = [check for check in check_level(level, thresholds) if not check.reached]
        if failed:
            found = "nothing" if failed[0].found is None else f"{failed[0].found:.4g}"
            reason = f"{failed[0].goal} is {found}, more than {failed[0].wanted:.4g}"
            return Knee(held.users if held else 0, held.rate if held else 0.0, level.users, reason)
        held = level
    return Knee(held.users, held.rate, None) if held else None


def judge(whole: Level, levels: Sequence[Level], thresholds: Thresholds, *, finds_limit: bool) -> list[Verdict]:
    """Hold a run against its thresholds: all of it, or, where it goes beyond the limit on purpose, what it sustained.

    The latter demands that the lowest level holds and that the least rates are reached at a level that does.
    """
    knee = find_knee(levels, thresholds)
    judged = whole
    if finds_limit:
        held = [level for level in levels if knee and level.users <= knee.users]
        judged = held[-1] if held else levels[0] if levels else whole
    checks = check_level(judged, thresholds)
    checks.append(Verdict("good replies", 1, judged.tally.num_good))
    if thresholds.min_requests_per_second:
        checks.append(Verdict("requests/s", thresholds.min_requests_per_second, judged.rate))
    if thresholds.min_tokens_per_second:
        rate = judged.to_json()["tokens_per_second"]
        checks.append(Verdict("tokens/s", thresholds.min_tokens_per_second, rate))
    return checks
