"""The search for settings, on simulated devices that decide as the batcher does, beside all that could be measured."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field, replace
from functools import cache

import pytest

from service.cli.tuning.search import LOADS, Found, Reading, Setting, Space, pareto, search, space_for
from service.engine.batching.scheduling import Dispatch, Limits, decide

NUM_CORES = 4
NUM_ANSWERS = 160
ROUND_TRIP_SECONDS = 0.0005


@dataclass(frozen=True)
class Network:
    """What a batch costs: a part that no thread helps, and one that threads share as well as Amdahl lets them."""

    batch_seconds: float
    row_seconds: float
    parallel_share: float
    max_batch_size: int

    def seconds(self, num_rows: int, threads: int, num_running: int) -> float:
        shared = 1 - self.parallel_share + self.parallel_share / threads
        crowding = 1 + 0.08 * (num_running - 1)
        return (self.batch_seconds + self.row_seconds * num_rows) * shared * crowding


NETWORKS = {
    "light, and a batch costs as much as many rows": (Network(0.0020, 0.00005, 0.3, 64), 0.004),
    "heavy rows that gain nothing from batches": (Network(0.0002, 0.0060, 0.5, 16), 0.040),
    "large, and threads share it well": (Network(0.0040, 0.0030, 0.95, 32), 0.030),
}


@cache
def simulate(network: Network, setting: Setting, callers: int) -> tuple[float, float]:
    """Rows a second and p99 of callers who each ask again when they are answered."""
    limits = Limits(setting.max_batch_size, setting.max_queue_delay_seconds, 10_000, setting.instances)
    # Events in the order of time: arrivals of a row, ends of a batch (the arrivals in it), ends of a window.
    events: list[tuple[float, int, tuple[float, ...]]] = [(0.0001 * n, n, ()) for n in range(callers)]
    heapq.heapify(events)
    waiting: deque[float] = deque()
    num_idle, serial, latencies, now = setting.instances, callers, list[float](), 0.0
    while len(latencies) < NUM_ANSWERS:
        now, kind, batch = heapq.heappop(events)
        if batch:
            num_idle += 1
            for arrival in batch:
                latencies.append(now - arrival)
                heapq.heappush(events, (now + ROUND_TRIP_SECONDS, serial, ()))
                serial += 1
        elif kind >= 0:
            waiting.append(now)
        while waiting:
            decision = decide(min(len(waiting), limits.max_batch_size), now - waiting[0], 1e9, num_idle, limits)
            if not isinstance(decision, Dispatch):
                if decision.seconds is not None and num_idle:
                    heapq.heappush(events, (now + decision.seconds, -1, ()))
                break
            num_idle -= 1
            rows = tuple(waiting.popleft() for _ in range(min(len(waiting), limits.max_batch_size)))
            seconds = network.seconds(len(rows), setting.threads, setting.instances - num_idle)
            heapq.heappush(events, (now + seconds, serial, rows))
            serial += 1
    latencies.sort()
    return len(latencies) / now, latencies[int(0.99 * len(latencies))]


@dataclass
class SimulatedDevice:
    """Measures at once, so many times at most."""

    network: Network
    budget: int = 10_000
    measured: list[tuple[Setting, int]] = field(default_factory=list)

    def measure(self, setting: Setting, load: int, *, is_long: bool = False) -> Reading:
        self.measured.append((setting, load))
        return Reading(setting, load, *simulate(self.network, setting, load))

    def has_time(self, *, for_search: bool) -> bool:
        return len(self.measured) < (0.9 if for_search else 1) * self.budget


def best_of_all(network: Network, space: Space, target_seconds: float) -> float:
    """The most rows a second that any setting serves within the target, under any load."""
    rates = [0.0]
    for setting in space.settings:
        for load in LOADS:
            rate, p99 = simulate(network, setting, load)
            if p99 > 4 * target_seconds:
                break
            if p99 <= target_seconds:
                rates.append(rate)
    return max(rates)


def found_on(network: Network, target_seconds: float, budget: int = 10_000) -> tuple[Found, SimulatedDevice, Space]:
    space = space_for(NUM_CORES, network.max_batch_size, target_seconds)
    device = SimulatedDevice(network, budget)
    return search(device, space, target_seconds), device, space


@pytest.mark.parametrize("name", NETWORKS)
def test_the_search_comes_within_five_percent_of_measuring_everything(name: str) -> None:
    network, target_seconds = NETWORKS[name]

    found, device, space = found_on(network, target_seconds)

    assert found.best is not None
    assert found.best.p99_seconds <= target_seconds
    best = best_of_all(network, space, target_seconds)
    assert found.best.rows_per_second >= 0.95 * best
    assert len(set(device.measured)) < 0.1 * len(list(space.settings)) * len(LOADS)


def test_a_search_without_time_for_all_ends_with_what_it_has_found() -> None:
    network, target_seconds = NETWORKS["heavy rows that gain nothing from batches"]

    found, device, space = found_on(network, target_seconds, budget=30)

    assert len(device.measured) == 30
    assert found.best is not None
    assert found.best.rows_per_second >= 0.8 * best_of_all(network, space, target_seconds)


def test_a_target_that_nothing_meets_ends_with_the_fastest() -> None:
    network = Network(0.050, 0.001, 0.5, 8)

    found, _, space = found_on(network, 0.010)

    assert found.best is None
    fastest = min(simulate(network, setting, 1)[1] for setting in space.settings)
    assert found.front[0].p99_seconds == pytest.approx(fastest, rel=0.01)


def test_the_best_is_measured_at_length_before_it_is_chosen() -> None:
    class Noisy(SimulatedDevice):
        """Is lucky with what it measures briefly."""

        def measure(self, setting: Setting, load: int, *, is_long: bool = False) -> Reading:
            reading = super().measure(setting, load)
            return reading if not is_long else replace(reading, p99_seconds=reading.p99_seconds * 1.1)

    network, target_seconds = NETWORKS["large, and threads share it well"]
    space = space_for(NUM_CORES, network.max_batch_size, target_seconds)

    found = search(Noisy(network), space, target_seconds)

    assert found.best is not None
    assert simulate(network, found.best.setting, found.best.load)[1] * 1.1 <= target_seconds


def test_the_front_has_no_reading_that_another_beats() -> None:
    setting = Setting(1, 1, 8, 0.0)
    readings = [Reading(setting, 1, *each) for each in ((100.0, 0.01), (90.0, 0.02), (300.0, 0.03), (301.0, 0.04))]

    assert pareto([*readings, Reading(setting, 1, 400.0, float("inf"))]) == [readings[0], readings[2]]


def test_the_threads_of_all_instances_are_no_more_than_the_cores() -> None:
    assert space_for(2, 6, 0.02) == Space(((1, 1), (1, 2), (2, 1)), (6, 4, 2, 1), (0.0, 0.00125, 0.0025, 0.005, 0.01))
    assert space_for(2, 1, 0.02).windows_seconds == (0.0,)
    assert all(threads == 1 for _, threads in space_for(8, 6, 0.02, is_on_gpu=True).shapes)
