"""An API process: `python -m service.processes.api_process`, started by the supervisor.

It runs uvicorn on the inherited listening socket and a gRPC server beside it, and drains on SIGTERM. It knows no route.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from service.app import create_app, create_execution
from service.background import Background
from service.engine.transport.client import EngineClient
from service.errors import StartupError
from service.http.connection import Connection, connection_class
from service.http.middleware import Drain
from service.processes.heartbeat import Heartbeat
from service.processes.launch import EXIT_STARTUP, Launch, end_with_parent, read_launch, settle
from service.processes.listening import until_accepted
from service.protocols.open_inference.execution import Execution
from service.security import KeyRing
from service.settings import Settings
from service.telemetry.gathering import sharing
from service.telemetry.logs import configure_logging
from service.telemetry.metrics import Metrics, report_memory
from service.telemetry.tracing import Tracing, open_tracing
from service.tls import Tls, server_context

if TYPE_CHECKING:
    from service.protocols.open_inference.grpc.server import GrpcServer

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
TICK_SECONDS = 1.0
LINGER_SECONDS = 0.3
DESCRIPTION_SECONDS = 5.0


class ApiServer(uvicorn.Server):
    """uvicorn without its signal handling, for this process drains in its own order, and without ten ticks a second.

    With a context it serves TLS, and callers have `handshake_seconds` to agree on it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        protocols: Sequence[type[Connection]],
        on_start: Callable[[], None],
        context: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        super().__init__(config)
        self._protocols = protocols
        self._on_start = on_start
        self._ending = asyncio.Event()
        self._context = context
        self._handshake_seconds = handshake_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets, with a protocol for each."""
        await super().startup(sockets=[])
        config = self.config
        shared = {"config": config, "server_state": self.server_state, "app_state": self.lifespan.state}
        loop, seconds = asyncio.get_running_loop(), self._handshake_seconds if self._context else None
        self.servers = [
            await loop.create_server(
                partial(protocol, **shared),
                sock=each,
                ssl=self._context,
                backlog=config.backlog,
                ssl_handshake_timeout=seconds,
            )
            for each, protocol in zip(sockets or (), self._protocols, strict=True)
        ]
        self._on_start()

    def stop_listening(self) -> None:
        """Close this process's copy of the port; connections stay."""
        for server in self.servers:
            server.close()

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
    client = EngineClient(launch.engine_sockets, settings)
    execution = create_execution(settings, client, metrics)
    keys = KeyRing(Path(settings.api_keys_file)) if settings.api_keys_file else None
    tracing = open_tracing(settings)
    app = create_app(settings, client, metrics, drain, execution, keys, tracing)
    protocols = [connection_class(settings, each.cycle, each.heads, each.asgi) for each in (app, app.admin) if each]
    config = uvicorn.Config(
        app.asgi,
        http=protocols[0],
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
    listener = socket.socket(fileno=launch.listen_fd)
    listeners = [listener, *([socket.socket(fileno=launch.admin_fd)] if app.admin else [])]
    heartbeat = Heartbeat(launch.heartbeat_fd, settings.hang_seconds)
    tls = Tls(settings) if settings.has_tls else None
    context = server_context(tls) if tls else None
    server = ApiServer(config, protocols, heartbeat.set_started, context, settings.header_timeout_seconds)
    settle()
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor decides
    async with sharing(metrics, launch.figures_fd), Background() as background:
        background.keep("heartbeat", heartbeat.run)
        background.keep("connection to the engine", client.run)
        background.keep("memory report", lambda: report_memory(metrics, "api"))
        await _until_described(client, stopping)
        grpc_server = await _serve_grpc(launch, execution, metrics, drain, keys, tracing, tls)
        draining = _Draining(server, grpc_server, listener, drain, settings)
        background.start("drain", draining.run(stopping))
        await server.serve(sockets=listeners)
    if tracing is not None:
        await tracing.close()


async def _until_described(client: EngineClient, stopping: asyncio.Event) -> None:
    """Wait for what the engine serves: another API process may have said that the service is ready.

    Not for long, as probes are to be answered also while there is no engine.
    """
    waiting = [asyncio.ensure_future(each.wait()) for each in (client.described, stopping)]
    await asyncio.wait(waiting, timeout=DESCRIPTION_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()


async def _serve_grpc(
    launch: Launch,
    execution: Execution,
    metrics: Metrics,
    drain: Drain,
    keys: KeyRing | None,
    tracing: Tracing | None,
    tls: Tls | None,
) -> GrpcServer | None:
    if not launch.grpc_address:
        return None
    # Imported here: a service without gRPC saves the library's memory.
    from service.protocols.open_inference.grpc.server import GrpcServer

    grpc_server = GrpcServer(execution, launch.settings, metrics, drain, keys, tracing)
    await grpc_server.start(launch.grpc_address, tls)
    return grpc_server


class _Draining:
    """The orderly end: readiness falls at once, new requests are served a while longer, then refused.

    Before that the port is closed, and every connection that was made to it is accepted, so that none is reset.
    """

    def __init__(
        self,
        server: ApiServer,
        grpc_server: GrpcServer | None,
        listener: socket.socket,
        drain: Drain,
        settings: Settings,
    ) -> None:
        self._server = server
        self._grpc_server = grpc_server
        self._listener = listener
        self._drain = drain
        self._settings = settings

    async def run(self, stopping: asyncio.Event) -> None:
        """Wait until the process is to stop, and let what is in flight finish; whatever happens, serving ends then."""
        await stopping.wait()
        try:
            await self._finish()
        finally:
            self._server.end()

    async def _finish(self) -> None:
        log.info("draining: readiness is down", extra={"requests": self._drain.num_in_flight})
        self._drain.is_draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.grace_seconds
        await asyncio.sleep(self._settings.drain_seconds)
        await until_accepted(self._listener)
        self._server.stop_listening()
        # What was accepted last may not have sent its request yet.
        await asyncio.sleep(min(LINGER_SECONDS, max(deadline - loop.time(), 0)))
        self._drain.is_refusing = True
        for connection in list(self._server.server_state.connections):
            cast(Connection, connection).hurry()
        async with Background() as background:
            if self._grpc_server is not None:
                seconds = max(deadline - loop.time(), 0)
                refusing = background.start("refusing gRPC", self._grpc_server.refuse(seconds))
            while self._drain.num_in_flight and loop.time() < deadline:
                await asyncio.sleep(POLL_SECONDS)
            log.info("drained", extra={"abandoned_requests": self._drain.num_in_flight})
            if self._grpc_server is not None:
                await self._grpc_server.stop()
                await asyncio.wait({refusing})


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
