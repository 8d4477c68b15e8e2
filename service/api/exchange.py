"""One request and its answer, as the envelope, the handlers and the protocol see it. It knows no route."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from service.engine.batches import Receipt

Scope = MutableMapping[str, Any]

_KEY = "hotplate.exchange"


@dataclass(slots=True)
class Exchange:
    """What is noted of a request on its way: for its metrics, its headers, and in case the caller leaves."""

    request_id: str
    started_at: float
    model: str = ""
    caller: str = ""
    request_bytes: int = 0
    receipt: Receipt | None = None
    num_tiles: int = 0
    encode_seconds: float = 0.0
    on_disconnect: Callable[[], object] | None = None
    is_disconnected: bool = False

    def disconnect(self) -> None:
        """Note that the caller left and stop what works for him."""
        self.is_disconnected = True
        if self.on_disconnect is not None:
            self.on_disconnect()


def open_exchange(scope: Scope, request_id: str, started_at: float) -> Exchange:
    """Attach a new exchange to an ASGI scope."""
    exchange = scope[_KEY] = Exchange(request_id, started_at)
    return exchange


def exchange_of(scope: Any) -> Exchange | None:
    """The exchange of an ASGI scope, if it has one."""
    exchange = scope.get(_KEY)
    return exchange if isinstance(exchange, Exchange) else None
