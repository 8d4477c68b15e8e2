"""Refuses gRPC calls that carry no valid API key, probes apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.api.grpc.calls import caller
from service.api.grpc.codes import code_of
from service.errors import Unauthorized
from service.security import KeyRing

_SERVICE = "/inference.GRPCInferenceService"
_OPEN = {
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    f"{_SERVICE}/ServerLive",
    f"{_SERVICE}/ServerReady",
}


class KeyCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # the library has no types
    """Stands in front of all methods of a server."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Let a call pass, or answer it with UNAUTHENTICATED."""
        if handler_call_details.method in _OPEN:
            return await continuation(handler_call_details)
        metadata = dict(handler_call_details.invocation_metadata or ())
        try:
            caller.set(self._keys.admit(metadata.get("authorization"), metadata.get("x-api-key")))
        except Unauthorized as error:
            return _refusing(error)
        return await continuation(handler_call_details)


def _refusing(error: Unauthorized) -> grpc.RpcMethodHandler:
    code, message = code_of(error), error.message

    async def refuse(_messages: object, context: Any) -> None:
        await context.abort(code, message)

    # On the wire the same for calls of one message and of many.
    return grpc.stream_stream_rpc_method_handler(refuse)
