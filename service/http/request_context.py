"""One request and its answer, as the envelope, the handlers and the protocol see it. It knows no route."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from service.engine.transport.messages import InferenceTiming

Scope = MutableMapping[str, Any]

_KEY = "hotplate.context"


@dataclass(slots=True)
class RequestContext:
    """What is noted of a request on its way: for its metrics, its headers, and in case the caller leaves."""

    request_id: str
    started_at: float
    model: str = ""
    caller: str = ""
    request_bytes: int = 0
    timing: InferenceTiming | None = None
    num_tiles: int = 0
    encode_seconds: float = 0.0
    traceparent: str = ""
    on_disconnect: Callable[[], object] | None = None
    is_disconnected: bool = False

    def disconnect(self) -> None:
        """Note that the caller left and stop what works for him."""
        self.is_disconnected = True
        if self.on_disconnect is not None:
            self.on_disconnect()


def attach(scope: Scope, context: RequestContext) -> RequestContext:
    """Attach a new context to an ASGI scope; return it."""
    scope[_KEY] = context
    return context


def exchange_of(scope: Any) -> RequestContext | None:
    """The context of an ASGI scope, if it has one."""
    context = scope.get(_KEY)
    return context if isinstance(context, RequestContext) else None
