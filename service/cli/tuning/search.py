"""Which settings to measure, and which to choose: coordinate descent over what a model can be served with.

It knows neither services nor clocks: a device is whatever measures a setting under a load. Loads rise in steps of about
1.4; a load is a number of callers, or the pace of a recorded traffic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol

LOADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
FIRST_LOAD = 8
LOADS_A_PACE = 8
"""A recorded traffic is replayed at this part of the load: from an eighth of its pace to sixteen times as fast."""
WINDOWS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""The windows that are tried, as shares of the target."""
MIN_GAIN = 1.01
"""A load that yields less than this times the rate of the one below only keeps its callers waiting."""
MAX_STALLS = 2
"""So many loads without a gain end a climb: one may have been measured at a bad moment."""
MAX_ROUNDS = 3
NUM_CONFIRMED = 3


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What a model is served with, as `config.toml` says it."""

    instances: int
    threads: int
    max_batch_size: int
    max_queue_delay_seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a setting was measured at under a load."""

    setting: Setting
    load: int
    rows_per_second: float
    p99_seconds: float


class Device(Protocol):
    """What settings are measured on."""

    def measure(self, setting: Setting, load: int, *, is_long: bool = False) -> Reading:
        """Serve with a setting under a load; `is_long`: for a figure to rely on."""

    def has_time(self, *, for_search: bool) -> bool:
        """Whether another measurement may begin: of the search, or of the confirmation that follows it."""


@dataclass(frozen=True, slots=True)
class Space:
    """All settings that may be chosen: instances with threads, largest batches, windows in seconds."""

    shapes: tuple[tuple[int, int], ...]
    batch_sizes: tuple[int, ...]
    windows_seconds: tuple[float, ...]

    @property
    def settings(self) -> Iterator[Setting]:
        """Each of them."""
        for (instances, threads), size, window in product(self.shapes, self.batch_sizes, self.windows_seconds):
            yield Setting(instances, threads, size, window)

    def neighbours(self, setting: Setting) -> Iterator[Setting]:
        """Those that differ in one respect; then those that differ in their shape and by a step in the batch."""
        for instances, threads in self.shapes:
            yield replace(setting, instances=instances, threads=threads)
        for size in self.batch_sizes:
            yield replace(setting, max_batch_size=size)
        for window in self.windows_seconds:
            yield replace(setting, max_queue_delay_seconds=window)
        place = self.batch_sizes.index(setting.max_batch_size)
        for (instances, threads), size in product(self.shapes, self.batch_sizes[max(place - 1, 0) : place + 2]):
            yield replace(setting, instances=instances, threads=threads, max_batch_size=size)


def space_for(num_cores: int, max_batch_size: int, target_seconds: float, *, is_on_gpu: bool = False) -> Space:
    """The settings for a machine and a model; the threads of all instances are no more than the cores."""
    powers = _powers(num_cores)
    shapes = [(instances, threads) for instances in powers for threads in powers if instances * threads <= num_cores]
    if is_on_gpu:  # instances there overlap copies with computing; threads do not matter
        shapes = [(instances, 1) for instances in (1, 2, 4)]
    sizes = tuple(reversed(_powers(max_batch_size)))
    windows = tuple(round(share * target_seconds, 6) for share in WINDOWS) if max_batch_size > 1 else (0.0,)
    return Space(tuple(shapes), sizes, windows)


