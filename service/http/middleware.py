"""The request middleware: request ids, API keys, timing headers, metrics, the access log, drain and last-resort errors.

Pure ASGI, outermost. It knows nothing of routes and models but their names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Send

from service.budget import ByteBudget, Reservation
from service.errors import Cancelled, Forbidden, ShuttingDown, Unauthorized
from service.http.answers import reserve_answer
from service.http.gate import Gate, Need, as_seen_with
from service.http.problems import error_response, failure_of
from service.http.request_context import RequestContext, RequestIds, RequestMetrics, Scope, attach
from service.quotas import Callers
from service.settings import Settings
from service.telemetry.audit import Refusals
from service.telemetry.logs import ScarceLog
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

log = logging.getLogger("service.access")

_ALWAYS_ANSWERED = ("/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready", "/metrics")
SWEEP_SECONDS = 1.0


class Drain:
    """The shutdown state of this process: first draining, then refusing new requests."""

    def __init__(self) -> None:
        self.is_draining = False
        self.is_refusing = False
        self.num_in_flight = 0


class RequestCycle:
    """What every request goes through, whoever answers it: an id, the key, the headers of its answer, the records."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        drain: Drain,
        gate: Gate | None = None,
        tracing: Tracing | None = None,
        budget: ByteBudget | None = None,
        callers: Callers | None = None,
    ) -> None:
        self.drain = drain
        self.budget = budget
        self.connections = metrics.connections
        self._refused_connections = metrics.refused_connections
        self._connections_full = ScarceLog(
            log, "connections are refused: there are as many as --max-connections allows"
        )
        self._unrouted = ScarceLog(log, "requests are refused before they have a route")
        self._swept_at = -math.inf
        self.is_traced = tracing is not None
        self._logs_all = settings.access_log
        self._metrics = RequestMetrics(metrics)
        self._gate = gate or Gate(settings)
        self._refusals = Refusals()
        self._callers = callers or Callers()
        self._tracing = tracing
        self._ids = RequestIds()

    def open(
        self, request_id: str | None, path: str, headers: Sequence[tuple[bytes, bytes]], address: str = ""
    ) -> RequestContext:
        """Begin a request from an address, with the id that the caller gave, if any; `close` must follow."""
        self.drain.num_in_flight += 1
        self._metrics.start()
        request_id, started_at = self._ids.assign(request_id), perf_counter()
        if self._tracing is None or path in _ALWAYS_ANSWERED:
            return RequestContext(request_id, started_at, address=address, reservation=Reservation(self.budget))
        named = {str(name, "latin-1"): str(value, "latin-1") for name, value in headers}
        context = self._tracing.begin(request_id, started_at, named)
        context.address, context.reservation = address, Reservation(self.budget)
        return context

    def need_of(self, scope: Scope) -> Need:
        """Check a head, and return what the request needs of its key.

        Raises: ServiceError.
        """
        return self._gate.need_of(scope)

    def admit(self, context: RequestContext, scope: Scope, need: Need) -> None:
        """Check that the request may be answered, and note whose key it has.

        Raises: ShuttingDown; Unauthorized, Forbidden, UnknownModel; TooManyRequests.
        """
        path = scope["path"]
        if self.drain.is_refusing and path not in _ALWAYS_ANSWERED:
            raise ShuttingDown("The service is shutting down.", retry_after_seconds=1)
        context.address = self._callers.address(context.address, scope["headers"])
        try:
            context.caller = self._gate.admit(need, scope["headers"])
        except (Unauthorized, Forbidden) as error:
            self._refusals.record(error, context.address, f"{scope['method']} {path}")
            if isinstance(error, Unauthorized) and any(
                name in (b"authorization", b"x-api-key") for name, _ in scope["headers"]
            ):
                self._callers.wrong_key(context.address)
            raise
        if need.access != "public":
            account = self._callers.account(context.caller, context.address)
            if need.priority:
                account = account.asking(need.priority)
            context.charge_to(account, is_work=scope["method"] == "POST")

    def may_sweep(self, now: float) -> bool:
        """Whether to look for idle connections, which is done at most once in `SWEEP_SECONDS`."""
        if now < self._swept_at + SWEEP_SECONDS:
            return False
        self._swept_at = now
        return True

    def refuse_connection(self, address: str) -> None:
        """Record a connection that was one too many."""
        self._refused_connections.inc()
        self._connections_full.warn(address=address)

    def refused(self, method: str, context: RequestContext, status: int, sent_bytes: int) -> None:
        """Record a request that was refused before it had a route."""
        self.close(method, "unmatched", context, status, sent_bytes)
        if not self._logs_all:
            self._unrouted.warn(address=context.address, status=status)

    def headers(self, context: RequestContext) -> list[tuple[bytes, bytes]]:
        """The headers that every answer has."""
        headers = [(b"x-request-id", context.request_id.encode()), (b"server-timing", _timing(context))]
        if context.account.quota is not None:
            headers += [(name.encode(), value.encode()) for name, value in context.limit_fields()]
        if context.traceparent:
            headers.append((b"traceparent", context.traceparent.encode()))
        if self.drain.is_draining:
            headers.append((b"connection", b"close"))
        return headers

    def close(self, method: str, route: str, context: RequestContext, status: int, sent_bytes: int) -> None:
        """Record a request that was answered."""
        self.drain.num_in_flight -= 1
        context.end()
        status = context.ended_as(status)
        seconds = self._metrics.finish(route, str(status), context, sent_bytes)
        if self._tracing is not None:
            self._tracing.end_http(context, method, route, status)
        if self._logs_all or (status >= 500 and route not in _ALWAYS_ANSWERED):
            log.log(
                logging.WARNING if status >= 500 else logging.INFO,
                "request",
                extra={
                    "request_id": context.request_id,
                    "method": method,
                    "route": route,
                    "model": context.model,
                    "caller": context.caller.name,
                    "address": context.address,
                    "status": status,
                    "ms": round(seconds * 1e3, 3),
                },
            )


