"""The gRPC server of one API process: its limits, its services, its start and its end.

Several processes listen on the same port (SO_REUSEPORT), which the supervisor has reserved.
"""

from __future__ import annotations

import logging
from contextlib import suppress

import grpc

from service.errors import StartupError
from service.http.health import readiness
from service.http.middleware import Drain
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.grpc.calls import Calls
from service.protocols.open_inference.grpc.health import NAME as HEALTH_NAME
from service.protocols.open_inference.grpc.health import Health
from service.protocols.open_inference.grpc.keys import KeyCheck
from service.protocols.open_inference.grpc.methods import NAME, Methods
from service.protocols.open_inference.grpc.reflection import enable_reflection
from service.security import KeyRing
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

MAX_CONCURRENT_CALLS = 1024
"""Calls of one connection that are open at once; a client waits with further ones."""
LAST_BYTES_SECONDS = 0.5
"""For answers that are written to reach their callers, when the server ends."""


class GrpcServer:
    """A server of the Open Inference Protocol, grpc.health.v1 and reflection."""

    def __init__(
        self,
        execution: Execution,
        settings: Settings,
        metrics: Metrics,
        drain: Drain,
        keys: KeyRing | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        def is_ready() -> bool:
            return readiness(execution.client, drain).status == "ready"

        calls = Calls(settings, metrics, drain, tracing)
        methods = Methods(execution, calls, is_ready)
        health = Health(calls, is_ready, ("", NAME))
        self._streams = methods.streams
        checks = [KeyCheck(keys, calls)] if keys is not None else []
        self._server = grpc.aio.server(options=_options(settings), interceptors=checks)
        for name, handlers in ((NAME, methods.handlers()), (HEALTH_NAME, health.handlers())):
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        enable_reflection(self._server, (NAME, HEALTH_NAME))

    async def start(self, address: str) -> int:
        """Listen on `host:port`; return the port.

        Raises: StartupError.
        """
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartupError(f"Cannot listen on {address} for gRPC.") from error
        await self._server.start()
        return port

    async def refuse(self, grace_seconds: float) -> None:
        """Tell clients to go elsewhere and take no more calls; return when all have ended, or are cut off."""
        self._streams.end()
        await self._server.stop(grace_seconds)

    async def stop(self) -> None:
        """End calls that only wait or watch."""
        with suppress(Exception):
            await self._server.stop(LAST_BYTES_SECONDS)


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Limits as HTTP has them; that of messages also holds for what they become when decompressed."""
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.server_handshake_timeout_ms", round(settings.header_timeout_seconds * 1e3)),
        ("grpc.max_connection_idle_ms", settings.keep_alive_seconds * 1000),
        ("grpc.max_concurrent_streams", MAX_CONCURRENT_CALLS),
    ]
