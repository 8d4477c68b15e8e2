"""The gRPC server of one API process: its limits, keys, start and end; health (grpc.health.v1) and reflection.

Several processes listen on the same port (SO_REUSEPORT), which the supervisor has reserved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.errors import NotFound, ServiceError, StartupError, TooManyRequests, Unauthorized, Unavailable
from service.http.health import readiness
from service.http.middleware import Drain
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.grpc import open_inference_pb2
from service.protocols.open_inference.grpc.calls import Call, Calls, Context, caller, code_of
from service.protocols.open_inference.grpc.methods import ACCESS as METHODS_ACCESS
from service.protocols.open_inference.grpc.methods import NAME, Methods
from service.protocols.open_inference.grpc.wire import parse
from service.schema import shown
from service.security import Access, KeyRing
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from service.tls import Identity, Tls

log = logging.getLogger(__name__)

HEALTH_NAME = "grpc.health.v1.Health"
WATCH_SECONDS = 0.2
MAX_CONCURRENT_CALLS = 1024
"""Open calls of one connection; a client holds further ones back."""
MAX_CALLS = 4096
"""Open calls of all connections; further ones end with RESOURCE_EXHAUSTED."""
MAX_WATCHERS = 128
"""Open streams of `Health.Watch`, each of which looks five times a second."""
LAST_BYTES_SECONDS = 0.5
"""For written answers to reach their callers when the server stops."""
ACCESS: dict[str, Access] = {
    **{f"/{NAME}/{method}": access for method, access in METHODS_ACCESS.items()},
    f"/{HEALTH_NAME}/Check": "public",
    f"/{HEALTH_NAME}/Watch": "public",
    f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": "infer",
}
"""What each method needs of a key; one that is not here needs the scope `admin`."""


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

        calls = Calls(
            settings,
            metrics,
            drain,
            tracing,
            execution.budget,
            models=lambda: execution.client.statuses,
            callers=execution.callers,
        )
        methods = Methods(execution, calls, is_ready)
        health = Health(calls, is_ready, ("", NAME))
        self._streams = methods.streams
        checks = [KeyCheck(keys, calls)] if keys is not None else []
        self._server = grpc.aio.server(
            options=_options(settings), interceptors=checks, maximum_concurrent_rpcs=MAX_CALLS
        )
        served = methods.handlers()
        if settings.admin_port != "off":  # which gRPC has not
            served = {name: handler for name, handler in served.items() if METHODS_ACCESS.get(name) != "admin"}
        for name, handlers in ((NAME, served), (HEALTH_NAME, health.handlers())):
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        _enable_reflection(self._server, (NAME, HEALTH_NAME))

    async def start(self, address: str, tls: Tls | None = None) -> int:
        """Listen on `host:port`; return the port.

        Raises: StartupError.
        """
        try:
            port: int = (
                self._server.add_insecure_port(address)
                if tls is None
                else self._server.add_secure_port(address, _credentials(tls))
            )
        except RuntimeError as error:
            raise StartupError(f"Cannot listen on {address} for gRPC.") from error
        await self._server.start()
        return port

    async def refuse(self, grace_seconds: float) -> None:
        """Take no more calls, and return when those in flight have ended or were cut off."""
        self._streams.end()
        await self._server.stop(grace_seconds)

    async def stop(self) -> None:
        """End calls that only wait or watch."""
        with suppress(Exception):
            await self._server.stop(LAST_BYTES_SECONDS)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials that follow the files; gRPC asks at each handshake, in a thread of its own."""
    latest = tls.identity()

    def configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
        pair = (identity.key, identity.certificate)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=identity.client_ca or None)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal latest
        if (identity := tls.identity()) is latest:
            return None
        latest = identity
        return configuration(identity)

    return grpc.dynamic_ssl_server_credentials(
        configuration(latest), changed, require_client_authentication=bool(latest.client_ca)
    )


