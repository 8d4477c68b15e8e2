"""What surrounds every call: deadlines, cancellation, limits, errors, ids, metrics, drain. The server is real."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.errors import (
    DeadlineExceeded,
    InvalidParameter,
    QueueFull,
    ServiceError,
    UndecodableImage,
    UnknownModel,
    Unsupported,
)
from service.http.request_context import RequestContext
from service.protocols.open_inference.execution import InferResult
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.server import HEALTH_NAME as HEALTH
from service.protocols.open_inference.request import InferRequest, RequestedOutput
from tests.service.protocols.open_inference.grpc.servers import Served, eventually, serving

ASKED = pb.ModelInferRequest(model_name="m", id="7").SerializeToString()


async def echo(model: str, request: InferRequest, _exchange: RequestContext, _seconds: float | None) -> InferResult:
    outputs = tuple((RequestedOutput(name=tensor.name), tensor) for tensor in request.inputs)
    return InferResult(model, "1", request.id, outputs)


async def failure(call: Any) -> tuple[StatusCode, str]:
    """How a call ends that must not go well."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def big(num_bytes: int) -> bytes:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(num_bytes)])
    request.inputs.add(name="x", datatype="UINT8", shape=[num_bytes])
    data: bytes = request.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidParameter("No."), StatusCode.INVALID_ARGUMENT),
        (UndecodableImage("No."), StatusCode.INVALID_ARGUMENT),
        (UnknownModel("No."), StatusCode.NOT_FOUND),
        (Unsupported("No."), StatusCode.UNIMPLEMENTED),
        (DeadlineExceeded("No."), StatusCode.DEADLINE_EXCEEDED),
        (ServiceError("No."), StatusCode.INTERNAL),
    ],
)
def test_an_error_of_ours_ends_the_call_with_its_message(error: ServiceError, code: StatusCode) -> None:
    async def refuse(*_arguments: object) -> InferResult:
        raise error

    async def main() -> None:
        async with serving(refuse) as served:
            assert await failure(served.unary("ModelInfer")(ASKED)) == (code, "No.")
            assert served.count("ModelInfer", code.name, "m") == 1

    asyncio.run(main())


def test_a_full_queue_says_when_to_come_back() -> None:
    async def refuse(*_arguments: object) -> InferResult:
        raise QueueFull("Full.", retry_after_seconds=2.4)

    async def main() -> None:
        async with serving(refuse) as served:
            call = served.unary("ModelInfer")(ASKED)
            assert await failure(call) == (StatusCode.UNAVAILABLE, "Full.")
            assert dict(await call.trailing_metadata())["retry-after"] == "3"

    asyncio.run(main())


def test_a_defect_is_answered_without_a_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(*_arguments: object) -> InferResult:
        raise RuntimeError("secret at 0x7ff3")

    async def main() -> None:
        async with serving(fail) as served:
            code, message = await failure(served.unary("ModelInfer")(ASKED))
            assert code is StatusCode.INTERNAL
            assert "secret" not in message
            assert served.drain.num_in_flight == 0

    asyncio.run(main())

    assert "secret" in caplog.text


@pytest.mark.parametrize("sent", ["an-id.of:mine", "no good", "x" * 129])
def test_an_answer_carries_the_id_of_its_request(sent: str) -> None:
    async def main() -> None:
        async with serving(echo) as served:
            call = served.unary("ModelInfer")(ASKED, metadata=(("x-request-id", sent),))
            await call
            told = dict(await call.trailing_metadata())["x-request-id"]
            assert (told == sent) is (sent == "an-id.of:mine")
            assert told

    asyncio.run(main())


