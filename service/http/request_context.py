"""The context of a request, which the middleware, the handler and the connection share, its id and its metrics.

HTTP and gRPC use the same. It knows no route.
"""

from __future__ import annotations

import itertools
import math
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from service.budget import Reservation
from service.engine.transport.messages import InferenceTiming
from service.errors import Cancelled, InvalidParameter, ServiceError
from service.quotas import NOBODY, Account
from service.security import ANYONE, Key
from service.settings import Settings
from service.telemetry.metrics import Metrics

Scope = MutableMapping[str, Any]
HeaderPairs = Iterable[tuple[bytes, bytes]]

_KEY = "hotplate.context"
_FAILURE = "hotplate.failure"
_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class RequestContext:
    """A request in flight: what its metrics and headers report, and what to cancel when the caller disconnects.

    `reservation` holds the bytes that the process keeps for it; they are given back when it ends. `deadline`, by the
    event loop's clock, ends a streamed answer also while its caller does not read. `failure` is what ended an answer
    that had begun.
    """

    request_id: str
    started_at: float
    model: str = ""
    caller: Key = ANYONE
    address: str = ""
    account: Account = NOBODY
    is_counted: bool = False
    request_bytes: int = 0
    timing: InferenceTiming | None = None
    precision: str = ""
    num_tiles: int = 0
    encode_seconds: float = 0.0
    traceparent: str = ""
    reservation: Reservation = field(default_factory=Reservation)
    on_disconnect: Callable[[], object] | None = None
    is_disconnected: bool = False
    deadline: float = math.inf
    is_streamed: bool = False
    failure_status: int = 0  # not the error: it holds frames, and these the request

    @property
    def origin(self) -> str:
        """Who takes turns with others: a key or an address."""
        return self.account.caller.name

    def charge_to(self, account: Account, *, is_work: bool) -> None:
        """Count the request among those of its caller, until `end`; `is_work`: it may need rows or tokens.

        Raises: TooManyRequests.
        """
        self.account = account
        if account.quota is not None:
            account.quota.begin(is_work=is_work)
            self.is_counted = True

    def end(self) -> None:
        """Give back what the request held."""
        self.reservation.release()
        if self.is_counted and self.account.quota is not None:
            self.account.quota.end()

    def limit_fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields that tell the caller what is left of his limits."""
        return () if self.account.quota is None else self.account.quota.fields()

    @contextmanager
    def leaving(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Cancel when the caller leaves before the end of the block, or has left; keep nothing for it afterwards.

        A connection is a cycle that is collected late: what it can reach must not hold what was computed.
        """
        before, self.on_disconnect = self.on_disconnect, cancel
        if self.is_disconnected:
            cancel()
        try:
            yield
        finally:
            self.on_disconnect = before

    def disconnect(self) -> None:
        """Mark the request as disconnected and cancel its work."""
        self.is_disconnected = True
        if self.on_disconnect is not None:
            self.on_disconnect()

    def ended_as(self, status: int) -> int:
        """The status for metrics and logs: what ended the answer counts, not what its head said."""
        return self.failure_status or (Cancelled.status if self.is_disconnected else status)


def attach(scope: Scope, context: RequestContext) -> RequestContext:
    """Attach a context to an ASGI scope and return it."""
    scope[_KEY] = context
    context.failure_status = scope.pop(_FAILURE, 0)
    return context


def fail(scope: Scope, error: ServiceError) -> None:
    """Say what ended a request, also before it has a context."""
    context = context_of(scope)
    if context is None:
        scope[_FAILURE] = error.status
    else:
        context.failure_status = error.status


def context_of(scope: Any) -> RequestContext | None:
    """The context of an ASGI scope, if it has one."""
    context = scope.get(_KEY)
    return context if isinstance(context, RequestContext) else None


def caller_of(scope: Any) -> Key:
    """The key of a request."""
    context = context_of(scope)
    return context.caller if context is not None else ANYONE


def request_timeout_seconds(scope: Scope, settings: Settings) -> float:
    """The timeout in `X-Request-Timeout`, or the default.

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
                    f"X-Request-Timeout is {shown!r}; it must be a number of seconds above 0 up to {largest:g}."
                )
            return seconds
    return settings.request_timeout_seconds


class RequestIds:
    """Assigns request ids: the caller's `X-Request-Id` if it is well formed, or a new one."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def assign(self, given: str | None) -> str:
        """Return the given id if it is well formed, or a new one."""
        if given is not None and _WELL_FORMED_ID.fullmatch(given):
            return given
        return f"{self._prefix}-{next(self._numbers):x}"


class RequestMetrics:
    """The request metrics of one process, with the labels of each route and model bound once."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counters: dict[tuple[str, str, str], Any] = {}
        self._histograms: dict[tuple[str, str], Any] = {}
        self._bytes: dict[str, tuple[Any, Any]] = {}

    def start(self) -> None:
        """Count a request as in flight."""
        self._metrics.requests_in_flight.inc()

    def finish(self, route: str, status: str, context: RequestContext, sent_bytes: int) -> float:
        """Count a finished request and return its duration in seconds."""
        seconds = perf_counter() - context.started_at
        self._metrics.requests_in_flight.dec()
        key = (route, context.model, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._metrics.requests.labels(*key)
            self._histograms[key[:2]] = self._metrics.request_seconds.labels(*key[:2])
            self._bytes[route] = (self._metrics.request_bytes.labels(route), self._metrics.response_bytes.labels(route))
        counter.inc()
        self._histograms[key[:2]].observe(seconds)
        received, sent = self._bytes[route]
        received.inc(context.request_bytes)
        sent.inc(sent_bytes)
        return seconds
