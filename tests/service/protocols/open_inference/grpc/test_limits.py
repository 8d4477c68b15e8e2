"""What calls may keep and hold open: messages, answers that are not read, watchers, connections. The server is real."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest

from service.budget import SMALL_BYTES
from service.http.request_context import RequestContext
from service.protocols.open_inference.execution import InferResult
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc import server
from service.protocols.open_inference.request import InferRequest
from tests.service.protocols.open_inference.grpc.servers import eventually, serving

WATCH = "/grpc.health.v1.Health/Watch"


async def echo(model: str, request: InferRequest, _context: RequestContext, _seconds: float | None) -> InferResult:
    """Answer with an id as long as the request's."""
    return InferResult(model, "1", request.id, ())


def asked(num_bytes: int) -> bytes:
    request: Message = pb.ModelInferRequest(model_name="m", id="a" * num_bytes)
    data: bytes = request.SerializeToString()
    return data


def test_a_message_for_which_there_is_no_room_is_refused_and_a_small_one_is_answered() -> None:
    async def scenario() -> None:
        async with serving(echo) as served:
            infer, budget = served.unary("ModelInfer"), served.execution.budget
            with budget.reserve(budget.max_bytes - SMALL_BYTES, "another"):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await infer(asked(2 * SMALL_BYTES))
                await infer(asked(10))
            assert refused.value.code() is StatusCode.UNAVAILABLE
            assert ("retry-after", "1") in tuple(refused.value.trailing_metadata())
            await infer(asked(2 * SMALL_BYTES))
            assert budget.used_bytes == 0

    asyncio.run(scenario())


def test_a_stream_whose_responses_nobody_reads_ends() -> None:
    async def scenario() -> None:
        async with serving(echo, write_timeout_seconds=0.5) as served:
            call = served.stream()
            for _ in range(60):  # more than the client's window holds, which it gives back only as it reads
                await call.write(asked(2 * SMALL_BYTES))
            await eventually(lambda: served.count("ModelStreamInfer", "DEADLINE_EXCEEDED", "m") == 1)
            await eventually(lambda: served.drain.num_in_flight == 0)
            assert served.execution.budget.used_bytes == 0
            call.cancel()

    asyncio.run(scenario())


def test_watchers_are_counted_and_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_WATCHERS", 3)

    async def scenario() -> None:
        async with serving(echo) as served:
            watch, request = served.channel.unary_stream(WATCH), HealthCheckRequest().SerializeToString()
            calls = [watch(request) for _ in range(3)]
            for call in calls:
                await call.read()
            assert served.metrics.health_watchers.value == 3
            assert served.drain.num_in_flight == 0  # nothing waits for them to end

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await watch(request).read()

            assert refused.value.code() is StatusCode.UNAVAILABLE
            assert served.count("Watch", "UNAVAILABLE") == 1
            for call in calls:
                call.cancel()
            await eventually(lambda: served.metrics.health_watchers.value == 0)
            assert served.count("Watch", "CANCELLED") == 3

    asyncio.run(scenario())


def test_connections_beyond_the_limit_are_refused() -> None:
    def is_open(peer: socket.socket) -> bool:
        peer.settimeout(1)
        try:
            return peer.recv(1) != b""
        except ConnectionError:
            return False

    async def scenario() -> None:
        async with serving(echo, max_connections=4) as served:
            peers = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(8)]
            for peer in peers:
                peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
            opened = await asyncio.gather(*(asyncio.to_thread(is_open, peer) for peer in peers))
            for peer in peers:
                peer.close()
            assert sum(opened) == 4

    asyncio.run(scenario())
