"""Images of any size through a real engine: client, socket, queues, threads and ONNX Runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.transport.client import EngineClient
from service.engine.transport.messages import InferenceTiming
from service.errors import Cancelled, InvalidParameter
from service.settings import Settings
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.style_transfer import TinyStylizer, write_stylizer
from tests.service.engine.live import live_engine

STYLIZER = TinyStylizer()
Served = Callable[[Callable[[EngineClient], Coroutine[Any, Any, None]]], None]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("style-transfer")
    write_stylizer(folder)
    LinearClassifier().write(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def served(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Runs a coroutine with a client of one engine in this process."""
    socket = tmp_path_factory.mktemp("socket") / "engine.sock"
    with asyncio.Runner() as runner:
        engine = live_engine(socket, Settings(repository=repository, instances=2, threads=1))
        _, client = runner.run(engine.__aenter__())
        yield lambda work: runner.run(work(client))
        runner.run(engine.__aexit__(None, None, None))


def ask(client: EngineClient, graph: str, outputs: tuple[str, ...], *inputs: NDArray[Any]) -> Any:
    payload = [np.ascontiguousarray(array).tobytes() for array in inputs]
    shapes = tuple(array.shape[1:] for array in inputs)
    model = client.resolve("tiny-stylizer")
    return client.infer(model, graph, outputs, payload, len(inputs[0]), 20.0, row_shapes=shapes)


def levels_apart(first: NDArray[Any], second: NDArray[Any]) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def test_images_of_many_sizes_at_once_come_back_as_numpy_computes_them(served: Served) -> None:
    sizes = [(32, 48), (4, 4), (36, 48), (128, 128), (8, 2048), (48, 32), (32, 48), (260, 60)]

    async def work(client: EngineClient) -> None:
        pictures = [STYLIZER.images(1 + i % 3, *size, seed=i) for i, size in enumerate(sizes)]
        weights = [STYLIZER.pure(STYLIZER.styles[i % 3], len(p)) for i, p in enumerate(pictures)]
        pairs = list(zip(pictures, weights, strict=True))
        calls = [ask(client, "model", ("painting",), *pair) for pair in pairs]
        for call, pair in zip(calls, pairs, strict=True):
            outputs, _ = await call
            assert levels_apart(outputs["painting"], STYLIZER.paint(*pair)) <= 1

    served(work)


def test_images_of_one_size_share_batches_and_equal_those_computed_alone(served: Served) -> None:
    async def work(client: EngineClient) -> None:
        pictures = STYLIZER.images(4, 40, 56)
        weights = np.random.default_rng(0).dirichlet(np.ones(3), 4).astype(np.float32)
        rows = [(pictures[i : i + 1], weights[i : i + 1]) for i in range(4)]
        alone = [(await ask(client, "model", ("painting",), *row))[0]["painting"] for row in rows]
        outputs, timing = await ask(client, "model", ("painting",), pictures, weights)
        assert isinstance(timing, InferenceTiming)
        assert timing.batch_size == 4
        assert all(levels_apart(outputs["painting"][i], alone[i][0]) <= 1 for i in range(4))

    served(work)


def test_a_tile_with_the_statistics_of_an_image_equals_the_image_within_its_halo(served: Served) -> None:
    async def work(client: EngineClient) -> None:
        picture, weights = STYLIZER.images(1, 96, 112), STYLIZER.pure("night")
        whole, _ = await ask(client, "model", ("painting",), picture, weights)
        statistics, _ = await ask(client, "statistics", ("mean", "deviation"), picture, weights)
        given = (statistics["mean"], statistics["deviation"])
        tile, _ = await ask(client, "tile", ("painting",), picture[:, 16:80, 32:96], weights, *given)
        inner = tile["painting"][:, 4:-4, 4:-4]
        assert levels_apart(inner, whole["painting"][:, 20:76, 36:92]) <= 1

    served(work)


@pytest.mark.parametrize(("graph", "output"), [("model", "painting"), ("statistics", "mean")])
@pytest.mark.parametrize(
    ("height", "width", "reason"), [(33, 47, "multiples of 4"), (0, 4, "multiples of 4"), (132, 128, "at most 16384")]
)
def test_sizes_that_the_stylizer_does_not_take_are_refused(
    served: Served, graph: str, output: str, height: int, width: int, reason: str
) -> None:
    async def work(client: EngineClient) -> None:
        picture = np.zeros((1, height, width, 3), np.uint8)
        with pytest.raises(InvalidParameter, match=reason):
            await ask(client, graph, (output,), picture, STYLIZER.pure("night"))

    served(work)


def test_a_size_without_its_pixels_is_refused(served: Served) -> None:
    async def work(client: EngineClient) -> None:
        model = client.resolve("tiny-stylizer")
        for shapes in ((), ((64, 64, 3),), ((64, 64, 3), (3,)), ((2**62, 2**62, 3), (3,))):
            with pytest.raises(InvalidParameter):
                await client.infer(model, "model", ("painting",), [b"x" * 64], 1, 5.0, row_shapes=shapes)

    served(work)


def test_a_caller_who_leaves_does_not_hold_up_the_others(served: Served) -> None:
    async def work(client: EngineClient) -> None:
        picture, weights = STYLIZER.images(1, 128, 128), STYLIZER.pure("night")
        calls = [ask(client, "model", ("painting",), picture, weights) for _ in range(12)]
        for call in calls[::2]:
            client.cancel(call)
        answered = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, Cancelled) for answer in answered[::2])
        assert all(isinstance(answer, tuple) for answer in answered[1::2])
        statistics = {status.name: status.statistics for status in await client.describe()}["tiny-stylizer"]
        assert statistics["model.queued_rows"] == 0

    served(work)


def test_every_graph_counts_for_itself_and_fixed_graphs_need_no_shapes(served: Served) -> None:
    async def work(client: EngineClient) -> None:
        before = {status.name: status.statistics for status in await client.describe()}
        await ask(client, "statistics", ("mean",), STYLIZER.images(1, 32, 32), STYLIZER.pure("night"))
        images = LinearClassifier().images(2)
        await client.infer(client.resolve("tiny"), "model", ("embedding",), [images.tobytes()], 2, 5.0)
        after = {status.name: status.statistics for status in await client.describe()}
        counted = {
            (name, key): after[name][key] - before[name][key]
            for name, key in (("tiny", "rows"), ("tiny-stylizer", "statistics.rows"), ("tiny-stylizer", "model.rows"))
        }
        assert list(counted.values()) == [2, 1, 0]

    served(work)