def _options(settings: Settings) -> list[tuple[str, int]]:
    """The same limits as over HTTP; that of messages applies also after decompression."""
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.server_handshake_timeout_ms", round(settings.header_timeout_seconds * 1e3)),
        ("grpc.max_connection_idle_ms", settings.keep_alive_seconds * 1000),
        ("grpc.max_concurrent_streams", MAX_CONCURRENT_CALLS),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
    ]


class KeyCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # the library has no types
    """Refuses calls without a valid API key, except probes; a refused call is counted and logged like any other."""

    def __init__(self, keys: KeyRing, calls: Calls) -> None:
        self._keys = keys
        self._calls = calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Let a call pass, or answer it with UNAUTHENTICATED or PERMISSION_DENIED."""
        handler = await continuation(handler_call_details)
        access = ACCESS.get(handler_call_details.method, "admin")
        if access == "public":
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        try:
            key = self._keys.admit(metadata.get("authorization"), metadata.get("x-api-key"))
            if handler is not None:
                key.require(access)
            caller.set(key)
        except ServiceError as error:
            # The name of an unknown method is arbitrary: it must not become a label of the metrics.
            name = "unmatched" if handler is None else handler_call_details.method.rpartition("/")[2]
            is_given = "authorization" in metadata or "x-api-key" in metadata
            is_wrong = isinstance(error, Unauthorized) and is_given
            return self._refusing(name, error, is_wrong=is_wrong)
        return handler

    def _refusing(self, name: str, error: ServiceError, *, is_wrong: bool) -> grpc.RpcMethodHandler:
        async def refuse(_messages: object, context: Context) -> None:
            refusal = error
            try:
                if is_wrong:
                    self._calls.callers.wrong_key(self._calls.address(context))
            except TooManyRequests as too_many:
                refusal = too_many
            await self._calls.refuse(name, context, refusal)

        # On the wire the same for calls of one message and of many.
        return grpc.stream_stream_rpc_method_handler(refuse)


class Health:
    """The health service, which answers as `/readyz` does; of `services`, "" is the server as a whole."""

    def __init__(self, calls: Calls, is_ready: Callable[[], bool], services: tuple[str, ...]) -> None:
        self._calls = calls
        self._is_ready = is_ready
        self._services = services

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The handlers of the service's methods."""
        return {
            "Check": self._calls.unary("Check", HealthCheckRequest, self._check, is_probe=True),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    async def _check(self, request: HealthCheckRequest, _call: Call) -> HealthCheckResponse:
        if request.service not in self._services:
            known = ", ".join(shown(name) for name in self._services)
            raise NotFound(f"There is no service {shown(request.service)}; there are {known}.")
        return HealthCheckResponse(status=self._status(request.service))

    async def _watch(self, data: bytes, context: Context) -> None:
        """Send the status, and each change of it, until the caller leaves or the server stops."""
        watchers, code = self._calls.metrics.health_watchers, StatusCode.CANCELLED
        watchers.inc()
        try:
            if watchers.value > MAX_WATCHERS:
                raise Unavailable(f"There are {MAX_WATCHERS} watchers already; ask with Check.", retry_after_seconds=1)
            await self._send_statuses(await parse(HealthCheckRequest, data), context)
        except ServiceError as error:
            code = code_of(error)
            await context.abort(code, error.message)
        finally:
            watchers.dec()
            self._calls.count_watch(code)

    async def _send_statuses(self, request: HealthCheckRequest, context: Context) -> None:
        sent = None
        while True:
            if (status := self._status(request.service)) != sent:
                await context.write(HealthCheckResponse(status=status).SerializeToString())
                sent = status
            await asyncio.sleep(WATCH_SECONDS)

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        return int(HealthCheckResponse.SERVING if self._is_ready() else HealthCheckResponse.NOT_SERVING)


def _enable_reflection(server: Any, services: tuple[str, ...]) -> None:
    """Let grpcurl and its like read the service's own pool of messages, so that they need no .proto file."""
    pool = DescriptorPool()
    for module in (open_inference_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), server, pool=pool)
