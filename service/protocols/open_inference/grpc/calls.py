"""Wraps every gRPC call, as the request middleware wraps HTTP: request id, timeout, metrics, drain, errors.

It knows no method beyond its name.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message
from grpc import StatusCode

from service.budget import SMALL_BYTES, ByteBudget, Reservation
from service.errors import (
    Forbidden,
    MalformedRequest,
    RequestTimeout,
    ServiceError,
    ShuttingDown,
    Unauthorized,
)
from service.http.gate import as_seen_with
from service.http.middleware import Drain
from service.http.protocol import MIN_WRITE_SECONDS
from service.http.request_context import RequestContext, RequestIds, RequestMetrics
from service.protocols.open_inference.grpc.wire import parse
from service.quotas import Callers
from service.security import ANYONE, Key, Named
from service.settings import Settings
from service.telemetry.audit import Refusals
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

log = logging.getLogger("service.access")

# By the HTTP status of an error; any other fault of the request is an invalid argument.
_CODES = {
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    405: StatusCode.UNIMPLEMENTED,
    408: StatusCode.DEADLINE_EXCEEDED,
    429: StatusCode.RESOURCE_EXHAUSTED,
    499: StatusCode.CANCELLED,
    500: StatusCode.INTERNAL,
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}

caller: ContextVar[Key] = ContextVar("caller", default=ANYONE)
"""The key that came with the current call."""

Context = Any  # grpc.aio.ServicerContext: the library has no types
Done = TypeVar("Done")
Request = TypeVar("Request", bound=Message)


@dataclass(slots=True)
class Call:
    """One request in flight, and the seconds that its caller still allows (None: no deadline)."""

    request_context: RequestContext
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call that failed ends."""

    code: StatusCode
    message: str
    retry_after_seconds: float | None = None


