"""An API process: `python -m service.processes.api_process`, started by the supervisor.

It runs uvicorn on the inherited listening socket and a gRPC server beside it, and drains on SIGTERM. It knows no route.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from service.app import create_app, create_execution
from service.engine.transport.client import EngineClient
from service.errors import StartupError
from service.http.connection import Connection, connection_class
from service.http.middleware import Drain
from service.processes.launch import EXIT_STARTUP, Launch, end_with_parent, read_launch, settle
from service.protocols.open_inference.execution import Execution
from service.security import KeyRing
from service.settings import Settings
from service.telemetry.gathering import sharing
from service.telemetry.logs import configure_logging
from service.telemetry.metrics import Metrics, report_memory
from service.telemetry.tracing import Tracing, open_tracing

if TYPE_CHECKING:
    from service.protocols.open_inference.grpc.server import GrpcServer

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
TICK_SECONDS = 1.0


class ApiServer(uvicorn.Server):
    """uvicorn without its signal handling, for this process drains in its own order, and without ten ticks a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Stop serving."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Renew the date that answers carry each second; more often would only keep an idle machine awake."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


async def serve(launch: Launch) -> None:
    """Serve until SIGTERM, then drain."""
    settings, metrics, drain = launch.settings, Metrics(CollectorRegistry()), Drain()
    client = EngineClient(launch.engine_socket, settings)
    execution = create_execution(settings, client, metrics)
    keys = KeyRing(Path(settings.api_keys_file)) if settings.api_keys_file else None
    tracing = open_tracing(settings)
    app = create_app(settings, client, metrics, drain, execution, keys, tracing)
    config = uvicorn.Config(
        app.asgi,
        http=connection_class(settings, app.cycle, app.heads),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=2,
        backlog=2048,
    )
    server = ApiServer(config)
    settle()
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor decides
    connecting = asyncio.create_task(client.run())
    reporting = asyncio.create_task(report_memory(metrics, "api"))
    grpc_server = await _serve_grpc(launch, execution, metrics, drain, keys, tracing)
    draining = asyncio.create_task(_drain(stopping, server, grpc_server, drain, settings))
    async with sharing(metrics, launch.figures_fd):
        await server.serve(sockets=[socket.socket(fileno=launch.listen_fd)])
    for task in (connecting, reporting, draining):
        task.cancel()
    if tracing is not None:
        await tracing.close()


async def _serve_grpc(
    launch: Launch,
    execution: Execution,
    metrics: Metrics,
    drain: Drain,
    keys: KeyRing | None,
    tracing: Tracing | None,
) -> GrpcServer | None:
    if not launch.grpc_address:
        return None
    # Imported here: a service without gRPC saves the library's memory.
    from service.protocols.open_inference.grpc.server import GrpcServer

    grpc_server = GrpcServer(execution, launch.settings, metrics, drain, keys, tracing)
    await grpc_server.start(launch.grpc_address)
    return grpc_server


async def _drain(
    stopping: asyncio.Event, server: ApiServer, grpc_server: GrpcServer | None, drain: Drain, settings: Settings
) -> None:
    """Drop readiness at once, serve new requests a while longer, then refuse them while those in flight finish."""
    await stopping.wait()
    log.info("draining: readiness is down", extra={"requests": drain.num_in_flight})
    drain.is_draining = True
    await asyncio.sleep(settings.drain_seconds)
    drain.is_refusing = True
    for connection in list(server.server_state.connections):
        cast(Connection, connection).hurry()
    seconds = max(settings.grace_seconds - settings.drain_seconds, 0)
    deadline = asyncio.get_running_loop().time() + seconds
    refusing = asyncio.create_task(grpc_server.refuse(seconds)) if grpc_server else None
    while drain.num_in_flight and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_SECONDS)
    log.info("drained", extra={"abandoned_requests": drain.num_in_flight})
    if grpc_server and refusing:
        await grpc_server.stop()
        await refusing
    server.end()


def main() -> None:
    """Run the API process."""
    launch = read_launch()
    configure_logging(launch.settings, "api")
    end_with_parent()
    try:
        uvloop.run(serve(launch))
    except StartupError as error:
        log.critical("%s", error)
        sys.exit(EXIT_STARTUP)


if __name__ == "__main__":
    main()