def test_the_deadline_of_a_call_is_the_time_for_its_work() -> None:
    seen: list[float | None] = []

    async def note(
        model: str, request: InferRequest, request_context: RequestContext, seconds: float | None
    ) -> InferResult:
        seen.append(seconds)
        return await echo(model, request, request_context, seconds)

    async def main() -> None:
        async with serving(note) as served:
            await served.unary("ModelInfer")(ASKED)
            await served.unary("ModelInfer")(ASKED, timeout=50)

    asyncio.run(main())

    assert seen[0] is None
    assert seen[1] is not None
    assert 10 < seen[1] < 51  # gRPC rounds what it sends


class Endless:
    """Inference that never ends by itself, and what became of it."""

    def __init__(self) -> None:
        self.begun = 0
        self.was_told: list[bool] = []
        self.ended = 0

    async def __call__(
        self, _model: str, _request: InferRequest, request_context: RequestContext, _seconds: float | None
    ) -> InferResult:
        self.begun += 1
        left = asyncio.get_running_loop().create_future()
        request_context.on_disconnect = lambda: left.set_result(None)
        try:
            await asyncio.shield(left)
        finally:
            self.ended += 1
            self.was_told.append(left.done())
        raise AssertionError("the caller has left")


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_when_the_caller_leaves_the_work_is_told_before_it_is_cancelled(how: str) -> None:
    endless = Endless()

    async def main() -> None:
        async with serving(endless) as served:
            call = served.unary("ModelInfer")(ASKED, timeout=1 if how == "deadline" else None)
            await eventually(lambda: endless.begun)
            if how == "cancel":
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            else:
                assert (await failure(call))[0] is StatusCode.DEADLINE_EXCEEDED
            await eventually(lambda: served.drain.num_in_flight == 0)
            assert served.count("ModelInfer", "CANCELLED", "m") == 1

    asyncio.run(main())

    assert endless.was_told == [True]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_may_be_as_large_as_a_body_also_when_decompressed(compression: grpc.Compression) -> None:
    async def main() -> None:
        async with serving(echo, max_body_bytes=2**20) as served:
            infer = served.unary("ModelInfer")
            answer = pb.ModelInferResponse.FromString(await infer(big(2**20 - 100), compression=compression))
            assert list(answer.raw_output_contents) == [bytes(2**20 - 100)]
            code, _ = await failure(infer(big(2**20 + 100), compression=compression))
            assert code is StatusCode.RESOURCE_EXHAUSTED

    asyncio.run(main())


def test_a_message_that_does_not_come_is_not_waited_for_for_ever() -> None:
    async def main() -> None:
        async with serving(echo, body_timeout_seconds=0.2) as served:
            # On the wire a call of one message, of which the message does not come.
            call = served.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")()
            assert await failure(call) == (StatusCode.DEADLINE_EXCEEDED, "The request did not arrive in time.")
            assert served.drain.num_in_flight == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("message", "quoted"), [(b"\xff\xff", "not a inference.ModelInferRequest"), (None, "ended without a message")]
)
def test_what_is_no_message_is_refused(message: bytes | None, quoted: str) -> None:
    async def main() -> None:
        async with serving(echo) as served:
            call = served.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")()
            if message is not None:
                await call.write(message)
            await call.done_writing()
            code, told = await failure(call)
            assert code is StatusCode.INVALID_ARGUMENT
            assert quoted in told

    asyncio.run(main())


def test_metrics_have_method_status_model_and_bytes() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            sent = big(1000)
            received = await served.unary("ModelInfer")(sent)
            await eventually(lambda: served.count("ModelInfer", "OK", "m") == 1)
            sample = served.metrics.registry.get_sample_value
            labels = {"route": "ModelInfer"}
            assert sample("hotplate_request_bytes_total", labels) == len(sent)
            assert sample("hotplate_response_bytes_total", labels) == len(received)
            assert sample("hotplate_request_seconds_count", labels | {"model": "m"}) == 1
            assert sample("hotplate_requests_in_flight") == 0

    asyncio.run(main())