def _powers(most: int) -> tuple[int, ...]:
    """The powers of two up to a number, and the number."""
    return tuple(sorted({2**n for n in range(most.bit_length()) if 2**n <= most} | {most}))


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: the setting that serves most within the target, if any does, and all that was measured."""

    best: Reading | None
    readings: tuple[Reading, ...]

    @property
    def front(self) -> list[Reading]:
        """The readings than which none is both faster and serves more, from the fastest on."""
        return pareto(self.readings)


def pareto(readings: Iterable[Reading]) -> list[Reading]:
    """The readings than which none is both faster and serves more, from the fastest on."""
    front: list[Reading] = []
    for reading in sorted(readings, key=lambda each: (each.p99_seconds, -each.rows_per_second)):
        if math.isfinite(reading.p99_seconds) and (
            not front or reading.rows_per_second > front[-1].rows_per_second * MIN_GAIN
        ):
            front.append(reading)
    return front


def search(device: Device, space: Space, target_seconds: float) -> Found:
    """Find the setting that serves most rows a second with a p99 within the target.

    From the largest batch without a window on, it changes one thing at a time for as long as that helps. Each setting
    is first measured under the load that the best one stands: as a higher load never serves less, one that misses the
    target there and serves less is worse at any load. The best are measured once more, at length.
    """
    return _Search(device, space, target_seconds).run()


class _Search:
    def __init__(self, device: Device, space: Space, target_seconds: float) -> None:
        self._device = device
        self._space = space
        self._target_seconds = target_seconds
        self._readings: dict[tuple[Setting, int], Reading] = {}
        self._tried: set[Setting] = set()
        self._best: Reading | None = None

    def run(self) -> Found:
        shape = max(self._space.shapes, key=lambda shape: (shape[0] * shape[1], shape[1]))
        self._try(Setting(*shape, self._space.batch_sizes[0], 0.0))
        for _ in range(MAX_ROUNDS):
            before = self._best
            self._improve()
            if self._best is before or not self._device.has_time(for_search=True):
                break
        confirmed = self._confirm()
        meeting = [reading for reading in confirmed if self._meets(reading)]
        best = max(meeting, key=lambda each: each.rows_per_second, default=None)
        # A figure that was taken at length stands for the one that was not.
        readings = self._readings | {(reading.setting, reading.load): reading for reading in confirmed}
        return Found(best, tuple(readings.values()))

    def _improve(self) -> None:
        assert self._best is not None
        before = None
        while before is not self._best:
            before = self._best
            for setting in self._space.neighbours(before.setting):
                if not self._device.has_time(for_search=True):
                    return
                if setting not in self._tried:
                    self._try(setting)

    def _meets(self, reading: Reading) -> bool:
        return reading.p99_seconds <= self._target_seconds

    def _key(self, reading: Reading) -> tuple[bool, float]:
        meets = self._meets(reading)
        return meets, reading.rows_per_second if meets else -reading.p99_seconds

    def _measure(self, setting: Setting, place: int) -> Reading:
        key = (setting, LOADS[place])
        if key not in self._readings:
            self._readings[key] = self._device.measure(*key)
        reading = self._readings[key]
        if self._best is None or self._key(reading) > self._key(self._best):
            self._best = reading
        return reading

    def _try(self, setting: Setting) -> None:
        """Measure a setting under the load that the best one stands, then under others while it may be better."""
        self._tried.add(setting)
        place = LOADS.index(self._best.load if self._best is not None else FIRST_LOAD)
        reading = self._measure(setting, place)
        if self._meets(reading):
            self._climb(reading, place)
        else:
            self._descend(reading, place)

    def _climb(self, reading: Reading, place: int) -> None:
        most, num_stalls = reading.rows_per_second, 0
        while num_stalls < MAX_STALLS and place + 1 < len(LOADS) and self._device.has_time(for_search=True):
            place += 1
            higher = self._measure(reading.setting, place)
            if not self._meets(higher):
                return
            num_stalls = 0 if higher.rows_per_second >= MIN_GAIN * most else num_stalls + 1
            most = max(most, higher.rows_per_second)

    def _descend(self, reading: Reading, place: int) -> None:
        assert self._best is not None
        while place > 0 and not self._meets(reading) and self._device.has_time(for_search=True):
            if self._meets(self._best) and reading.rows_per_second <= self._best.rows_per_second:
                return
            place -= 1
            reading = self._measure(reading.setting, place)

    def _confirm(self) -> list[Reading]:
        """The best setting's readings and its rivals', taken at length, until enough of them meet the target."""
        confirmed: list[Reading] = []
        settled: set[Setting] = set()
        meeting = [reading for reading in self._readings.values() if self._meets(reading)]
        for reading in sorted(meeting, key=lambda each: each.rows_per_second, reverse=True):
            if len(settled) >= NUM_CONFIRMED or (confirmed and not self._device.has_time(for_search=False)):
                break
            if reading.setting in settled:
                continue
            confirmed.append(self._device.measure(reading.setting, reading.load, is_long=True))
            if self._meets(confirmed[-1]):
                settled.add(reading.setting)
        return confirmed
