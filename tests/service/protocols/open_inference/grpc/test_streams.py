"""ModelStreamInfer: many requests on one call, in order, each with its own error. The server is real."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from service.errors import InvalidParameter
from service.http.request_context import RequestContext
from service.protocols.open_inference.execution import InferResult
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.streams import MAX_UNANSWERED
from service.protocols.open_inference.request import InferRequest
from tests.service.protocols.open_inference.grpc.servers import Served, eventually, serving

NAME = "ModelStreamInfer"


def asked(id_: str) -> bytes:
    data: bytes = pb.ModelInferRequest(model_name="m", id=id_).SerializeToString()
    return data


async def answered(call: Any) -> pb.ModelStreamInferResponse:
    data = await call.read()
    assert isinstance(data, bytes), data
    answer: pb.ModelStreamInferResponse = pb.ModelStreamInferResponse.FromString(data)
    return answer


async def picky(model: str, request: InferRequest, _exchange: RequestContext, _seconds: float | None) -> InferResult:
    """Later requests are done first; those named `bad` fail."""
    assert request.id is not None
    if request.id.startswith("bad"):
        raise InvalidParameter(f"No {request.id}.")
    await asyncio.sleep(0.05 if request.id == "first" else 0)
    return InferResult(model, "1", request.id, ())


class Waiting:
    """Inference that goes on only when it may, and how many requests it has."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def __call__(
        self, model: str, request: InferRequest, request_context: RequestContext, _seconds: float | None
    ) -> InferResult:
        self.begun += 1
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            assert request_context.is_disconnected
            self.cancelled += 1
            raise
        return InferResult(model, "1", request.id, ())


def test_answers_come_in_the_order_of_the_requests_and_errors_in_their_place() -> None:
    async def main() -> None:
        async with serving(picky) as served:
            call = served.stream()
            for id_ in ("first", "bad two", "three"):
                await call.write(asked(id_))
            first, second, third = [await answered(call) for _ in range(3)]
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert (await call.code()) is StatusCode.OK
            assert (first.infer_response.id, first.error_message) == ("first", "")
            assert first.infer_response.parameters["triton_final_response"].bool_param
            assert second.error_message == "No bad two."
            assert (second.infer_response.id, second.infer_response.model_name) == ("bad two", "m")
            assert (third.infer_response.id, third.error_message) == ("three", "")
            assert served.count(NAME, "OK", "m") == 2
            assert served.count(NAME, "INVALID_ARGUMENT", "m") == 1

    asyncio.run(main())


def test_what_is_no_message_is_answered_and_the_stream_goes_on() -> None:
    async def main() -> None:
        async with serving(picky) as served:
            call = served.stream()
            await call.write(b"\xff\xff")
            await call.write(asked("two"))
            assert "ModelInferRequest" in (await answered(call)).error_message
            assert (await answered(call)).infer_response.id == "two"
            await call.done_writing()

    asyncio.run(main())


def test_a_client_may_have_the_first_error_end_the_stream() -> None:
    async def main() -> None:
        async with serving(picky) as served:
            call = served.stream(metadata=(("triton_grpc_error", "true"),))
            for id_ in ("one", "bad two", "three"):
                await call.write(asked(id_))
            assert (await answered(call)).infer_response.id == "one"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert (caught.value.code(), caught.value.details()) == (StatusCode.INVALID_ARGUMENT, "No bad two.")
            await eventually(lambda: served.drain.num_in_flight == 0)

    asyncio.run(main())


def test_requests_of_a_stream_run_concurrently_up_to_a_bound() -> None:
    async def main() -> None:
        waiting = Waiting()
        async with serving(waiting) as served:
            call = served.stream()
            writing = asyncio.create_task(_write_many(call, MAX_UNANSWERED + 10))
            await eventually(lambda: waiting.begun == MAX_UNANSWERED)
            await asyncio.sleep(0.1)
            assert waiting.begun == served.drain.num_in_flight == MAX_UNANSWERED
            waiting.may_go_on.set()
            ids = [(await answered(call)).infer_response.id for _ in range(MAX_UNANSWERED + 10)]
            assert ids == [str(index) for index in range(MAX_UNANSWERED + 10)]
            await writing
            await eventually(lambda: served.drain.num_in_flight == 0)

    asyncio.run(main())


async def _write_many(call: Any, count: int) -> None:
    for index in range(count):
        await call.write(asked(str(index)))
    await call.done_writing()


def test_all_requests_of_a_stream_are_cancelled_when_its_caller_leaves() -> None:
    async def main() -> None:
        waiting = Waiting()
        async with serving(waiting) as served:
            call = served.stream()
            for index in range(3):
                await call.write(asked(str(index)))
            await eventually(lambda: waiting.begun == 3)
            call.cancel()
            await eventually(lambda: served.drain.num_in_flight == 0)
            await eventually(lambda: waiting.cancelled == 3)
            assert served.count(NAME, "CANCELLED", "m") == 3

    asyncio.run(main())


async def _ends_unavailable(served: Served, call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert (caught.value.code(), caught.value.details()) == (StatusCode.UNAVAILABLE, "The service is shutting down.")
    assert served.drain.num_in_flight == 0


def test_a_stopping_server_answers_pending_requests_and_ends_the_stream() -> None:
    async def main() -> None:
        waiting = Waiting()
        async with serving(waiting) as served:
            idle, busy = served.stream(), served.stream()
            await busy.write(asked("one"))
            await eventually(lambda: waiting.begun == 1)
            await asyncio.sleep(0.1)  # for the idle one to arrive as well
            refusing = asyncio.create_task(served.server.refuse(30))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await idle.read()
            assert caught.value.code() is StatusCode.UNAVAILABLE
            waiting.may_go_on.set()
            assert (await answered(busy)).infer_response.id == "one"
            await _ends_unavailable(served, busy)
            await refusing

    asyncio.run(main())
