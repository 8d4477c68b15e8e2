"""Wraps every exchange: request id, timing header, metrics, drain, and a last line of defence.

Plain ASGI, outermost. It knows neither routes nor models beyond their names.
"""

from __future__ import annotations

import logging
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Send

from service.api.accounts import Accounts
from service.api.exchange import Exchange, Scope, attach
from service.api.problems import error_response, unexpected_response
from service.api.request_ids import RequestIds
from service.errors import ServiceError, ShuttingDown
from service.metrics import Metrics
from service.security import KeyRing
from service.settings import Settings
from service.tracing import Tracing

log = logging.getLogger("service.access")

_PROBES = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
_ALWAYS_ANSWERED = (*_PROBES, "/metrics")
_NEEDS_NO_KEY = (*_PROBES, "/", "/docs", "/openapi.json", "/favicon.ico")
_OPEN_FOLDER = "/playground/"


class Drain:
    """How far this process is on its way out."""

    def __init__(self) -> None:
        self.is_draining = False
        self.is_refusing = False
        self.num_in_flight = 0


class Envelope:
    """The outermost ASGI application of an API process."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        drain: Drain,
        keys: KeyRing | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._logs_all = settings.access_log
        self._accounts = Accounts(metrics)
        self._drain = drain
        self._keys = keys
        self._tracing = tracing
        self._needs_no_key = _NEEDS_NO_KEY if settings.metrics_need_key else (*_NEEDS_NO_KEY, "/metrics")
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = attach(scope, self._open(scope))
        status, sent_bytes, started = 0, 0, False

        async def reply(message: Message) -> None:
            nonlocal status, sent_bytes, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", ()), *self._headers(exchange)]
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        self._drain.num_in_flight += 1
        self._accounts.enter()
        try:
            await self._serve(scope, receive, reply, exchange)
        except Exception:
            log.exception("a request failed unexpectedly", extra={"request_id": exchange.request_id})
            if not started:
                await unexpected_response(scope["path"])(scope, receive, reply)
        finally:
            self._drain.num_in_flight -= 1
            self._note(scope, exchange, status or 499, sent_bytes)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        if self._drain.is_refusing and scope["path"] not in _ALWAYS_ANSWERED:
            refusal = ShuttingDown("The service is shutting down.", retry_after_seconds=1)
            await error_response(scope["path"], refusal)(scope, receive, send)
            return
        try:
            if self._keys is not None and not self._is_open(scope["path"]):
                exchange.caller = self._admit(self._keys, scope)
            await self._app(scope, receive, send)
        except ServiceError as error:
            await error_response(scope["path"], error)(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._needs_no_key or path.startswith(_OPEN_FOLDER)

    @staticmethod
    def _admit(keys: KeyRing, scope: Scope) -> str:
        headers = {name: value for name, value in scope["headers"] if name in (b"authorization", b"x-api-key")}
        authorization, api_key = (headers.get(name) for name in (b"authorization", b"x-api-key"))
        return keys.admit(authorization and authorization.decode("latin-1"), api_key and api_key.decode("latin-1"))

    def _open(self, scope: Scope) -> Exchange:
        request_id, started_at = self._ids.name(_told_id(scope)), perf_counter()
        if self._tracing is None or scope["path"] in _ALWAYS_ANSWERED:
            return Exchange(request_id, started_at)
        told = {str(name, "latin-1"): str(value, "latin-1") for name, value in scope["headers"]}
        return self._tracing.begin(request_id, started_at, told)

    def _headers(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        total_ms = (perf_counter() - exchange.started_at) * 1e3
        receipt = exchange.receipt
        if receipt is None:
            timing = f"total;dur={total_ms:.3f}"
        else:
            batch = f'batch;desc="{receipt.batch_size}", ' if receipt.batch_size else ""  # a sequence is in many
            batch += f'tiles;desc="{exchange.num_tiles}", ' if exchange.num_tiles else ""
            encode = f"encode;dur={exchange.encode_seconds * 1e3:.3f}, " if exchange.encode_seconds else ""
            timing = (
                f"queue;dur={receipt.queue_seconds * 1e3:.3f}, compute;dur={receipt.compute_seconds * 1e3:.3f}, "
                f"{encode}{batch}total;dur={total_ms:.3f}"
            )
        headers = [(b"x-request-id", exchange.request_id.encode()), (b"server-timing", timing.encode())]
        if exchange.traceparent:
            headers.append((b"traceparent", exchange.traceparent.encode()))
        if self._drain.is_draining:
            headers.append((b"connection", b"close"))
        return headers

    def _note(self, scope: Scope, exchange: Exchange, status: int, sent_bytes: int) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        seconds = self._accounts.leave(route, str(status), exchange, sent_bytes)
        if self._tracing is not None:
            self._tracing.end_http(exchange, scope["method"], route, status)
        if self._logs_all or (status >= 500 and route not in _ALWAYS_ANSWERED):
            log.log(
                logging.WARNING if status >= 500 else logging.INFO,
                "request",
                extra={
                    "request_id": exchange.request_id,
                    "method": scope["method"],
                    "route": route,
                    "model": exchange.model,
                    "caller": exchange.caller,
                    "status": status,
                    "ms": round(seconds * 1e3, 3),
                },
            )


def _told_id(scope: Scope) -> str | None:
    return next((str(value, "latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)
