"""One budget of memory for all models: which versions stay loaded, and which give their memory back and are idle.

It measures what a load takes, and never takes memory from a version in use. Loading again is `live_repository.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec

from models.manifest import GOLDEN_FILE
from service.engine.repository.load_journal import Key
from service.engine.repository.repository import Fingerprint
from service.engine.repository.version import Version
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import free_memory, trim
from service.errors import MemoryShort
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

MIB = 2**20
# What the service needs beside its models: a share for bursts, and its processes without models, about as measured.
RESERVE_SHARE = 1 / 8
PROCESS_BYTES = 192 * MIB
# A version that was used a moment ago is in use, for at least as long as loading it again would take: otherwise models
# that take turns would do nothing but load.
IN_USE_SECONDS = 1.0
MAX_IN_USE_SECONDS = 10.0
# How long a load waits for versions in use to be idle.
ROOM_SECONDS = 5.0
POLL_SECONDS = 0.05
LOOK_SECONDS = 1.0
# Until a version has been measured: its files, once as they are and once packed, and threads and buffers.
COPIES = 2
OVERHEAD_BYTES = 8 * MIB


def default_budget_bytes(available_bytes: int, num_workers: int, num_engines: int = 1) -> int:
    """What models may take of the memory of a machine or a container, in all engines; at least a quarter."""
    reserve = int(available_bytes * RESERVE_SHARE) + (1 + num_engines + num_workers) * PROCESS_BYTES
    return max(available_bytes // 4, available_bytes - reserve)


def file_bytes(fingerprint: Fingerprint) -> int:
    """The size of a version's files that are kept in memory."""
    return sum(size for name, size, *_ in fingerprint if name != GOLDEN_FILE)


