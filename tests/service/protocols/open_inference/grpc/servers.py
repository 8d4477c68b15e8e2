"""Starts the gRPC server inside a test, in front of an execution core that the test writes itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
from prometheus_client import CollectorRegistry

from service.budget import ByteBudget
from service.http.middleware import Drain
from service.http.request_context import RequestContext
from service.protocols.open_inference.execution import Execution, InferResult
from service.protocols.open_inference.grpc.methods import NAME
from service.protocols.open_inference.grpc.server import GrpcServer
from service.protocols.open_inference.inputs import ModelInputs
from service.protocols.open_inference.request import InferRequest
from service.quotas import Callers
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.protocols.open_inference.manifests import ANY_MODEL

Infer = Callable[[str, InferRequest, RequestContext, float | None], Awaitable[InferResult]]


class FakeClient:
    """An engine client that is ready or not, as the test says."""

    is_ready = True
    is_connected = True
    is_settled = True
    unready: tuple[str, ...] = ()
    statuses: tuple[Any, ...] = ()


class FakeExecution:
    """An execution core whose inference is the test's."""

    def __init__(self, infer: Infer) -> None:
        self.client = FakeClient()
        self.budget = ByteBudget(2**26)
        self.callers = Callers()
        self._infer = infer

    def find(self, model: str, version: str | None) -> Any:
        return SimpleNamespace(model=SimpleNamespace(name=model), graph_name="model", graph=None, writes_text=False)

    def inputs_of(self, target: Any) -> ModelInputs:
        return ANY_MODEL

    async def infer(
        self,
        model: str,
        version: str | None,
        request: InferRequest,
        request_context: RequestContext,
        *,
        timeout_seconds: float | None = None,
    ) -> InferResult:
        request_context.model = model
        return await self._infer(model, request, request_context, timeout_seconds)


class Served:
    """A running server and a channel to it."""

    def __init__(self, server: GrpcServer, execution: FakeExecution, drain: Drain, metrics: Metrics) -> None:
        self.server = server
        self.execution = execution
        self.drain = drain
        self.metrics = metrics
        self.channel: Any = None
        self.port = 0

    def unary(self, method: str, service: str = NAME) -> Any:
        """A call of one message for one, in bytes."""
        return self.channel.unary_unary(f"/{service}/{method}")

    def stream(self, **options: Any) -> Any:
        """An open ModelStreamInfer, in bytes."""
        return self.channel.stream_stream(f"/{NAME}/ModelStreamInfer")(**options)

    def count(self, route: str, status: str, model: str = "") -> float:
        """The requests counted so far."""
        labels = {"route": route, "status": status, "model": model}
        return self.metrics.registry.get_sample_value("hotplate_requests_total", labels) or 0.0


@asynccontextmanager
async def serving(infer: Infer, **settings: Any) -> AsyncIterator[Served]:
    """Serve a test's inference on a free port."""
    drain, metrics, execution = Drain(), Metrics(CollectorRegistry()), FakeExecution(infer)
    server = GrpcServer(cast(Execution, execution), Settings(**settings), metrics, drain)
    port = await server.start("127.0.0.1:0")
    served = Served(server, execution, drain, metrics)
    served.port = port
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as served.channel:
            yield served
    finally:
        await server.stop()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail after a bounded time."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
