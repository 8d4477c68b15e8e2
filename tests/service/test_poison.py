"""A request that ends the engine costs nobody else an answer, and neither does an engine that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fake_models.bare_graphs import DEADLY, deadly_bytes, scale_bytes, write_bare
from tests.servers import RunningService

ENGINE = "service.processes.engine_process"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    tmp_path = tmp_path_factory.mktemp("poison")
    write_bare(tmp_path, "deadly", deadly_bytes())
    write_bare(tmp_path, "scale", scale_bytes(2))
    # A machine that does much else takes long to start an engine.
    patient = ("--engine-restart-seconds", "100", "--request-timeout-seconds", "100")
    with RunningService(tmp_path, "--instances", "1", "--threads", "1", *patient) as service:
        yield service.wait_until_ready()


def body(value: float, datatype: str) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": [1, 3], "data": [value, 2, 3]}]}


async def ask(client: httpx.AsyncClient, model: str, value: float) -> httpx.Response:
    datatype = "INT32" if model == "deadly" else "FP32"
    return await client.post(f"/v2/models/{model}/infer", json=body(value, datatype))


async def call_until(client: httpx.AsyncClient, ended: asyncio.Event, number: int, statuses: Counter[int]) -> None:
    """Ask again and again; every answer must be this caller's."""
    while not ended.is_set():
        model = ("scale", "deadly")[number % 2]
        answer = await ask(client, model, number)
        statuses[answer.status_code] += 1
        if answer.status_code == 200:
            expected = 2 * number if model == "scale" else -(2**31) % -(DEADLY + 1 - number)
            assert answer.json()["outputs"][0]["data"][0] == expected


def test_poison_is_refused_and_everybody_beside_it_is_answered(service: RunningService) -> None:
    async def main() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=service.url, timeout=120, limits=limits) as client:
            ended, statuses = asyncio.Event(), Counter[int]()
            callers = [asyncio.create_task(call_until(client, ended, n, statuses)) for n in range(23)]
            await asyncio.sleep(0.3)
            [engine] = service.children(ENGINE)

            poisonous = await ask(client, "deadly", DEADLY)
            [third] = service.children(ENGINE)
            again = await ask(client, "deadly", DEADLY)
            await asyncio.sleep(0.3)
            ended.set()
            await asyncio.gather(*callers)

            assert (poisonous.status_code, again.status_code) == (500, 500), poisonous.text
            assert "ended" in poisonous.json()["error"]
            assert third != engine
            assert service.children(ENGINE) == [third]  # who is known is not tried again
            assert set(statuses) == {200}, statuses
            ends = [record for record in service.records if record["message"].startswith("a process ended")]
            assert len(ends) == 2

    asyncio.run(main())


def test_new_requests_wait_for_an_engine_that_is_restarted(service: RunningService) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:
            [engine] = service.children(ENGINE)
            os.kill(engine, signal.SIGKILL)
            started_at = time.monotonic()
            while (await client.get("/readyz")).status_code == 200:
                assert time.monotonic() < started_at + 5
            answers = await asyncio.gather(*(ask(client, "scale", number) for number in range(20)))
            impatient = await client.post(
                "/v2/models/scale/infer", json=body(1, "FP32"), headers={"X-Request-Timeout": "0.001"}
            )

            assert [answer.status_code for answer in answers] == [200] * 20
            assert impatient.status_code in (200, 503, 504)

    asyncio.run(main())
