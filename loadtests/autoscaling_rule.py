"""The rule by which Kubernetes scales a deployment: ratio, tolerance, stabilization, policies. No clock, no cluster.

Source: Kubernetes documentation, "Horizontal Pod Autoscaling", sections "Algorithm details" and "Configurable scaling
behavior", and the controller's replica calculator for pods that are not ready.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

TOLERANCE = 0.1
SYNC_SECONDS = 15.0
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Policy:
    """How far one direction may go in a period: by a percentage of the pods at its beginning, or by a number."""

    value: int
    period_seconds: float
    is_percent: bool


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of `spec.behavior`; of several policies the one that allows the largest change counts."""

    stabilization_seconds: float
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class Behavior:
    """`spec.behavior` and the bounds, as the chart sets them."""

    min_replicas: int = 2
    max_replicas: int = 10
    up: Direction = field(default_factory=lambda: Direction(0.0, (Policy(100, 30.0, True), Policy(2, 30.0, False))))
    down: Direction = field(default_factory=lambda: Direction(300.0, (Policy(25, 60.0, True),)))


def desired_replicas(
    current: int,
    values: Sequence[float],
    target: float,
    *,
    num_unready: int = 0,
    num_missing: int = 0,
    tolerance: float = TOLERANCE,
) -> int:
    """How many pods a metric asks for: ceil(current * value / target), unless the ratio is within the tolerance.

    Pods that are not ready, or ready without a value yet, count as idle where more are asked for, so that those on
    their way are not ordered twice; where fewer are, the latter count as being at the target.
    """
    if not values:
        return current
    ratio = sum(values) / len(values) / target
    if ratio > 1:
        count, total = len(values) + num_unready + num_missing, sum(values)
    else:
        count, total = len(values) + num_missing, sum(values) + target * num_missing
    cautious = total / count / target
    if abs(1 - cautious) <= tolerance + _ROUNDING or (cautious > 1) != (ratio > 1):
        return current
    wanted = math.ceil(cautious * count - _ROUNDING)
    return max(wanted, current) if cautious > 1 else min(wanted, current)


@dataclass(slots=True)
class Autoscaler:
    """The controller's memory: recommendations and changes, as far back as the windows and the periods reach."""

    behavior: Behavior
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def decide(self, now: float, current: int, desired: int) -> int:
        """How many pods there should be from now on, given what the metric asks for."""
        behavior = self.behavior
        bounded = min(max(desired, behavior.min_replicas), behavior.max_replicas)
        self._recommended.append((now, bounded))
        replicas = self._limited(now, current, self._stabilized(now, current))
        if replicas != current:
            self._changes.append((now, replicas - current))
        self._forget(now)
        return replicas

    def _stabilized(self, now: float, current: int) -> int:
        """Up no further than all recommendations of one window agree, down no further than all of the other."""
        up, down = self.behavior.up.stabilization_seconds, self.behavior.down.stabilization_seconds
        latest = self._recommended[-1][1]
        least = min([latest, *(wanted for at, wanted in self._recommended if at > now - up)])
        greatest = max([latest, *(wanted for at, wanted in self._recommended if at > now - down)])
        return min(max(current, least), greatest)

    def _limited(self, now: float, current: int, wanted: int) -> int:
        if wanted > current:
            return min(wanted, max(self._bound(now, current, p, 1) for p in self.behavior.up.policies))
        if wanted < current:
            return max(wanted, min(self._bound(now, current, p, -1) for p in self.behavior.down.policies))
        return current

    def _bound(self, now: float, current: int, policy: Policy, sign: int) -> int:
        """How far a policy lets the number go, seen from the beginning of its period."""
        recent = sum(by for at, by in self._changes if at > now - policy.period_seconds and by * sign > 0)
        start = current - recent
        if not policy.is_percent:
            return start + sign * policy.value
        if sign > 0:
            return math.ceil(start * (1 + policy.value / 100))
        return int(start * (1 - policy.value / 100))

    def _forget(self, now: float) -> None:
        directions = (self.behavior.up, self.behavior.down)
        reach = max(d.stabilization_seconds for d in directions)
        period = max(p.period_seconds for d in directions for p in d.policies)
        self._recommended = [entry for entry in self._recommended if entry[0] > now - reach]
        self._changes = [entry for entry in self._changes if entry[0] > now - period]
