"""Loads, replaces and unloads versions while requests run: a new version is ready before the old one drains.

It owns the versions and the order of these events. Files are found by `repository.py` and loaded by `loading.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
from watchfiles import awatch

from models.config import MAX_THREADS, ModelConfig, parse_config, read_config
from models.manifest import read_manifest
from models.strict import StrictError
from service.background import Background, Backoff
from service.engine.device_turns import DeviceTurns
from service.engine.repository.ceilings import check_config
from service.engine.repository.default_versions import DefaultVersions, wanted_default
from service.engine.repository.load_journal import Key, LoadJournal, digest_of
from service.engine.repository.loading import LoadedVersion, Plan, load_version
from service.engine.repository.repository import (
    Fault,
    Fingerprint,
    FoundModel,
    fingerprint_of,
    identity_of,
    repository_of,
    scan,
)
from service.engine.repository.residency import ROOM_SECONDS, Residency, default_budget_bytes
from service.engine.repository.version import Version, drain, listed_status, open_version
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import Device, available_cpus, available_memory_bytes
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import ModelStatus
from service.errors import (
    InvalidParameter,
    MemoryShort,
    ModelFailed,
    ServiceError,
    StartupError,
    Unavailable,
    UnknownModel,
)
from service.settings import Settings
from service.telemetry.metrics import Metrics, private_bytes

log = logging.getLogger(__name__)

# A copy in progress changes files repeatedly: the callback waits until nothing has changed for this long.
QUIET_MS = 200
MAX_WAIT_MS = 1600
# Network file systems do not report the changes of other machines.
TIMER_MS = 30_000
FIRST_RECOVERY_SECONDS = 1.0
MAX_RECOVERY_SECONDS = 30.0
MAX_RECOVERIES = 6


class LiveRepository:
    """The versions that are served, and those that could be; `announce` is called on every change.

    `journal` outlives this process, as a load may end it.
    """

    def __init__(
        self,
        settings: Settings,
        device: Device,
        metrics: Metrics,
        announce: Callable[[], None],
        connections: Collection[ApiConnection],
        journal: LoadJournal,
    ) -> None:
        self._settings = settings
        self._device = device
        self._metrics = metrics
        self._announce = announce
        self._connections = connections
        self._journal = journal
        self._faults: tuple[Fault, ...] = ()
        self._loop = asyncio.get_running_loop()
        self._turns = DeviceTurns(MAX_THREADS if device.is_cuda else available_cpus(), monotonic)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loading = asyncio.Lock()  # a load measures times, which another must not disturb
        self._draining: dict[Key, asyncio.Task[None]] = {}
        self._background = Background()
        self.versions: dict[Key, Version] = {}
        splits = (*settings.shadow_splits, *settings.canary_splits)
        self.defaults = DefaultVersions(self.versions, {(split.model, split.version) for split in splits})
        # Nobody asks for a shadow: what it compares would end with its first unload.
        self._pinned = {(split.model, split.version) for split in settings.shadow_splits}
        num_engines = len(settings.devices)
        budget_bytes = settings.model_memory_bytes or default_budget_bytes(
            available_memory_bytes(), settings.workers, num_engines
        )
        self.residency = Residency(
            self.versions, self._pinned, budget_bytes // num_engines, metrics, announce, private_bytes, self._loop.time
        )
        self._is_recovering = False

    # --- requests ---

    async def start(self, models: dict[str, FoundModel]) -> None:
        """Load these models, or what the last engine served on request; under explicit control, list the others."""
        found = await self._scan()
        if self._journal.is_first:
            self._journal.serve(*models)
        elif self._settings.model_control == "explicit":
            models = {name: found[name] for name in self._journal.served if name in found}
        elif self._settings.model_control == "poll":  # what is wanted is what is there
            for name in self._journal.served.keys() - found.keys():
                self._journal.drop(name)
        for model in models.values():
            self._set(Version(self._status(model.versions[0], "loading")))
        for name, model in models.items():
            async with self._locks[name]:
                try:
                    await self._apply(model, self._journal.served.get(name, ""), retries=False)
                except InvalidParameter as error:  # the versions that the request named are gone
                    self._reject_model(model, error.message, retries=False)
        await self.refresh()

    async def recover(self) -> None:
        """Load what an earlier engine served and this one could not, until all of it is served again.

        Its files may be away for a moment, or for long. What was loaded in vain some times must change first.
        """
        if self._is_recovering:
            return
        self._is_recovering = True
        try:
            await self._recover_lost()
        finally:
            self._is_recovering = False

    async def _recover_lost(self) -> None:
        backoff, num_tries = Backoff(FIRST_RECOVERY_SECONDS, MAX_RECOVERY_SECONDS), 0
        while lost := self._lost():
            await asyncio.sleep(backoff.pause_seconds())
            num_tries += 1
            with contextlib.suppress(Unavailable):
                found = await self._scan()
                for name in lost & found.keys():
                    async with self._locks[name]:
                        await self._recover(found[name], retries=num_tries < MAX_RECOVERIES)

    async def _recover(self, model: FoundModel, *, retries: bool) -> None:
        if model.name in self._lost():
            with contextlib.suppress(StartupError, InvalidParameter, MemoryShort):  # its state and reason say it
                await self._apply(model, self._journal.served[model.name], retries=retries)

    def _lost(self) -> set[str]:
        """The models that were served and are not, except those whose load ended an engine."""
        served = {name for (name, _), version in self.versions.items() if version.is_served}
        deadly = {key[0] for key in self.versions if self._journal.ended(key)}
        return self._journal.proven - served - deadly

    async def load(self, name: str, config: str = "") -> None:
        """Load the versions that the model's policy names, even if they failed before.

        Raises: UnknownModel, InvalidParameter, MemoryShort, ModelFailed, Unavailable.
        """
        self._require_control()
        model = (await self._scan()).get(name)
        if model is None:
            raise self._unknown(name)
        async with self._locks[name]:
            try:
                problems = await self._apply(model, config, retries=True)
            except StartupError as error:
                raise ModelFailed(str(error)) from error
            if problems:
                served = [version for (each, version), v in self.versions.items() if each == name and v.is_served]
                still = f" Still served: {', '.join(served)}." if served else ""
                raise ModelFailed(f"{name!r} was not loaded completely: {'; '.join(problems)}{still}")

    async def wake(self, key: Key) -> None:
        """Load a version that is idle, for a request; without effect where it is not idle any more.

        Raises: MemoryShort, ModelFailed.
        """
        until = self._loop.time() + ROOM_SECONDS
        async with self._locks[key[0]]:
            version = self.versions.get(key)
            if version is None or version.folder is None or version.status.state != "idle":
                return
            with contextlib.suppress(StartupError):  # it is this version's state and reason
                await self._ensure(version.folder, version.config, retries=True, until=until)
        if not self._is_loaded(key):
            # Its files may be away for a moment: whoever comes next should not find it failed for ever.
            self._background.start("to load a model again", self.recover())
            raise ModelFailed(f"{'@'.join(key)} could not be loaded again: {self.versions[key].status.reason}")

    async def unload(self, name: str) -> None:
        """Drain all versions of a model and free them.

        Raises: UnknownModel, Unavailable.
        """
        self._require_control()
        known = any(key[0] == name for key in self.versions)
        if not known and name not in await self._scan():
            raise self._unknown(name)
        async with self._locks[name]:
            self._journal.drop(name)
            await self._unload(name)
        await self.refresh()

    async def reconcile(self) -> None:
        """Follow the repositories: load what is new or changed, unload what is gone."""
        try:
            found = await self._scan()
        except Unavailable as error:
            log.error("a repository cannot be read; loaded models stay", extra={"reason": error.message})
            return
        names = self._settings.model_names
        for name in {name for name, _ in self.versions} - set(found):
            async with self._locks[name]:
                self._journal.drop(name)
                await self._unload(name)
            self._forget(name)
        for name, model in found.items():
            if not names or name in names:
                async with self._locks[name]:
                    with contextlib.suppress(StartupError):  # it is this version's state and reason
                        await self._apply(model, "", retries=False)

    async def refresh(self) -> None:
        """List every model that is not loaded as unavailable, and forget what is gone."""
        if self._settings.model_control != "explicit":
            return
        found = await self._scan()
        for key, version in list(self.versions.items()):
            if version.status.state == "unavailable" and key[0] not in found:
                del self.versions[key]
        known = {name for name, _ in self.versions}
        for name, model in found.items():
            if name not in known:
                self._list(model)
        self._announce()

    def release(self, connection: ApiConnection, key: Key | None = None) -> None:
        """Record that an API process will send no more requests to a version (to any, if it is gone)."""
        for each, version in self.versions.items():
            if key is None or each == key:
                version.holders.discard(connection)

    # --- loading ---

    def _require_control(self) -> None:
        if (mode := self._settings.model_control) != "explicit":
            raise Unavailable(
                f"Models are not loaded or unloaded on request: --model-control is {mode!r}, not 'explicit'."
            )

    async def _scan(self) -> dict[str, FoundModel]:
        """Look at the repositories; log the faults that are new, and announce them.

        Raises: Unavailable.
        """
        try:
            found = await asyncio.to_thread(scan, self._settings.repositories)
        except StartupError as error:
            raise Unavailable(str(error)) from error
        is_explicit = self._settings.model_control == "explicit"
        faults = found.faults_of(() if is_explicit else self._settings.model_names)
        for fault in faults:
            if fault not in self._faults:
                where = {"model": fault.model, "version": fault.version, "reason": fault.reason}
                log.warning("something in a repository cannot be served", extra=where)
        if faults != self._faults:
            self._faults = faults
            self._announce()
        return found.models

    def _unknown(self, name: str) -> ServiceError:
        """The error for a model that is not in the repository, or cannot be served as it is there."""
        if reasons := [fault.reason for fault in self._faults if fault.model == name]:
            return ModelFailed(f"{name!r} cannot be served: {' '.join(reasons)}")
        return UnknownModel(f"There is no model {name!r} in the repository.")

    def _list(self, model: FoundModel) -> None:
        """List a model that is not loaded; one whose load ended an engine has failed."""
        for folder in model.versions:
            if reason := self._journal.ended(identity_of(folder)):
                self._set(Version(self._status(folder, "failed", reason)))
                return
        is_lost = model.name in self._lost()
        state, reason = ("loading", "it is loaded again") if is_lost else ("unavailable", "not loaded")
        self._set(Version(self._status(model.versions[0], state, reason)))

    async def _apply(self, model: FoundModel, config_text: str, *, retries: bool) -> list[str]:
        """Serve what the policy names; whatever goes wrong, every version ends in a state.

        Raises: InvalidParameter where `config_text` is at fault, MemoryShort, StartupError.
        """
        try:
            problems = await self._serve_versions(model, config_text, retries=retries)
        except (InvalidParameter, MemoryShort, StartupError):
            raise
        except Exception as error:  # a defect must neither leave it loading for ever nor end what is served
            log.exception("a model could not be loaded")
            return self._reject_model(model, _unexpected(error), retries=retries)
        if any(key[0] == model.name and version.is_served for key, version in self.versions.items()):
            self._journal.serve(model.name, config=config_text, is_proven=True)
        return problems

    async def _serve_versions(self, model: FoundModel, config_text: str, *, retries: bool) -> list[str]:
        """Serve the versions that the policy names and drain the rest; return the reasons of those that failed."""
        try:
            config = parse_config(config_text) if config_text else await asyncio.to_thread(read_config, model.folder)
            check_config(config)
        except (StrictError, OSError) as error:
            if config_text:
                raise InvalidParameter(str(error)) from error
            return self._reject_model(model, str(error), retries=retries)
        wanted, fault = await asyncio.to_thread(wanted_default, model)
        beside = self.defaults.beside_policy(model, wanted)
        candidates = config.version_policy.candidates([identity_of(folder)[1] for folder in model.versions])
        if not candidates and config_text:
            raise InvalidParameter("The version_policy of the request names no version that exists.")
        names = {version for version in candidates if (model.name, version) not in self.defaults.splits}
        self._forget_stale(model, names | {identity_of(folder)[1] for folder in beside})
        if not names and not beside:
            return self._reject_model(model, "its version_policy names no version that exists.", retries=retries)
        ready = await self._ensure_beside(model, config, beside, wanted, fault, retries=retries)
        num_latest = 0
        for folder in model.versions:
            _, version = identity_of(folder)
            if version not in names or num_latest >= config.version_policy.most:
                continue
            if version not in ready:
                ready[version] = await self._ensure(folder, config, retries=retries)
            num_latest += ready[version]
        return self._settle(model.name, ready)

    async def _ensure_beside(
        self,
        model: FoundModel,
        config: ModelConfig,
        beside: Sequence[Path],
        wanted: str,
        fault: str,
        *,
        retries: bool,
    ) -> dict[str, bool]:
        """Load what is served beside the policy, the default first; return which versions are ready."""
        ready: dict[str, bool] = {}
        for folder in beside:
            _, version = identity_of(folder)
            ready[version] = await self._ensure(folder, config, retries=retries)
            if version == wanted:
                self._choose_default(model.name, wanted, fault)
        if not wanted:
            self._choose_default(model.name, wanted, fault)
        return ready

    def _settle(self, name: str, ready: dict[str, bool]) -> list[str]:
        """Drain the versions that are not served any more; return what is wrong with the others."""
        kept = [version for version, is_ready in ready.items() if is_ready]
        fault = self.defaults.fault_of(name)
        if fault and (default := self.defaults.chosen(name)):
            kept.append(default)
        if kept:
            self._drain_others(name, kept)
        statuses = [self.versions[name, version].status for version in ready]
        reasons = {status.version: status.reason for status in statuses if status.state != "idle"}
        problems = [f"version {version}: {reason}" for version, reason in reasons.items() if reason]
        return problems or ([fault] if fault else [])

    def _choose_default(self, name: str, wanted: str, fault: str) -> None:
        self.defaults.choose(name, wanted, fault)
        self._announce()

    def _forget_stale(self, model: FoundModel, names: set[str]) -> None:
        """Forget versions that are not loaded and either gone or not named any more."""
        existing = {identity_of(folder)[1] for folder in model.versions}
        for key, version in list(self.versions.items()):
            is_stale = key[1] not in existing or (version.status.state == "loading" and key[1] not in names)
            if key[0] == model.name and is_stale and not version.is_loaded and key not in self._draining:
                del self.versions[key]

    async def _ensure(self, folder: Path, config: ModelConfig, *, retries: bool, until: float = 0.0) -> bool:
        """Load a version if it is new or has changed; return whether it is served.

        It waits for memory until `until`. Without `retries`, it is listed as idle where others would have to give way.

        Raises: MemoryShort where it `retries`, StartupError.
        """
        key = identity_of(folder)
        if (draining := self._draining.get(key)) is not None:
            await draining
        fingerprint = await asyncio.to_thread(fingerprint_of, folder)
        old = self.versions.get(key)
        if old is not None and (old.fingerprint, old.config) == (fingerprint, config) and fingerprint:
            if old.is_loaded and not old.status.reason:
                return True
            if not retries:
                return old.is_served
        digest = digest_of(fingerprint, config)
        if not retries and (reason := self._journal.ended(key, digest)):
            self._reject(folder, reason, fingerprint, config)
            return self._is_loaded(key)
        async with self._loading:
            if not retries and await self._is_left_idle(folder, config, fingerprint):
                return True
            new = None
            if await self._make_room(folder, config, fingerprint, until, retries=retries):
                with self._journal.loading(key, digest), self.residency.loading():
                    is_same = old is not None and (old.fingerprint, old.config) == (fingerprint, config)
                    new = await self._load(folder, config, fingerprint, old.plan if old and is_same else None)
        if new is None:
            return old is not None and old.is_loaded
        self._set(new)
        if old is not None and old.is_loaded:
            self._track(key, drain(old, 0.0))
        await self.residency.relieve()
        return True

    async def _is_left_idle(self, folder: Path, config: ModelConfig, fingerprint: Fingerprint) -> bool:
        """List a version as idle where there is no room for it, and it says itself what it is."""
        key = identity_of(folder)
        has_room = self.residency.has_room(self.residency.expected_bytes(key, fingerprint))
        if has_room or key in self._pinned or self._is_loaded(key):
            return False
        try:
            manifest = await asyncio.to_thread(read_manifest, folder)
        except (StrictError, OSError):  # it has none, or loading it will say what is wrong
            return False
        status = listed_status(manifest, config, self._device, str(repository_of(folder)))
        self._set(Version(status, config, fingerprint, folder=folder))
        return True

    async def _make_room(
        self, folder: Path, config: ModelConfig, fingerprint: Fingerprint, until: float, *, retries: bool
    ) -> bool:
        """Free the memory that a version needs; one that gets none is rejected, or raises if it `retries`."""
        try:
            key, limit = identity_of(folder), until or self._loop.time() + ROOM_SECONDS
            await self.residency.make_room(key, fingerprint, limit)
        except (MemoryShort, VersionRejected) as error:
            if retries and isinstance(error, MemoryShort):
                raise
            self._reject(folder, str(error), fingerprint, config)
            return False
        return True

    async def _load(
        self, folder: Path, config: ModelConfig, fingerprint: Fingerprint, plan: Plan | None
    ) -> Version | None:
        key = identity_of(folder)
        if key not in self.versions or not self.versions[key].is_served:
            self._set(Version(self._status(folder, "loading"), config))
        before_bytes = private_bytes()
        try:
            loaded = await asyncio.to_thread(_load_in_thread, folder, self._settings, self._device, config, plan)
            call = self._loop.call_soon_threadsafe
            version = open_version(
                loaded, config, self._settings, self._device, self._metrics, self._loop, call, self._turns, folder
            )
            await self.residency.measured(before_bytes, version, fingerprint)
        except (VersionRejected, StartupError) as error:
            self._reject(folder, str(error), fingerprint, config)
            if isinstance(error, StartupError):
                raise
            return None
        except Exception as error:  # a defect must neither leave it loading for ever nor end what is served
            log.exception("a model version could not be loaded")
            self._reject(folder, _unexpected(error), fingerprint, config)
            return None
        version.fingerprint, version.on_change, version.folder = fingerprint, self._announce, folder
        version.status = msgspec.structs.replace(version.status, repository=str(repository_of(folder)))
        status = version.status
        log.info(
            "a model is ready",
            extra={
                "model": status.name,
                "version": status.version,
                "device": status.device,
                "instances": status.instances,
                "threads": status.threads,
                **_precision(status),
                "golden_error": "not verified" if status.golden_error is None else f"{status.golden_error:.2g}",
                "seconds": round(status.load_seconds, 2),
                "bytes": status.memory_bytes,
            },
        )
        return version

    def _reject_model(self, model: FoundModel, reason: str, *, retries: bool) -> list[str]:
        """Reject the newest version with what is wrong with its model; only once, unless `retries`."""
        known = self.versions.get(identity_of(model.versions[0]))
        if retries or known is None or not known.status.reason.endswith(reason):
            self._reject(model.versions[0], reason)
        return [reason]

    def _reject(
        self, folder: Path, reason: str, fingerprint: Fingerprint = (), config: ModelConfig | None = None
    ) -> None:
        """Record why a version cannot be loaded; what it would have replaced stays."""
        key = identity_of(folder)
        self._metrics.load_failures.labels(*key).inc()
        log.error("a model version was rejected", extra={"model": key[0], "version": key[1], "reason": reason})
        if self._is_loaded(key):
            old = self.versions[key]
            old.status = msgspec.structs.replace(old.status, reason=f"its change was not applied: {reason}")
            old.fingerprint, old.config = fingerprint, config or old.config
            self._announce()
            return
        config = config or ModelConfig()
        self._set(Version(self._status(folder, "failed", reason), config, fingerprint))

    # --- unloading ---

    def _drain_others(self, name: str, kept: Sequence[str]) -> None:
        """Drain the versions that are not served any more, in the background."""
        for key, version in list(self.versions.items()):
            if key[0] != name or key[1] in kept or key in self._draining:
                continue
            reason = f"version {', '.join(kept)} is served"
            if version.is_loaded:
                self._track(key, self._drain(key, reason))
            elif version.is_served:
                self._set(Version(msgspec.structs.replace(version.status, state="unavailable", reason=reason)))

    async def _unload(self, name: str) -> None:
        for key, version in list(self.versions.items()):
            if key[0] != name:
                continue
            if (draining := self._draining.get(key)) is not None:
                await draining
            if self._is_loaded(key):
                await self._drain(key, "unloaded")
            else:
                self._set(Version(msgspec.structs.replace(version.status, state="unavailable", reason="unloaded")))

    async def _drain(self, key: Key, reason: str) -> None:
        version = self.versions[key]
        version.holders = set(self._connections)
        version.status = msgspec.structs.replace(version.status, state="unloading", reason="")
        self._set(version)
        await drain(version, self._settings.grace_seconds)
        status = version.status
        self.residency.forget(key)
        self._set(Version(ModelStatus(*key, "unavailable", reason, repository=status.repository)))
        log.info("a model version was unloaded", extra={"model": key[0], "version": key[1], "reason": reason})

    def _track(self, key: Key, draining: Coroutine[Any, Any, None]) -> None:
        task = self._draining[key] = self._background.start(f"draining {key[0]}@{key[1]}", draining)
        task.add_done_callback(lambda _: self._draining.pop(key, None))

    def _forget(self, name: str) -> None:
        self.defaults.forget(name)
        for key in [key for key in self.versions if key[0] == name]:
            del self.versions[key]
        self._announce()

    # --- states ---

    def _is_loaded(self, key: Key) -> bool:
        return key in self.versions and self.versions[key].is_loaded

    def _status(self, folder: Path, state: str, reason: str = "") -> ModelStatus:
        return ModelStatus(*identity_of(folder), state, reason, repository=str(repository_of(folder)))

    def describe(self) -> tuple[ModelStatus, ...]:
        """Every version with its statistics, then the faults of the repositories, as versions that failed.

        A default that could not be replaced says why.
        """
        served, defaults = self._journal.served, {name: self.defaults.of(name) for name, _ in self.versions}
        known = []
        for (name, _), version in self.versions.items():
            status, is_default = version.describe(), version is defaults[name]
            reason = status.reason or (self.defaults.fault_of(name) if is_default else "")
            known.append(
                msgspec.structs.replace(status, is_required=name in served, is_default=is_default, reason=reason)
            )
        faults = [
            ModelStatus(fault.model, fault.version, "failed", fault.reason, is_required=False)
            for fault in self._faults
            if not self._is_loaded((fault.model, fault.version))
        ]
        missing = [
            ModelStatus(name, "", "loading", "its files are in no model repository now; it is loaded once they are.")
            for name in sorted(self._journal.proven - {name for name, _ in self.versions})
        ]
        return (*known, *faults, *missing)

    def _set(self, version: Version) -> None:
        status = version.status
        self.versions[status.name, status.version] = version
        self._metrics.set_model_state(status.name, status.version, status.state)
        self._announce()


class _LoadDefect(Exception):
    """Loading failed unexpectedly; its cause may be anything."""


def _precision(status: ModelStatus) -> dict[str, str]:
    """What the log says of the precision that serves a version with variants."""
    served = status.precision
    return {"precision": served.precision, "why": served.reason} if served.precision else {}


def _load_in_thread(
    folder: Path, settings: Settings, device: Device, config: ModelConfig, plan: Plan | None
) -> LoadedVersion:
    """Load a version.

    Raises: VersionRejected, StartupError, _LoadDefect.
    """
    try:
        return load_version(folder, settings, device, config, plan)
    except (VersionRejected, StartupError):
        raise
    except MemoryError as error:
        raise VersionRejected("there is not enough memory to load it.") from error
    except BaseException as error:  # StopIteration cannot pass a future, which would wait for ever
        raise _LoadDefect from error


def _unexpected(error: Exception) -> str:
    return f"loading it failed unexpectedly ({type(error.__cause__ or error).__name__}); the log says why."


async def follow(repositories: Sequence[Path], changed: Callable[[], Awaitable[None]]) -> None:
    """Call back after every change below the repositories, and now and then without one, until cancelled."""
    changes = awatch(
        *repositories,
        debounce=MAX_WAIT_MS,
        step=QUIET_MS,
        rust_timeout=TIMER_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    async for _ in changes:
        try:
            await changed()
        except Exception:  # the next change may succeed
            log.exception("the repositories could not be followed")
