"""The engine process: `python -m service.engine.worker`, started by the supervisor.

It reads its settings as one JSON line from standard input and lives until that input ends, so that no engine outlives
its supervisor, however that died. It listens on a Unix socket and hands messages to the engine.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import cast

import uvloop

from service.engine.engine import Engine
from service.engine.repository.repository import FoundModel, find_models
from service.engine.repository.watching import follow
from service.engine.runtime.runtime import choose_device
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.messages import FrameError, FrameReader
from service.errors import StartupError
from service.processes.launch import EXIT_STARTUP, Launch, end_with_parent, read_launch, run_until_stopped
from service.settings import Settings
from service.telemetry.logs import configure_logging
from service.telemetry.metrics import Metrics, report_memory

log = logging.getLogger(__name__)


class PeerConnection(asyncio.Protocol):
    """One API process's connection: bytes to messages; the answers of a batch leave in one write."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = FrameReader()
        self._transport: CoalescingTransport | None = None
        self._peer: ApiConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce the peer to the engine."""
        loop = asyncio.get_running_loop()
        self._transport = CoalescingTransport(cast(asyncio.Transport, transport), loop)
        self._peer = self._engine.connect(self._transport.write)

    def data_received(self, data: bytes) -> None:
        """Hand every complete message to the engine."""
        assert self._peer is not None
        assert self._transport is not None
        try:
            for message, payload in self._reader.feed(data):
                self._engine.handle(self._peer, message, payload)
        except FrameError:
            log.exception("an API process sent a broken frame")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop all that the peer waited for."""
        if self._peer is not None:
            self._engine.disconnect(self._peer)


async def serve(launch: Launch, metrics: Metrics) -> None:
    """Listen, load, and serve until told to stop."""
    settings = launch.settings
    wanted = find_models(settings.repositories, settings.wanted_models)
    if not wanted and settings.model_control == "none":
        places = ", ".join(repr(str(repository)) for repository in settings.repositories)
        raise StartupError(f"The model repository {places} holds no model.")
    if settings.model_control == "explicit" and not settings.wanted_models:
        wanted = {}
    engine = Engine(settings, choose_device(settings.device), metrics)
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: PeerConnection(engine), launch.engine_socket)
    Path(launch.engine_socket).chmod(0o600)
    async with server:
        reports = [asyncio.create_task(report_memory(metrics, "engine"))]
        if engine.device.is_cuda:
            # Only now: who computes on a CPU does without the library.
            from service.telemetry.gpu_metrics import report_gpu

            reports.append(asyncio.create_task(report_gpu(metrics, engine.device.index)))
        loading = asyncio.create_task(_load(engine, wanted, settings))
        await run_until_stopped(loading)
        for task in (*reports, loading):
            task.cancel()


async def _load(engine: Engine, wanted: dict[str, FoundModel], settings: Settings) -> None:
    await engine.load(wanted)
    if settings.model_control == "poll":
        await follow(settings.repositories, engine.repository.reconcile)


def main() -> None:
    """Run the engine process."""
    from prometheus_client import CollectorRegistry

    launch = read_launch()
    configure_logging(launch.settings, "engine")
    end_with_parent()
    try:
        uvloop.run(serve(launch, Metrics(CollectorRegistry())))
    except StartupError as error:
        log.critical("%s", error)
        sys.exit(EXIT_STARTUP)


if __name__ == "__main__":
    main()
