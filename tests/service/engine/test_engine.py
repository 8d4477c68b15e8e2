"""What one request does to the others when answering it fails: nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from service.engine.transport import messages
from service.errors import Cancelled, ServiceError
from service.settings import Settings
from tests.fake_models.bare_graphs import FLOAT, graph_bytes, scale_bytes, write_bare
from tests.service.engine.live import ask, live_engine

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
TIMES = 4096


def settings_of(repository: Path) -> Settings:
    return Settings(repository=(repository,), instances=1, threads=1)


def test_an_answer_that_cannot_be_sent_fails_its_own_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_FRAME_BYTES", 2**20)
    tile = helper.make_node("Tile", ["x", "times"], ["y"])
    shapes = [("x", FLOAT, ["batch", 3])], [("y", FLOAT, ["batch", 3 * TIMES])]
    write_bare(tmp_path, "tile", graph_bytes([tile], *shapes, {"times": np.array([1, TIMES])}))

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings_of(tmp_path)) as (_, client):
            large = asyncio.create_task(ask(client, "tile", np.zeros((24, 3), np.float32)))  # 1.1 MiB come of it
            small = asyncio.create_task(ask(client, "tile", ROWS))

            with pytest.raises(ServiceError, match=r"^The engine failed unexpectedly; its log says why\.$"):
                await large
            assert np.array_equal(await small, np.tile(ROWS, TIMES))
            assert client.num_in_flight == 0

    asyncio.run(main())


def test_a_request_that_cannot_be_queued_does_not_end_the_connection(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    shape = ["batch", "a", "b"]
    write_bare(tmp_path, "relu", graph_bytes([relu], [("x", FLOAT, shape)], [("y", FLOAT, shape)]))
    write_bare(tmp_path, "scale", scale_bytes(2))

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings_of(tmp_path)) as (_, client):
            connection = client.links[0]._transport
            model = client.resolve("relu")
            row_shapes = ((0, 2**62),)  # no elements, but more than NumPy can count
            with pytest.raises(ServiceError, match=r"^The engine failed unexpectedly"):
                await client.infer(model, "model", ("y",), [b""], 1, 20.0, row_shapes=row_shapes)

            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)
            assert client.links[0]._transport is connection

    asyncio.run(main())


def test_a_cancelled_request_leaves_the_queue_of_its_graph(tmp_path: Path) -> None:
    write_bare(tmp_path, "patient", scale_bytes(2))
    (tmp_path / "patient" / "config.toml").write_text("max_queue_delay_seconds = 60\n")

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings_of(tmp_path)) as (_, client), asyncio.timeout(30):

            async def until_queued(num_rows: int) -> None:
                while (await client.describe())[0].statistics["queued_rows"] != num_rows:
                    await asyncio.sleep(0.005)

            model = client.resolve("patient")
            call = client.infer(model, "model", ("y",), [ROWS.tobytes()], len(ROWS), 60.0)
            await until_queued(2)
            client.cancel(call)
            await until_queued(0)
            with pytest.raises(Cancelled):
                await call

    asyncio.run(main())
