"""Several engines behind one client: who gets a request, and what is said of all of them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.engine.transport.calls import Call
from service.engine.transport.client import EngineClient
from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.link import EngineLink
from service.engine.transport.merging import merge_statuses, merge_traces
from service.engine.transport.messages import (
    BatchStatistics,
    Description,
    Duration,
    GraphStatistics,
    Infer,
    InferTarget,
    Message,
    ModelStatus,
    Quantum,
    Released,
    Result,
    Traced,
)
from service.errors import Busy, EngineUnavailable
from service.settings import Settings
from tests.fake_models.text_generation import AttentionDecoder
from tests.service.engine.texts import files
from tests.service.engine.transport.test_calls import Wire

NOTHING = memoryview(b"")
TARGET = InferTarget("tiny", "1", "model", ("y",))
MANIFEST = json.loads(json.dumps(files(AttentionDecoder).manifest.to_json()))


def status(state: str = "ready", version: str = "1", **others: Any) -> ModelStatus:
    return ModelStatus("tiny", version, state, manifest=MANIFEST, **others)


class Engines:
    """A client whose engines are this test."""

    def __init__(self, count: int = 2) -> None:
        self.client = EngineClient([""] * count, Settings(engine_restart_seconds=60.0))
        self.wires = [Wire() for _ in range(count)]
        for number in range(count):
            self.connect(number)

    def link(self, number: int) -> EngineLink:
        return self.client.links[number]

    def connect(self, number: int) -> None:
        transport = CoalescingTransport(self.wires[number], asyncio.get_running_loop())
        self.link(number).connected(transport)
        self.describe(number, status())

    def describe(self, number: int, *statuses: ModelStatus, id_: int = 0) -> None:
        self.link(number).handle(Description(id_, statuses, True), NOTHING)

    def send(self, num_rows: int = 1) -> Call:
        return self.client.compute(TARGET, [b"1234" * num_rows], num_rows, 10.0)

    def answer(self, number: int, call: Call, compute_seconds: float) -> None:
        result = Result([call.id], [], [0.0], compute_seconds, call.num_rows, (("y", "<f4", (call.num_rows,)),))
        self.link(number).handle(result, memoryview(b"1234" * call.num_rows))

    async def sent(self, number: int) -> list[Message]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [message for message, _ in self.wires[number].sent]


def with_engines(scenario: Callable[[Engines], Coroutine[Any, Any, None]], count: int = 2) -> None:
    async def main() -> None:
        await scenario(Engines(count))

    asyncio.run(main())


def num_rows(messages: list[Message]) -> int:
    return sum(sum(message.num_rows) for message in messages if isinstance(message, Infer))


def test_engines_that_are_alike_share_the_requests() -> None:
    async def scenario(engines: Engines) -> None:
        for _ in range(12):
            engines.send()
        assert [num_rows(await engines.sent(number)) for number in (0, 1)] == [6, 6]

    with_engines(scenario)


def test_a_request_goes_where_least_is_waiting() -> None:
    async def scenario(engines: Engines) -> None:
        engines.send(num_rows=8)
        for _ in range(4):
            engines.send(num_rows=2)
        assert sorted([num_rows(await engines.sent(number)) for number in (0, 1)]) == [8, 8]

    with_engines(scenario)


def test_a_slower_engine_gets_fewer_requests() -> None:
    async def scenario(engines: Engines) -> None:
        for _ in range(100):
            for call in [engines.send(), engines.send()]:
                number = 0 if engines.link(0).calls.find(call.id) else 1
                engines.answer(number, call, (0.1, 0.4)[number])
        before = [num_rows(await engines.sent(number)) for number in (0, 1)]
        for _ in range(50):
            engines.send()
        after = [num_rows(await engines.sent(number)) for number in (0, 1)]
        assert after[1] - before[1] == pytest.approx(10, abs=2)

    with_engines(scenario)


def test_engines_that_are_alike_share_the_requests_however_their_times_are_spread() -> None:
    async def scenario(engines: Engines) -> None:
        generator = random.Random(1)
        for _ in range(2000):
            call = engines.send()
            number = 0 if engines.link(0).calls.find(call.id) else 1
            engines.answer(number, call, 0.001 * generator.lognormvariate(0, 1))
        before = [num_rows(await engines.sent(number)) for number in (0, 1)]
        for _ in range(40):
            engines.send()
        after = [num_rows(await engines.sent(number)) for number in (0, 1)]
        assert min(before) > 400
        assert min(after[0] - before[0], after[1] - before[1]) > 12

    with_engines(scenario)


def test_one_slow_batch_does_not_put_an_engine_aside() -> None:
    async def scenario(engines: Engines) -> None:
        for seconds in (0.001, 0.5):
            call = engines.send()
            engines.answer(0 if engines.link(0).calls.find(call.id) else 1, call, seconds)
        for _ in range(20):
            engines.send()
        counts = [num_rows(await engines.sent(number)) for number in (0, 1)]
        assert min(counts) >= 10

    with_engines(scenario)


def test_what_an_engine_has_answered_does_not_count_any_more() -> None:
    async def scenario(engines: Engines) -> None:
        calls = [engines.send() for _ in range(6)]
        engines.client.cancel(calls[0])
        for call in calls[1:]:
            engines.answer(0 if engines.link(0).calls.find(call.id) else 1, call, 0.1)
        await asyncio.gather(*calls, return_exceptions=True)
        assert [link.calls.work_seconds for link in engines.client.links] == pytest.approx([0.0, 0.0])
        assert engines.client.num_in_flight == 0

    with_engines(scenario)


def test_what_is_refused_does_not_count() -> None:
    async def scenario(engines: Engines) -> None:
        for number in (0, 1):
            engines.link(number).pause()
        held = engines.client.budget.reserve(engines.client.budget.max_bytes, "a test")
        with pytest.raises(Busy):
            engines.send(num_rows=30_000)
        held.release()
        assert [link.calls.work_seconds for link in engines.client.links] == [0.0, 0.0]

    with_engines(scenario)


def test_while_an_engine_is_away_the_others_serve() -> None:
    async def scenario(engines: Engines) -> None:
        engines.link(0).disconnected()
        assert engines.client.is_ready
        call = engines.send()
        assert num_rows(await engines.sent(1)) == 1
        engines.answer(1, call, 0.1)
        arrays, _ = await call
        assert arrays["y"].shape == (1,)

    with_engines(scenario)


def test_what_a_lost_engine_held_waits_for_the_next_one_on_its_device() -> None:
    async def scenario(engines: Engines) -> None:
        calls = [engines.send(), engines.send()]
        lost = next(call for call in calls if engines.link(0).calls.find(call.id))
        await engines.sent(0)
        engines.link(0).disconnected()
        assert num_rows(await engines.sent(1)) == 1
        engines.connect(0)
        last = (await engines.sent(0))[-1]
        assert isinstance(last, Infer)
        assert (last.ids, last.num_losses) == ([lost.id], 1)

    with_engines(scenario)


def test_a_version_goes_to_the_engines_that_have_it_and_is_released_by_the_others() -> None:
    async def scenario(engines: Engines) -> None:
        engines.describe(0, status("unloading"), status(version="2", is_default=True))
        assert engines.client.resolve("tiny").version == "2"
        assert engines.client.resolve("tiny@1").version == "1"
        assert Released("tiny", "1") in await engines.sent(0)
        for _ in range(4):
            engines.send()
        assert [num_rows(await engines.sent(number)) for number in (0, 1)] == [0, 4]

    with_engines(scenario)


def test_models_are_loaded_by_all_engines_or_by_none() -> None:
    async def scenario(engines: Engines) -> None:
        loading = asyncio.create_task(engines.client.load("tiny"))
        for number in (0, 1):
            query = (await engines.sent(number))[-1]
            engines.describe(number, status(), id_=query.id)  # type: ignore[union-attr]
        await loading
        engines.link(1).disconnected()
        with pytest.raises(EngineUnavailable):
            await engines.client.unload("tiny")

    with_engines(scenario)


def test_a_version_is_as_ready_as_where_it_is_furthest_and_its_counts_are_summed() -> None:
    batches = (BatchStatistics(4, Duration(1, 5)), BatchStatistics(8, Duration(2, 7)))
    first = status(
        device="cuda:0",
        instances=1,
        statistics={"rows": 10.0, "mean_batch_size": 2.0},
        graph_statistics={"model": GraphStatistics(5, 10, 5, Duration(3, 9), batches=batches[:1])},
        memory_bytes=100,
    )
    second = status(
        device="cuda:1",
        instances=2,
        statistics={"rows": 5.0, "mean_batch_size": 4.0},
        graph_statistics={"model": GraphStatistics(9, 5, 2, Duration(1, 1), batches=batches)},
        memory_bytes=50,
    )
    broken = status("failed", reason="no memory", device="cuda:2")

    (merged,) = merge_statuses([(first,), (second,), (broken,)])

    assert (merged.state, merged.device, merged.instances, merged.memory_bytes) == ("ready", "cuda:0, cuda:1", 3, 150)
    assert "no memory" in merged.reason
    assert merged.statistics == {"rows": 15.0, "mean_batch_size": 3.0}
    counted = merged.graph_statistics["model"]
    assert (counted.last_inference_ms, counted.inference_count, counted.success) == (9, 15, Duration(4, 10))
    assert [(batch.batch_size, batch.compute_input) for batch in counted.batches] == [
        (4, Duration(2, 10)),
        (8, Duration(2, 7)),
    ]


def test_the_timelines_of_engines_are_one_by_the_machines_clock() -> None:
    quanta = [Quantum("m", "1", "model.0", "batch", 1, end - 1.0, end) for end in (3.0, 2.0)]

    merged = merge_traces({0: Traced(1, 3.5, (quanta[0],)), 1: Traced(2, 4.0, (quanta[1],))})

    assert merged.now == 4.0
    assert [quantum.instance for quantum in merged.quanta] == ["engine 1: model.0", "engine 0: model.0"]
