"""Several engine calls of one request, with a client that the test controls."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import InferenceTiming
from service.errors import Cancelled, DeadlineExceeded, InferenceFailed
from service.http.request_context import RequestContext
from service.quotas import NOBODY, Account
from service.tasks.engine_work import EngineWork, run_concurrently


class FakeClient:
    """Keeps calls open until the test answers them."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[Any]] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.cancelled: list[asyncio.Future[Any]] = []

    def infer(self, *arguments: Any, row_shapes: tuple[tuple[int, ...], ...], account: Account) -> asyncio.Future[Any]:
        assert account is NOBODY
        self.calls.append(asyncio.get_running_loop().create_future())
        self.arguments.append((*arguments, row_shapes))
        return self.calls[-1]

    def cancel(self, call: asyncio.Future[Any]) -> None:
        if not call.done():
            self.cancelled.append(call)
            call.set_exception(Cancelled("The caller left."))


def work_of(client: FakeClient, context: RequestContext, seconds: float = 5.0) -> EngineWork:
    return EngineWork(cast(EngineClient, client), cast(ReadyModel, "a model"), context, seconds)


ROW = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
WEIGHTS = np.ones(2, np.float32)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_rows_have_their_shapes_and_timings_add_up() -> None:
    async def scenario() -> None:
        client, context = FakeClient(), RequestContext("", 0.0)
        work = work_of(client, context)
        calls = (work.infer("tile", (ROW, WEIGHTS), ("painting",)) for _ in range(2))
        job = asyncio.create_task(work.run(run_concurrently(calls)))
        await turns()
        for index, call in enumerate(client.calls):
            call.set_result(({"painting": ROW[None] + index}, InferenceTiming(0.25, 0.5, 1 + index)))

        found = await job

        assert [arrays["painting"][0, 0, 0, 0] for arrays in found] == [0, 1]
        assert context.timing == InferenceTiming(0.5, 1.0, 2)
        model, graph, outputs, payload, num_rows, seconds, row_shapes = client.arguments[0]
        assert (model, graph, outputs, num_rows) == ("a model", "tile", ("painting",), 1)
        assert [bytes(part) for part in payload] == [ROW.tobytes(), WEIGHTS.tobytes()]
        assert row_shapes == ((1, 2, 3), (2,))
        assert 4 < seconds <= 5
        assert context.on_disconnect is None

    asyncio.run(scenario())


def test_several_rows_are_one_call() -> None:
    async def scenario() -> None:
        client, context = FakeClient(), RequestContext("", 0.0)
        work = work_of(client, context)
        latents, labels = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2], np.array([2, 0, 1])
        job = asyncio.create_task(work.infer("decoder", (latents, labels), ("image",), num_rows=3))
        await turns()
        client.calls[0].set_result(({"image": ROW}, InferenceTiming(0.25, 0.5, 3)))

        assert (await job)["image"] is ROW
        *_, payload, num_rows, _, row_shapes = client.arguments[0]
        assert [bytes(part) for part in payload] == [latents.tobytes(), labels.tobytes()]
        assert (num_rows, row_shapes) == (3, ((2,), ()))

    asyncio.run(scenario())


def test_calls_are_cancelled_in_the_engine_when_the_caller_leaves() -> None:
    async def scenario() -> None:
        client, context = FakeClient(), RequestContext("", 0.0)
        work = work_of(client, context)
        calls = (work.infer("tile", (ROW,), ("painting",)) for _ in range(3))
        job = asyncio.create_task(work.run(run_concurrently(calls)))
        await turns()
        context.disconnect()

        with pytest.raises(Cancelled):
            await job
        assert set(client.cancelled) == set(client.calls)
        assert len(client.calls) == 3

    asyncio.run(scenario())


def test_no_call_is_made_for_a_caller_that_has_left() -> None:
    async def scenario() -> None:
        client, context = FakeClient(), RequestContext("", 0.0, is_disconnected=True)
        work = work_of(client, context)

        async def paint() -> None:
            await work.infer("tile", (ROW,), ("painting",))

        job = paint()
        with pytest.raises(Cancelled):
            await work.run(job)
        job.close()
        assert client.calls == []

    asyncio.run(scenario())


def test_the_deadline_is_one_for_all_calls() -> None:
    async def scenario() -> None:
        client, context = FakeClient(), RequestContext("", 0.0)
        work = work_of(client, context, 0.02)
        with pytest.raises(DeadlineExceeded, match=r"0\.02 s passed"):
            await work.run(work.infer("tile", (ROW,), ("painting",)))
        assert client.cancelled == client.calls
        with pytest.raises(DeadlineExceeded):
            await work.infer("tile", (ROW,), ("painting",))
        assert len(client.calls) == 1

    asyncio.run(scenario())


def test_one_failure_cancels_the_other_calls_and_is_raised_unwrapped() -> None:
    async def scenario() -> None:
        client, context = FakeClient(), RequestContext("", 0.0)
        work = work_of(client, context)
        calls = (work.infer("tile", (ROW,), ("painting",)) for _ in range(3))
        job = asyncio.create_task(work.run(run_concurrently(calls)))
        await turns()
        client.calls[1].set_exception(InferenceFailed("The model failed."))

        with pytest.raises(InferenceFailed):
            await job
        assert set(client.cancelled) == {client.calls[0], client.calls[2]}

    asyncio.run(scenario())
