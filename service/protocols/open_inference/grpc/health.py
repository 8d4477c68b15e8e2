"""grpc.health.v1: whether this process may be sent calls, asked once or watched. It says what `/readyz` says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.errors import MalformedRequest, NotFound
from service.protocols.open_inference.grpc.calls import Call, Calls, Context, parse
from service.protocols.open_inference.grpc.codes import code_of
from service.schema import shown

NAME = "grpc.health.v1.Health"
WATCH_SECONDS = 0.2


class Health:
    """The health service; `services` are the names it knows, of which "" is the server as a whole."""

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
        """Tell the status, and each change of it, until the caller leaves or the server ends."""
        try:
            request = parse(HealthCheckRequest, data)
        except MalformedRequest as error:
            await context.abort(code_of(error), error.message)
        told = None
        while True:
            if (status := self._status(request.service)) != told:
                await context.write(HealthCheckResponse(status=status).SerializeToString())
                told = status
            await asyncio.sleep(WATCH_SECONDS)

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        return int(HealthCheckResponse.SERVING if self._is_ready() else HealthCheckResponse.NOT_SERVING)