def test_only_errors_of_the_service_are_logged_unless_the_access_log_is_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.access")

    async def main() -> None:
        async with serving(echo) as served:
            await served.unary("ModelInfer")(ASKED)
        assert not caplog.records
        async with serving(echo, access_log=True) as served:
            await served.unary("ModelInfer")(ASKED)

    asyncio.run(main())

    (record,) = caplog.records
    assert (record.__dict__["route"], record.__dict__["model"], record.__dict__["status"]) == ("ModelInfer", "m", "OK")


def test_a_refusing_process_still_answers_probes() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            served.drain.is_draining = served.drain.is_refusing = True
            code, message = await failure(served.unary("ModelInfer")(ASKED))
            assert (code, message) == (StatusCode.UNAVAILABLE, "The service is shutting down.")
            assert pb.ServerLiveResponse.FromString(await served.unary("ServerLive")(b"")).live
            assert not pb.ServerReadyResponse.FromString(await served.unary("ServerReady")(b"")).ready
            assert await health(served) == HealthCheckResponse.NOT_SERVING

    asyncio.run(main())


def test_a_stopping_server_lets_calls_end_and_takes_no_more() -> None:
    may_end = asyncio.Event()

    async def wait(
        model: str, request: InferRequest, request_context: RequestContext, seconds: float | None
    ) -> InferResult:
        await may_end.wait()
        return await echo(model, request, request_context, seconds)

    async def main() -> None:
        async with serving(wait) as served:
            call = served.unary("ModelInfer")(ASKED)
            await eventually(lambda: served.drain.num_in_flight)
            refusing = asyncio.create_task(served.server.refuse(30))
            await asyncio.sleep(0.1)
            code, _ = await failure(served.unary("ModelInfer")(ASKED, timeout=20))
            assert code is StatusCode.UNAVAILABLE
            may_end.set()
            assert pb.ModelInferResponse.FromString(await call).id == "7"
            await refusing

    asyncio.run(main())


@pytest.mark.parametrize(
    "method",
    [
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_what_is_not_offered_says_why(method: str) -> None:
    async def main() -> None:
        async with serving(echo) as served:
            code, message = await failure(served.unary(method)(b""))
            assert code is StatusCode.UNIMPLEMENTED
            assert message.endswith(".")
            assert "service" in message

    asyncio.run(main())


async def health(served: Served, service: str = "") -> int:
    answer = await served.unary("Check", HEALTH)(HealthCheckRequest(service=service).SerializeToString())
    return int(HealthCheckResponse.FromString(answer).status)


def test_health_is_that_of_the_engine() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            assert await health(served) == HealthCheckResponse.SERVING
            assert await health(served, "inference.GRPCInferenceService") == HealthCheckResponse.SERVING
            served.execution.client.is_ready = False
            assert await health(served) == HealthCheckResponse.NOT_SERVING
            code, message = await failure(
                served.unary("Check", HEALTH)(HealthCheckRequest(service="x").SerializeToString())
            )
            assert (code, "'x'" in message) == (StatusCode.NOT_FOUND, True)

    asyncio.run(main())


def test_a_health_watch_sees_every_change() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            watch = served.channel.unary_stream(f"/{HEALTH}/Watch")
            call = watch(HealthCheckRequest().SerializeToString())
            assert HealthCheckResponse.FromString(await call.read()).status == HealthCheckResponse.SERVING
            served.execution.client.is_ready = False
            assert HealthCheckResponse.FromString(await call.read()).status == HealthCheckResponse.NOT_SERVING
            served.execution.client.is_ready = True
            assert HealthCheckResponse.FromString(await call.read()).status == HealthCheckResponse.SERVING
            call.cancel()
            unknown = watch(HealthCheckRequest(service="x").SerializeToString())
            told = HealthCheckResponse.FromString(await unknown.read()).status
            assert told == HealthCheckResponse.SERVICE_UNKNOWN
            unknown.cancel()
            assert (await failure(watch(b"\xff").read()))[0] is StatusCode.INVALID_ARGUMENT

    asyncio.run(main())