class RequestMiddleware:
    """The outermost ASGI application of an API process."""

    def __init__(self, app: ASGIApp, cycle: RequestCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cycle = self._cycle
        context = attach(scope, cycle.open(_given_id(scope), scope["path"], scope["headers"], _address(scope)))
        # HEAD is answered as GET without the content (RFC 9110 section 9.3.2), on every route and in every error.
        is_head = scope["method"] == "HEAD"
        served = {**scope, "method": "GET"} if is_head else scope
        status, sent_bytes, started = 0, 0, False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent_bytes, started
            if message["type"] == "http.response.start":
                reserve_answer(context, message)
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", ()), *cycle.headers(context)]
            elif is_head:
                message["body"] = b""
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            cycle.admit(context, served, cycle.need_of(served))
            await self._app(served, receive, send_with_headers)
        except Exception as error:
            failure = as_seen_with(context.caller, failure_of(error, context.request_id))
            if started:
                context.failure_status = failure.status  # the connection is broken off
            else:
                await error_response(scope["path"], failure, asked=scope["headers"])(served, receive, send_with_headers)
        finally:
            route = getattr(served.get("route"), "path", "unmatched")
            cycle.close(scope["method"], route, context, status or Cancelled.status, sent_bytes)


def _timing(context: RequestContext) -> bytes:
    total_ms = (perf_counter() - context.started_at) * 1e3
    timing = context.timing
    if timing is None:
        return b"total;dur=%.3f" % total_ms
    queue_ms, compute_ms = timing.queue_seconds * 1e3, timing.compute_seconds * 1e3
    about = b""
    if context.encode_seconds:
        about += b"encode;dur=%.3f, " % (context.encode_seconds * 1e3)
    if timing.batch_size:  # a sequence runs in many
        about += b'batch;desc="%d", ' % timing.batch_size
    if precision := timing.precision or context.precision:
        about += b'precision;desc="%b", ' % precision.encode()
    if context.num_tiles:
        about += b'tiles;desc="%d", ' % context.num_tiles
    return b"queue;dur=%.3f, compute;dur=%.3f, %btotal;dur=%.3f" % (queue_ms, compute_ms, about, total_ms)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _given_id(scope: Scope) -> str | None:
    return next((str(value, "latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)
