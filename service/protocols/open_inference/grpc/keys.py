"""Refuses gRPC calls that carry no valid API key, probes apart; what it refuses is counted and logged like any call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc

from service.errors import Unauthorized
from service.protocols.open_inference.grpc.calls import Calls, Context, caller
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

    def __init__(self, keys: KeyRing, calls: Calls) -> None:
        self._keys = keys
        self._calls = calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Let a call pass, or answer it with UNAUTHENTICATED."""
        handler = await continuation(handler_call_details)
        if handler_call_details.method in _OPEN:
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        try:
            caller.set(self._keys.admit(metadata.get("authorization"), metadata.get("x-api-key")))
        except Unauthorized as error:
            # A name that no method has is anything a stranger likes: it must not become a label of the metrics.
            name = "unmatched" if handler is None else handler_call_details.method.rpartition("/")[2]
            return self._refusing(name, error)
        return handler

    def _refusing(self, name: str, error: Unauthorized) -> grpc.RpcMethodHandler:
        async def refuse(_messages: object, context: Context) -> None:
            await self._calls.refuse(name, context, error)

        # On the wire the same for calls of one message and of many.
        return grpc.stream_stream_rpc_method_handler(refuse)
