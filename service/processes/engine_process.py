"""The engine process: `python -m service.processes.engine_process`, started by the supervisor.

It reads its settings as one JSON line from standard input and lives until that input ends, so that no engine outlives
its supervisor. It listens on a Unix socket, loads the models and serves them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from time import monotonic

import uvloop
from prometheus_client import CollectorRegistry

from models.manifest import read_manifest
from models.strict import StrictError
from service.background import Background
from service.engine.compute_watch import until_hung
from service.engine.engine import Engine, EngineProtocol
from service.engine.quarantine import TrialJournal
from service.engine.repository.live_repository import follow
from service.engine.repository.load_journal import LoadJournal
from service.engine.repository.repository import FoundModel, find_models, identity_of, no_model, scan
from service.engine.runtime.runtime import claim_device
from service.errors import StartupError
from service.processes.heartbeat import Heartbeat, interval_seconds
from service.processes.launch import (
    EXIT_HUNG,
    EXIT_STARTUP,
    Launch,
    end_with_parent,
    read_launch,
    run_until_stopped,
    settle,
)
from service.settings import Settings
from service.telemetry.gathering import sharing
from service.telemetry.logs import configure_logging
from service.telemetry.metrics import Metrics, report_memory

log = logging.getLogger(__name__)

LOADS, TRIALS = "loads", "trials"


async def serve(launch: Launch, metrics: Metrics) -> None:
    """Listen, load the models, and serve until the process is told to stop."""
    settings, device = launch.settings, claim_device(launch.settings.devices, launch.engine)
    models = _models_to_load(settings)
    check_splits(settings)
    heartbeat = Heartbeat(launch.heartbeat_fd, settings.hang_seconds)
    left, keep = launch.notes, heartbeat.keep
    journal = LoadJournal(left.get(LOADS, ""), partial(keep, LOADS), _ending(launch.last_status))
    trials = TrialJournal(
        left.get(TRIALS, ""), partial(keep, TRIALS), launch.last_status, is_explained=journal.blames_load
    )
    engine = Engine(settings, device, metrics, journal, trials)
    loop = asyncio.get_running_loop()
    address = launch.engine_sockets[launch.engine]
    server = await loop.create_unix_server(lambda: EngineProtocol(engine), address)
    Path(address).chmod(0o600)
    async with server, sharing(metrics, launch.figures_fd), Background() as background:
        background.keep("heartbeat", heartbeat.run)
        background.keep("watch of the compute threads", lambda: _end_when_hung(engine, journal, settings.hang_seconds))
        background.keep("memory report", lambda: report_memory(metrics, "engine"))
        background.keep("memory of the models", engine.repository.residency.run)
        if engine.device.is_cuda:
            # Imported here, so that an engine on a CPU does without NVML.
            from service.telemetry.gpu_metrics import report_gpu

            background.keep("GPU report", lambda: report_gpu(metrics, engine.device.index))
        await run_until_stopped(_load(engine, models, settings, heartbeat))


async def _end_when_hung(engine: Engine, journal: LoadJournal, hang_seconds: float) -> None:
    """End the process, to be replaced, once one of its compute threads is hung: no call stops such a thread."""
    thread, work = await until_hung(engine.threads, hang_seconds, interval_seconds(hang_seconds))
    what = {"computing": thread.name, "seconds": round(monotonic() - work.began_at, 3)}
    reason = "it uses no processor" if work.idle_seconds > work.overdue_seconds else "every deadline has passed"
    log.error("a thread that computes is hung and the engine ends", extra=what | {"reason": reason})
    journal.acquit()
    os._exit(EXIT_HUNG)


def _ending(status: int | None) -> str:
    """How the last engine ended, as a part of a sentence."""
    if status is None or status >= 0:
        return "" if status is None else f" (exit status {status})"
    hint = ", as when memory runs out" if -status == signal.SIGKILL else ""
    return f" (signal {-status}{hint})"


def _models_to_load(settings: Settings) -> dict[str, FoundModel]:
    models = find_models(settings.repositories, settings.model_names)
    if not models and settings.model_control == "none":
        raise no_model(settings.repositories, scan(settings.repositories).faults)
    return {} if settings.model_control == "explicit" and not settings.model_names else models


def check_splits(settings: Settings) -> None:
    """Check that shadows and canaries are there, unless they may come later, and that no shadow writes texts."""
    found = find_models(settings.repositories) if settings.shadow or settings.canary else {}
    for option, splits in (("--shadow", settings.shadow_splits), ("--canary", settings.canary_splits)):
        for split in splits:
            model = found.get(split.model)
            folders = {identity_of(folder)[1]: folder for folder in model.versions} if model is not None else {}
            if split.version in folders:
                if option == "--shadow" and _writes_text(folders[split.version]):
                    raise StartupError(f"{option} {split.reference} is a language model; their texts are not compared.")
                continue
            there = f"it has {sorted(folders, key=int)}" if folders else f"there are {sorted(found)}"
            reason = f"{option} {split.reference} is in no model repository; {there}."
            if settings.model_control == "none":
                raise StartupError(reason)
            log.warning("%s It is used once it comes.", reason)


def _writes_text(version: Path) -> bool:
    try:
        return read_manifest(version).task == "text-generation"
    except (StrictError, OSError):  # a bare graph, or loading it will say what is wrong
        return False


async def _load(engine: Engine, models: dict[str, FoundModel], settings: Settings, heartbeat: Heartbeat) -> None:
    await engine.load(models)
    heartbeat.set_started()
    settle()
    if settings.model_control == "poll":
        await follow(settings.repositories, engine.repository.reconcile)
    else:
        await engine.repository.recover()


def main() -> None:
    """Run the engine process."""
    launch = read_launch()
    configure_logging(launch.settings, "engine")
    end_with_parent(Path(launch.engine_sockets[launch.engine]))
    try:
        uvloop.run(serve(launch, Metrics(CollectorRegistry())))
    except StartupError as error:
        log.critical("%s", error)
        sys.exit(EXIT_STARTUP)


if __name__ == "__main__":
    main()
