"""A day of traffic through a fleet of pods that Kubernetes scales: the rule, and the simulation second by second.

Requests are a fluid that flows through pods of a measured rate. It knows neither a clock nor a cluster nor files.
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
DAY_SECONDS = 86_400
_SATURATED = 0.98


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


@dataclass(frozen=True, slots=True)
class Pod:
    """What one pod can do; `requests_per_second` with all its cores busy, `idle_seconds` for a lone request."""

    requests_per_second: float = 110.0
    cores: float = 2.0
    requested_cores: float = 1.0
    idle_seconds: float = 0.03
    start_seconds: float = 25.0
    deadline_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Signal:
    """What the autoscaler looks at: "cpu", in percent of the request, or "in flight", requests in a pod; and how late.

    The value is a mean over `window_seconds` and is `lag_seconds` old when the controller reads it.
    """

    name: str = "cpu"
    target: float = 70.0
    window_seconds: int = 15
    lag_seconds: int = 30


IN_FLIGHT = Signal("in flight", target=4.0)
"""The chart's other signal; as late as its default one."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """A day: a wave between night and noon, and a spike that rises in `rise_seconds` and lasts."""

    night: float = 70.0
    noon: float = 500.0
    noon_hour: float = 14.0
    spike: float = 430.0
    spike_hour: float = 5.0
    rise_seconds: float = 60.0
    spike_seconds: float = 900.0

    def rate(self, second: float) -> float:
        """Requests a second at that time of day."""
        phase = 2 * math.pi * (second / 3600 - self.noon_hour) / 24
        wave = self.night + (self.noon - self.night) * (1 + math.cos(phase)) / 2
        since = second - self.spike_hour * 3600
        before_end = self.spike_seconds - since
        return wave + self.spike * max(0.0, min(1.0, since / self.rise_seconds, before_end / self.rise_seconds))


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulated day."""

    name: str
    behavior: Behavior = field(default_factory=Behavior)
    signals: tuple[Signal, ...] = (Signal(),)
    pod: Pod = field(default_factory=Pod)
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(slots=True)
class Day:
    """What happened, second by second, and in sum; `late` are requests that waited longer than a quarter second."""

    plan: Plan
    rate: list[float] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    wait_seconds: list[float] = field(default_factory=list)
    arrived: float = 0.0
    late: float = 0.0
    refused: float = 0.0

    @property
    def pod_hours(self) -> float:
        """Hours of all pods, those that start included."""
        return sum(self.wanted) / 3600

    def to_json(self) -> dict[str, float | str]:
        """The sums."""
        return {
            "plan": self.plan.name,
            "requests": round(self.arrived),
            "late_ratio": self.late / self.arrived,
            "refused_ratio": self.refused / self.arrived,
            "longest_wait_seconds": max(self.wait_seconds),
            "seconds_with_wait": sum(1 for wait in self.wait_seconds if wait > LATE_SECONDS),
            "most_pods": max(self.wanted),
            "pod_hours": self.pod_hours,
        }


LATE_SECONDS = 0.25


class Fleet:
    """The pods: ready ones share the work equally, others are starting; requests wait in one queue."""

    def __init__(self, pod: Pod, replicas: int) -> None:
        self.pod, self.num_ready = pod, replicas
        self._starting: list[float] = []  # when each will be ready
        self._backlog = 0.0

    @property
    def replicas(self) -> int:
        """All pods."""
        return self.num_ready + len(self._starting)

    @property
    def num_starting(self) -> int:
        """Pods that are not ready."""
        return len(self._starting)

    def scale(self, now: float, replicas: int) -> None:
        """Start or remove pods; those that are still starting go first."""
        for _ in range(replicas - self.replicas):
            self._starting.append(now + self.pod.start_seconds)
        for _ in range(self.replicas - replicas):
            if self._starting:
                self._starting.pop()
            else:
                self.num_ready -= 1

    def pass_second(self, now: float, arrived: float) -> tuple[float, float, float]:
        """Serve for a second: the share of the capacity that was used, the wait at its end, and what was refused.

        What cannot be answered within its deadline is refused at once, as the service does.
        """
        started = [at for at in self._starting if at <= now]
        self.num_ready += len(started)
        self._starting = [at for at in self._starting if at > now]
        capacity = self.num_ready * self.pod.requests_per_second
        served = min(self._backlog + arrived, capacity)
        backlog = self._backlog + arrived - served
        self._backlog = min(backlog, capacity * self.pod.deadline_seconds)
        return served / capacity, self._backlog / capacity, backlog - self._backlog


def metric_value(signal: Signal, pod: Pod, utilization: float, wait_seconds: float) -> float:
    """What a ready pod reports at a utilization: CPU of its request, or requests in it by Little's law (M/M/1)."""
    if signal.name == "cpu":
        return 100 * utilization * pod.cores / pod.requested_cores
    rate = utilization * pod.requests_per_second
    stay = pod.idle_seconds / (1 - min(utilization, _SATURATED))
    return rate * (stay + wait_seconds)


class Monitoring:
    """What the pods reported, second by second, and how many pods the controller then asks for."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._values: list[list[float]] = [[] for _ in plan.signals]
        self._ready: list[int] = []

    def note(self, fleet: Fleet, utilization: float, wait_seconds: float) -> None:
        """Record a second."""
        for values, signal in zip(self._values, self._plan.signals, strict=True):
            values.append(metric_value(signal, self._plan.pod, utilization, wait_seconds))
        self._ready.append(fleet.num_ready)

    def desired(self, second: int, fleet: Fleet) -> int:
        """How many pods are asked for; of several signals the one that asks for most counts."""
        asked = []
        for values, signal in zip(self._values, self._plan.signals, strict=True):
            newest = second - signal.lag_seconds
            window = values[max(newest - signal.window_seconds, 0) : max(newest, 0)]
            if not window:
                continue
            # A pod has a value once it was ready for a whole window.
            known = min(fleet.num_ready, *self._ready[max(newest - signal.window_seconds, 0) : newest])
            value, missing = sum(window) / len(window), fleet.num_ready - known
            asked.append(
                desired_replicas(
                    fleet.replicas,
                    [value] * known,
                    signal.target,
                    num_unready=fleet.num_starting,
                    num_missing=missing,
                )
            )
        return max(asked, default=fleet.replicas)


def simulate(plan: Plan, seconds: int = DAY_SECONDS) -> Day:
    """Replay a day."""
    day, monitoring, autoscaler = Day(plan), Monitoring(plan), Autoscaler(plan.behavior)
    needed = plan.traffic.rate(0) / plan.pod.requests_per_second / 0.6
    fleet = Fleet(plan.pod, min(max(math.ceil(needed), plan.behavior.min_replicas), plan.behavior.max_replicas))
    for second in range(seconds):
        if second % SYNC_SECONDS == 0:
            wanted = monitoring.desired(second, fleet)
            fleet.scale(second, autoscaler.decide(second, fleet.replicas, wanted))
        rate = plan.traffic.rate(second)
        utilization, wait, refused = fleet.pass_second(second, rate)
        monitoring.note(fleet, utilization, wait)
        day.rate.append(rate)
        day.ready.append(fleet.num_ready)
        day.wanted.append(fleet.replicas)
        day.wait_seconds.append(wait)
        day.arrived += rate
        day.refused += refused
        day.late += rate - refused if wait > LATE_SECONDS else 0.0
    return day
