"""ModelStreamInfer: many requests and their answers on one call, answers in the order of the requests.

Requests are worked on side by side. One that fails is answered with its error and the stream goes on. Source: Triton's
extension of the protocol, whose clients may ask by metadata that the first error ends the stream instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
from grpc import StatusCode

from service.protocols.open_inference.grpc.calls import Call, Calls, Context, Refusal, parse
from service.protocols.open_inference.grpc.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

NAME = "ModelStreamInfer"
FINAL = "triton_final_response"
"""The parameter that tells the last response to a request."""
MAX_UNANSWERED = 64
"""Requests of one stream that are worked on; further ones are left in the connection meanwhile."""
_ENDS_AT_ERROR = ("triton_grpc_error", "true")
_SUCCESS = Refusal(StatusCode.OK, "")

Tell = Callable[[ModelInferResponse], None]
Answer = Callable[[ModelInferRequest, Call, Tell], Awaitable[None]]


@dataclass(slots=True)
class _Asked:
    """One request of a stream; None among the responses is their end."""

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
        self._is_ending = False

    def handler(self) -> grpc.RpcMethodHandler:
        """The handler of the method."""
        return grpc.stream_stream_rpc_method_handler(self._handle)

    def end(self) -> None:
        """Take no more requests; each stream ends behind the answers that are due."""
        self._is_ending = True
        for reader in self._readers:
            reader.cancel()

    async def _handle(self, _messages: object, context: Context) -> None:
        due: asyncio.Queue[_Asked | None] = asyncio.Queue()
        places = asyncio.Semaphore(MAX_UNANSWERED)
        reader = asyncio.create_task(self._read(context, due, places))
        self._readers.add(reader)
        if self._is_ending:
            reader.cancel()
        refusal = None
        try:
            while refusal is None and (asked := await due.get()) is not None:
                refusal = await self._write(asked, context)
                places.release()
        finally:
            reader.cancel()
            self._readers.discard(reader)
            self._abandon(due)
        if refusal is None and self._is_ending:
            refusal = Refusal(StatusCode.UNAVAILABLE, "The service is shutting down.")
        if refusal is not None:
            await context.abort(refusal.code, refusal.message)

    async def _read(self, context: Context, due: asyncio.Queue[_Asked | None], places: asyncio.Semaphore) -> None:
        try:
            await places.acquire()
            while isinstance(data := await context.read(), bytes):
                asked = _Asked(self._calls.open(context, len(data)))
                asked.work = asyncio.create_task(self._work(asked, data))
                due.put_nowait(asked)
                await places.acquire()
        finally:
            due.put_nowait(None)

    async def _work(self, asked: _Asked, data: bytes) -> None:
        async def answer(request: ModelInferRequest, call: Call) -> None:
            await self._answer(request, call, asked.responses.put_nowait)

        try:
            asked.request = parse(ModelInferRequest, data)
            await self._calls.answer(asked.request, asked.call, answer)
        except Exception as error:
            asked.refusal = self._calls.refusal(error, asked.call.request_context)
        finally:
            asked.responses.put_nowait(None)

    async def _write(self, asked: _Asked, context: Context) -> Refusal | None:
        """Write what answers a request; return its error where that is to end the stream."""
        code, sent_bytes, ends = StatusCode.CANCELLED, 0, False
        try:
            while (response := await asked.responses.get()) is not None:
                sent_bytes += await _send(context, ModelStreamInferResponse(infer_response=response))
            if asked.refusal.code is not StatusCode.OK:
                ends = _ENDS_AT_ERROR in (context.invocation_metadata() or ())
                if not ends:
                    sent_bytes += await _send(context, _error(asked))
            code = asked.refusal.code
        finally:
            self._close(asked, code, sent_bytes)
        return asked.refusal if ends else None

    def _abandon(self, due: asyncio.Queue[_Asked | None]) -> None:
        while not due.empty():
            if (asked := due.get_nowait()) is not None:
                self._close(asked, StatusCode.CANCELLED, 0)

    def _close(self, asked: _Asked, code: StatusCode, sent_bytes: int) -> None:
        assert asked.work is not None
        asked.work.cancel()  # nothing, where it is done
        self._calls.close(NAME, asked.call.request_context, code, sent_bytes)


async def _send(context: Context, message: ModelStreamInferResponse) -> int:
    data = message.SerializeToString()
    await context.write(data)
    return len(data)


def _error(asked: _Asked) -> ModelStreamInferResponse:
    """An error as an answer; it says which request it answers, which Triton leaves to the order."""
    request = asked.request
    told = ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    return ModelStreamInferResponse(error_message=asked.refusal.message, infer_response=told)