class Residency:
    """Keeps the loaded ones of `versions` within `budget_bytes`, the most recently used if they are too many.

    `measure` is the memory that the process takes now, of which it takes some before any model is loaded. `pinned`
    versions are never idle.
    """

    def __init__(
        self,
        versions: Mapping[Key, Version],
        pinned: Collection[Key],
        budget_bytes: int,
        metrics: Metrics,
        announce: Callable[[], None],
        measure: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self.budget_bytes = budget_bytes
        self._versions = versions
        self._pinned = pinned
        self._metrics = metrics
        self._announce = announce
        self._measure = measure
        self._clock = clock
        self._base_bytes = measure()
        self._known: dict[Key, int] = {}
        self._guessed_bytes = self._grown_bytes = 0
        self._is_loading = False
        metrics.max_model_memory_bytes.set(budget_bytes)

    @property
    def used_bytes(self) -> int:
        """What the models take: by what was measured when they were loaded, or more, as they have grown since."""
        return max(self._loaded_bytes, self._measure() - self._base_bytes)

    @property
    def _loaded_bytes(self) -> int:
        return sum(version.status.memory_bytes for version in self._versions.values() if version.is_loaded)

    def expected_bytes(self, key: Key, fingerprint: Fingerprint) -> int:
        """What a load will take: as measured before, or else by the size of the files, as that of others turned out."""
        if key in self._known:
            return self._known[key]
        ratio = self._grown_bytes / self._guessed_bytes if self._guessed_bytes else 1.0
        return int(_guess(fingerprint) * max(ratio, 1.0))

    def has_room(self, num_bytes: int) -> bool:
        """Whether so much can be loaded while all that is loaded stays."""
        return self.used_bytes + num_bytes <= self.budget_bytes

    # --- loads ---

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Take nothing back meanwhile: what a load takes is being measured, and it takes more than it keeps."""
        self._is_loading = True
        try:
            yield
        finally:
            self._is_loading = False

    async def make_room(self, key: Key, fingerprint: Fingerprint, until: float) -> None:
        """Free what a load will take, from versions that are not in use; wait for them as long as may be.

        Raises: VersionRejected where it takes more than there ever is, MemoryShort.
        """
        self._check(self._known.get(key, file_bytes(fingerprint)))
        num_bytes = self.expected_bytes(key, fingerprint)
        while not self.has_room(num_bytes):
            if victims := self._victims(num_bytes):
                await self._give_back(victims, "memory")
            elif not self._loaded_bytes or self._loaded_bytes + num_bytes <= self.budget_bytes:
                return  # what the process keeps beside the models will not become less
            elif self._clock() >= until:
                raise self._short(key, num_bytes)
            else:
                await asyncio.sleep(POLL_SECONDS)

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self.budget_bytes:
            raise VersionRejected(
                f"it takes {num_bytes / MIB:.0f} MiB of memory; all models together may take "
                f"{self.budget_bytes / MIB:.0f} MiB (--model-memory-bytes)."
            )

    def _short(self, key: Key, num_bytes: int) -> MemoryShort:
        return MemoryShort(
            f"{key[0]}@{key[1]} needs {num_bytes / MIB:.0f} MiB to be loaded, and the models in use leave "
            f"{max(self.budget_bytes - self.used_bytes, 0) / MIB:.0f} of {self.budget_bytes / MIB:.0f} MiB.",
            retry_after_seconds=IN_USE_SECONDS,
        )

    async def measured(self, before_bytes: int, version: Version, fingerprint: Fingerprint) -> None:
        """Note what a load took, of a process that took `before_bytes`, and that the version is in use now.

        Raises: VersionRejected where it takes more than there is; the version is closed.
        """
        await asyncio.to_thread(trim)
        key = (version.status.name, version.status.version)
        grown = max(self._measure() - before_bytes, file_bytes(fingerprint))
        if key not in self._known:
            self._guessed_bytes += _guess(fingerprint)
            self._grown_bytes += grown
        # What others left behind when they gave theirs back makes the growth less than what was taken.
        self._known[key] = num_bytes = max(grown, self._known.get(key, 0))
        try:
            self._check(grown)
        except VersionRejected:
            version.close()
            await asyncio.to_thread(free_memory)
            raise
        version.status = msgspec.structs.replace(version.status, memory_bytes=num_bytes)
        version.used_at = self._clock()
        self._metrics.model_memory_bytes.labels(*key).set(num_bytes)
        self._metrics.loads.labels(*key).inc()

    def forget(self, key: Key) -> None:
        """Note that a version was unloaded, and that the next one of its name may be another."""
        self._known.pop(key, None)
        self._metrics.model_memory_bytes.labels(*key).set(0)

    # --- giving back ---

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Have versions that were not used for too long give their memory back, and others if there is too little."""
        if self._is_loading:
            return
        now = self._clock()
        unused = []
        for version in self._loaded():
            if not version.is_idle:
                version.used_at = now
            elif version.idle_unload_seconds and now - version.used_at >= version.idle_unload_seconds:
                unused.append(version)
        if unused:
            await self._give_back(unused, "idle")
        await self.relieve()

    async def relieve(self) -> None:
        """Have versions give their memory back if all take more than they may: one has grown, or was guessed too low.

        The last that was used stays in any case: it may not be the models that have grown.
        """
        latest = max((version.used_at for version in self._loaded()), default=0.0)
        if not self.has_room(0):
            victims = [version for version in self._victims(0) if version.used_at < latest]
            if victims:
                await self._give_back(victims, "memory")

    def _loaded(self) -> list[Version]:
        """The versions that could give memory back."""
        return [
            version
            for key, version in self._versions.items()
            if version.is_loaded and version.status.state == "ready" and key not in self._pinned
        ]

    def _victims(self, num_bytes: int) -> list[Version]:
        """The least recently used versions that make room for so much, as far as there are any not in use."""
        now, missing = self._clock(), self.used_bytes + num_bytes - self.budget_bytes
        victims = []
        for version in sorted(self._loaded(), key=lambda version: version.used_at):
            if missing > 0 and not _is_in_use(version, now):
                victims.append(version)
                missing -= max(version.status.memory_bytes, 1)
        return victims

    async def _give_back(self, versions: Sequence[Version], reason: str) -> None:
        for version in versions:
            status = version.describe()
            why = "unused" if reason == "idle" else "others needed its memory"
            version.close()
            version.status = msgspec.structs.replace(status, state="idle", reason=why, memory_bytes=0)
            name, number = status.name, status.version
            self._metrics.set_model_state(name, number, "idle")
            self._metrics.model_memory_bytes.labels(name, number).set(0)
            self._metrics.idle_unloads.labels(name, number, reason).inc()
            log.info("a model gives its memory back", extra={"model": name, "version": number, "reason": why})
        self._announce()
        await asyncio.to_thread(free_memory)


def _guess(fingerprint: Fingerprint) -> int:
    return COPIES * file_bytes(fingerprint) + OVERHEAD_BYTES


def _is_in_use(version: Version, now: float) -> bool:
    load_seconds = min(version.status.load_seconds, MAX_IN_USE_SECONDS)
    return not version.is_idle or now - version.used_at < max(IN_USE_SECONDS, load_seconds)
