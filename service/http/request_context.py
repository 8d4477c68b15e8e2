"""What the middleware, the handlers and the connection's protocol share of one request. It knows no route."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from service.engine.transport.messages import InferenceTiming
from service.errors import InvalidParameter
from service.settings import Settings

Scope = MutableMapping[str, Any]

_KEY = "hotplate.context"


@dataclass(slots=True)
class RequestContext:
    """What is known of a request in flight: for its metrics, its headers, and in case the caller leaves."""

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
        """Note that the caller left, and cancel the work on this request."""
        self.is_disconnected = True
        if self.on_disconnect is not None:
            self.on_disconnect()


def attach(scope: Scope, context: RequestContext) -> RequestContext:
    """Attach a new context to an ASGI scope; return it."""
    scope[_KEY] = context
    return context


def context_of(scope: Any) -> RequestContext | None:
    """The context of an ASGI scope, if it has one."""
    context = scope.get(_KEY)
    return context if isinstance(context, RequestContext) else None


def request_timeout_seconds(scope: Scope, settings: Settings) -> float:
    """The deadline that the caller asks for in `X-Request-Timeout`, in seconds, or the default.

    Raises: InvalidParameter.
    """
    for name, value in scope["headers"]:
        if name == b"x-request-timeout":
            largest = settings.max_request_timeout_seconds
            try:
                seconds = float(value)
            except ValueError:
                seconds = math.nan
            if not 0 < seconds <= largest:
                shown = value.decode("latin-1")[:40]
                raise InvalidParameter(
                    f"X-Request-Timeout is {shown!r}; it must be seconds, above 0 up to {largest:g}."
                )
            return seconds
    return settings.request_timeout_seconds
