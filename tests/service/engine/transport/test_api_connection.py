"""A load is confirmed only when every API process knows the model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from service.engine.transport.messages import DescriptionAcknowledged
from service.settings import Settings
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.service.engine.live import ask, live_engine, state_of

NOTHING = memoryview(b"")


def test_a_load_is_confirmed_when_every_process_knows_of_it(tmp_path: Path) -> None:
    write_bare(tmp_path / "repository", "scale", scale_bytes(2))
    settings = Settings(repository=(tmp_path / "repository",), instances=1, threads=1, model_control="explicit")

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings) as (engine, client):
            frames: list[bytes] = []
            slow = engine.connect(frames.append, lambda _: None)
            loading = asyncio.create_task(client.load("scale"))
            async with asyncio.timeout(20):
                while state_of(client, "scale").state != "ready":
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert not loading.done()

            for _ in frames:
                engine.handle(slow, DescriptionAcknowledged(), NOTHING)
            await asyncio.wait_for(loading, 2)
            x = np.ones((1, 3), np.float32)
            assert np.array_equal(await ask(client, "scale", x), 2 * x)
            engine.disconnect(slow)

    asyncio.run(main())


def test_a_process_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    write_bare(tmp_path / "repository", "scale", scale_bytes(2))
    settings = Settings(repository=(tmp_path / "repository",), instances=1, threads=1, model_control="explicit")

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings) as (engine, client):
            gone = engine.connect(lambda _: None, lambda _: None)
            loading = asyncio.create_task(client.load("scale"))
            async with asyncio.timeout(20):
                while state_of(client, "scale").state != "ready":
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert not loading.done()

            engine.disconnect(gone)
            await asyncio.wait_for(loading, 2)
            assert np.array_equal(await ask(client, "scale", np.ones((1, 3), np.float32)), np.full((1, 3), 2))

    asyncio.run(main())