class Calls:
    """What all calls of one process share."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        drain: Drain,
        tracing: Tracing | None = None,
        budget: ByteBudget | None = None,
        models: Callable[[], Iterable[Named]] = tuple,
        callers: Callers | None = None,
    ) -> None:
        self._models = models
        self._refusals = Refusals()
        self.metrics = metrics
        self._body_timeout_seconds = settings.body_timeout_seconds
        self._write_timeout_seconds = settings.write_timeout_seconds
        self._logs_all = settings.access_log
        self._request_metrics = RequestMetrics(metrics)
        self._drain = drain
        self._budget = budget
        self.callers = callers or Callers()
        self._tracing = tracing
        self._ids = RequestIds()

    def unary(
        self,
        name: str,
        kind: Callable[[], Request],
        answer: Callable[[Request, Call], Awaitable[Message]],
        *,
        is_probe: bool = False,
    ) -> grpc.RpcMethodHandler:
        """A handler of one message for one; a probe is answered also while other calls are refused.

        `answer` may raise ServiceError; when the caller leaves, its context is notified first, then it is cancelled.
        """

        async def reply_to(context: Context, call: Call) -> bytes:
            data = await self._read(context)
            call.request_context.request_bytes = len(data)
            keep(call, len(data), "the message")
            message = await self.answer(await parse(kind, data), call, answer, is_probe=is_probe)
            keep(call, message.ByteSize(), "the answer")
            reply: bytes = message.SerializeToString()
            return reply

        # The library keeps the frame of a call that it aborts until it is found as garbage: no message may be in it.
        async def handle(_messages: object, context: Context) -> bytes:
            call = self.open(context, 0, is_probe=is_probe)
            refusal, reply = Refusal(StatusCode.CANCELLED, ""), b""
            try:
                refusal, reply = Refusal(StatusCode.OK, ""), await reply_to(context, call)
            except Exception as error:
                refusal = self.refusal(error, call.request_context)
            finally:
                self.close(name, call.request_context, refusal.code, len(reply))
            trailing = _trailing(call.request_context, refusal)
            if refusal.code is not StatusCode.OK:
                await context.abort(refusal.code, refusal.message, trailing)
            context.set_trailing_metadata(trailing)
            return reply

        # On the wire the same as a unary call, but this way the message has a timeout to arrive in.
        return grpc.stream_unary_rpc_method_handler(handle)

    async def refuse(self, name: str, context: Context, error: ServiceError) -> None:
        """End a call with an error before it is read."""
        request_context = self.open(context, 0).request_context
        if isinstance(error, Unauthorized | Forbidden):
            self._refusals.record(error, request_context.address, name)
        refusal = self.refusal(error, request_context)
        self.close(name, request_context, refusal.code, 0)
        await context.abort(refusal.code, refusal.message, _trailing(request_context, refusal))

    async def _read(self, context: Context) -> bytes:
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                data = await context.read()
        except TimeoutError as error:
            raise RequestTimeout("The request did not arrive in time.") from error
        if not isinstance(data, bytes):
            raise MalformedRequest("The call ended without a message.")
        return data

    # --- parts that streams use too ---

    def open(self, context: Context, request_bytes: int, *, is_probe: bool = False) -> Call:
        """Begin a request; `close` must follow."""
        self._drain.num_in_flight += 1
        self._request_metrics.start()
        metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id, started_at = self._ids.assign(metadata.get("x-request-id")), perf_counter()
        if self._tracing is None or is_probe:
            request_context = RequestContext(request_id, started_at)
        else:
            request_context = self._tracing.begin(request_id, started_at, metadata)
        request_context.caller = caller.get()
        request_context.address = self.address(context)
        request_context.request_bytes = request_bytes
        request_context.reservation = Reservation(self._budget)
        return Call(request_context, context.time_remaining())

    def address(self, context: Context) -> str:
        """Where a call comes from."""
        metadata = ((name.encode(), str(value).encode()) for name, value in context.invocation_metadata() or ())
        return self.callers.address(address_of(context.peer()), metadata)

    async def answer(
        self,
        request: Request,
        call: Call,
        answer: Callable[[Request, Call], Awaitable[Done]],
        *,
        is_probe: bool = False,
    ) -> Done:
        """Answer a request; when cancelled, its context is notified before the work is cancelled.

        Raises: ShuttingDown; UnknownModel where the key is for others; TooManyRequests; whatever `answer` raises.
        """
        if self._drain.is_refusing and not is_probe:
            raise ShuttingDown("The service is shutting down.", retry_after_seconds=1)
        if (caller := call.request_context.caller).models and (model := _model_in(request)):
            caller.check_model(model, self._models())
        if not is_probe:
            request_context = call.request_context
            account = self.callers.account(request_context.caller, request_context.address)
            request_context.charge_to(account, is_work=False)  # which messages are is for their methods to say
        work = asyncio.ensure_future(_coroutine(answer(request, call)))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            call.request_context.disconnect()
            work.cancel()
            with suppress(Exception, asyncio.CancelledError):
                await work
            raise
        finally:
            del work  # it keeps its error, whose traceback keeps this frame, and so the request

    def write_seconds(self, call: Call) -> float:
        """The time in which a message must be read: it ends at the call's deadline."""
        left_seconds = call.request_context.deadline - asyncio.get_running_loop().time()
        return max(min(self._write_timeout_seconds, left_seconds), MIN_WRITE_SECONDS)

    def count_watch(self, code: StatusCode) -> None:
        """Count a stream that only watches: it is no request in flight, and nothing waits for its end."""
        self.metrics.requests.labels("Watch", "", code.name).inc()

    def refusal(self, error: Exception, request_context: RequestContext) -> Refusal:
        """How a call ends that failed with an error."""
        if isinstance(error, ServiceError):
            error = as_seen_with(request_context.caller, error)
            return Refusal(code_of(error), error.message, error.retry_after_seconds)
        log.error("a call failed unexpectedly", exc_info=error, extra={"request_id": request_context.request_id})
        return Refusal(StatusCode.INTERNAL, "Internal error; see the service's log for this request id.")

    def close(self, name: str, request_context: RequestContext, code: StatusCode, sent_bytes: int) -> None:
        """End a request."""
        self._drain.num_in_flight -= 1
        request_context.end()
        seconds = self._request_metrics.finish(name, code.name, request_context, sent_bytes)
        if self._tracing is not None:
            self._tracing.end_call(request_context, name, code.name)
        is_fault = code in (StatusCode.INTERNAL, StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
        if self._logs_all or is_fault:
            log.log(
                logging.WARNING if is_fault else logging.INFO,
                "call",
                extra={
                    "request_id": request_context.request_id,
                    "route": name,
                    "model": request_context.model,
                    "caller": request_context.caller.name,
                    "address": request_context.address,
                    "status": code.name,
                    "ms": round(seconds * 1e3, 3),
                },
            )


def code_of(error: ServiceError) -> StatusCode:
    """The status of a call that failed with an error."""
    return _CODES.get(error.status, StatusCode.INVALID_ARGUMENT)


def keep(call: Call, num_bytes: int, what: str) -> None:
    """Set aside the bytes of a message until its call ends.

    Raises: Busy.
    """
    if num_bytes > SMALL_BYTES:
        call.request_context.reservation.grow(num_bytes, what)


def address_of(peer: str) -> str:
    """The address in what gRPC calls a peer, `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _trailing(request_context: RequestContext, refusal: Refusal) -> tuple[tuple[str, str], ...]:
    metadata = [("x-request-id", request_context.request_id)]
    if request_context.traceparent:
        metadata.append(("traceparent", request_context.traceparent))
    metadata += request_context.limit_fields()
    if refusal.retry_after_seconds is not None:
        metadata.append(("retry-after", str(max(1, math.ceil(refusal.retry_after_seconds)))))
    return tuple(metadata)


def _model_in(request: Message) -> str:
    """The model that a request names; messages without one name nothing else like that."""
    fields = type(request).DESCRIPTOR.fields_by_name
    name = next((name for name in ("model_name", "name") if name in fields), "")
    return str(getattr(request, name)) if name else ""


async def _coroutine(awaitable: Awaitable[Done]) -> Done:
    return await awaitable
