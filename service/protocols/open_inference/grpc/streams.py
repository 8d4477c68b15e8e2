"""ModelStreamInfer: many requests on one call, computed concurrently and answered in their order.

A request that fails is answered with its error and the stream goes on; by metadata, a client may choose that the first
error ends the stream instead. Source: Triton's extension of the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
from grpc import StatusCode

from service.background import Background
from service.protocols.open_inference.grpc.calls import Call, Calls, Context, Refusal, keep
from service.protocols.open_inference.grpc.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from service.protocols.open_inference.grpc.wire import parse

NAME = "ModelStreamInfer"
FINAL = "triton_final_response"
"""The parameter that marks the last response to a request."""
MAX_UNANSWERED = 64
"""Unanswered requests of one stream; further ones wait in the connection."""
_ENDS_AT_ERROR = ("triton_grpc_error", "true")
_SUCCESS = Refusal(StatusCode.OK, "")
_UNREAD = Refusal(StatusCode.DEADLINE_EXCEEDED, "The caller did not read a response in time.")
ABORT_SECONDS = 1.0

Respond = Callable[[ModelInferResponse], None]
Answer = Callable[[ModelInferRequest, Call, Respond], Awaitable[None]]


@dataclass(slots=True)
class _Pending:
    """One request of a stream; None ends its responses."""

    call: Call
    request: ModelInferRequest = field(default_factory=ModelInferRequest)
    responses: asyncio.Queue[ModelInferResponse | None] = field(default_factory=asyncio.Queue)
    refusal: Refusal = _SUCCESS
    work: asyncio.Task[None] | None = None


class Streams:
    """The open streams of one process."""

    def __init__(self, calls: Calls, answer: Answer) -> None:
        self._calls = calls
        self._answer = answer
        self._readers: set[asyncio.Task[None]] = set()
        self._background = Background()
        self._is_ending = False

    def handler(self) -> grpc.RpcMethodHandler:
        """The handler of the method."""
        return grpc.stream_stream_rpc_method_handler(self._handle)

    def end(self) -> None:
        """Take no more requests; each stream ends after its pending answers."""
        self._is_ending = True
        for reader in self._readers:
            reader.cancel()

    async def _handle(self, _messages: object, context: Context) -> None:
        queue: asyncio.Queue[_Pending | None] = asyncio.Queue()
        places = asyncio.Semaphore(MAX_UNANSWERED)
        reader = self._background.start("the reader of a stream", self._read(context, queue, places))
        self._readers.add(reader)
        if self._is_ending:
            reader.cancel()
        refusal = None
        try:
            while refusal is None and (pending := await queue.get()) is not None:
                refusal = await self._write(pending, context)
                places.release()
        finally:
            reader.cancel()
            self._readers.discard(reader)
            self._abandon(queue)
        if refusal is None and self._is_ending:
            refusal = Refusal(StatusCode.UNAVAILABLE, "The service is shutting down.")
        if refusal is not None:
            with suppress(TimeoutError):  # who reads nothing does not take the status either
                async with asyncio.timeout(ABORT_SECONDS):
                    await context.abort(refusal.code, refusal.message)

    async def _read(self, context: Context, queue: asyncio.Queue[_Pending | None], places: asyncio.Semaphore) -> None:
        try:
            await places.acquire()
            while isinstance(data := await context.read(), bytes):
                pending = _Pending(self._calls.open(context, len(data)))
                pending.work = self._background.start("a request of a stream", self._work(pending, data))
                queue.put_nowait(pending)
                await places.acquire()
        finally:
            queue.put_nowait(None)

    async def _work(self, pending: _Pending, data: bytes) -> None:
        def respond(response: ModelInferResponse) -> None:
            keep(pending.call, response.ByteSize(), "the answer")
            pending.responses.put_nowait(response)

        async def answer(request: ModelInferRequest, call: Call) -> None:
            await self._answer(request, call, respond)

        try:
            keep(pending.call, len(data), "the message")
            pending.request = await parse(ModelInferRequest, data)
            await self._calls.answer(pending.request, pending.call, answer)
        except Exception as error:
            pending.refusal = self._calls.refusal(error, pending.call.request_context)
        finally:
            pending.responses.put_nowait(None)

    async def _write(self, pending: _Pending, context: Context) -> Refusal | None:
        """Write the responses to a request; return its error if that must end the stream."""
        code, sent_bytes, ends = StatusCode.CANCELLED, 0, False
        try:
            while (response := await pending.responses.get()) is not None:
                sent_bytes += await self._send(pending, context, ModelStreamInferResponse(infer_response=response))
            if pending.refusal.code is not StatusCode.OK:
                ends = _ENDS_AT_ERROR in (context.invocation_metadata() or ())
                if not ends:
                    sent_bytes += await self._send(pending, context, _error(pending))
            code = pending.refusal.code
        except TimeoutError:
            pending.refusal, ends = _UNREAD, True
            code = _UNREAD.code
        finally:
            self._close(pending, code, sent_bytes)
        return pending.refusal if ends else None

    async def _send(self, pending: _Pending, context: Context, message: ModelStreamInferResponse) -> int:
        data = message.SerializeToString()
        async with asyncio.timeout(self._calls.write_seconds(pending.call)):
            await context.write(data)
        return len(data)

    def _abandon(self, queue: asyncio.Queue[_Pending | None]) -> None:
        while not queue.empty():
            if (pending := queue.get_nowait()) is not None:
                self._close(pending, StatusCode.CANCELLED, 0)

    def _close(self, pending: _Pending, code: StatusCode, sent_bytes: int) -> None:
        assert pending.work is not None
        pending.work.cancel()  # does nothing if it is done
        self._calls.close(NAME, pending.call.request_context, code, sent_bytes)


def _error(pending: _Pending) -> ModelStreamInferResponse:
    """An error as a response; unlike Triton's, it names its request."""
    request = pending.request
    named = ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    return ModelStreamInferResponse(error_message=pending.refusal.message, infer_response=named)
