"""How requests are split into chunks, and how many are in flight, with an engine that the test controls."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from models.manifest import Batching, Graph, Manifest
from service.engine.transport.client import ReadyModel
from service.engine.transport.messages import Arrays
from service.errors import InvalidParameter, UnsupportedTask
from service.tasks.engine_work import EngineWork
from service.tasks.image_generation.generator import (
    CHUNK_ROWS,
    CHUNKS_IN_FLIGHT,
    Generator,
    checked_labels,
    num_latents_of,
    require_encoder,
    takes_label,
    uses_labels,
)
from service.tasks.image_generation.process import sample
from tests.fake_models.image_generation import LABELS, NUM_LATENTS, TinyImageGenerator


def manifest_of(image_generator: TinyImageGenerator, *graphs: str) -> Manifest:
    """The manifest of a version with some of the graphs."""
    described = {}
    for graph in graphs or image_generator.graphs:
        inputs, outputs = image_generator.signature(graph)
        described[graph] = Graph(file=f"{graph}.onnx", sha256="0" * 64, inputs=inputs, outputs=outputs)
    return Manifest(
        name="tiny",
        version="1",
        task="image-generation",
        description="",
        graphs=described,
        batching=Batching(max_batch_size=4, buckets=(4,)),
        labels=LABELS,
    )


class FakeModel:
    """A model that is ready."""

    def __init__(self, manifest: Manifest) -> None:
        self.name, self.version, self.manifest = manifest.name, manifest.version, manifest


class FakeWork:
    """Computes a graph in NumPy when the test releases it."""

    def __init__(self, image_generator: TinyImageGenerator, manifest: Manifest) -> None:
        self.model = FakeModel(manifest)
        self.caller = ""
        self._image_generator = image_generator
        self.waiting: list[asyncio.Event] = []
        self.calls: list[tuple[str, int]] = []
        self.most_at_once = 0

    async def infer(self, graph: str, rows: list[Any], outputs: tuple[str, ...], *, num_rows: int) -> Arrays:
        event = asyncio.Event()
        self.waiting.append(event)
        self.calls.append((graph, num_rows))
        self.most_at_once = max(self.most_at_once, len(self.waiting))
        await event.wait()
        self.waiting.remove(event)
        names = [spec.name for spec in self._image_generator.signature(graph)[0]]
        assert all(len(each) == num_rows for each in rows)
        found = self._image_generator.outputs(graph, dict(zip(names, rows, strict=True)))
        return {name: found[name] for name in outputs}


def generator_of(image_generator: TinyImageGenerator) -> tuple[FakeWork, Generator]:
    work = FakeWork(image_generator, manifest_of(image_generator))
    return work, Generator(cast(EngineWork, work))


def test_a_request_is_split_into_chunks_of_which_few_are_in_flight() -> None:
    image_generator = TinyImageGenerator(has_encoder=True, is_conditional=False)

    async def scenario() -> None:
        work, generator = generator_of(image_generator)
        samples = sample(range(100), len(LABELS), NUM_LATENTS)

        async def chunk(rows: slice) -> Any:
            async with generator.chunk_slots:
                part = sample(range(100)[rows], len(LABELS), NUM_LATENTS)
                return await generator.decode(await generator.latents(part), part.labels)

        job = asyncio.ensure_future(generator.by_chunks(100, chunk))
        while not job.done():
            for event in list(work.waiting)[::-1]:  # the later chunk first
                event.set()
                for _ in range(5):
                    await asyncio.sleep(0)
            await asyncio.sleep(0)

        latents = image_generator.latents(samples.noise, samples.choices, samples.labels)
        assert np.array_equal(np.concatenate(job.result()), image_generator.decode(latents))
        assert work.most_at_once == CHUNKS_IN_FLIGHT
        sizes = [CHUNK_ROWS] * 6 + [4]
        assert sorted(size for graph, size in work.calls if graph == "prior") == sorted(sizes)
        assert sorted(size for graph, size in work.calls if graph == "decoder") == sorted(sizes)

    asyncio.run(scenario())


def test_a_failure_cancels_the_other_chunks() -> None:
    async def scenario() -> None:
        work, generator = generator_of(TinyImageGenerator(has_encoder=False, is_conditional=True))

        async def chunk(rows: slice) -> Any:
            async with generator.chunk_slots:
                if rows.start == CHUNK_ROWS:
                    raise InvalidParameter("No.")
                return await generator.decode(np.zeros((CHUNK_ROWS, 4), np.float32), np.zeros(CHUNK_ROWS, np.int64))

        with pytest.raises(InvalidParameter, match=r"^No\.$"):
            await generator.by_chunks(100, chunk)
        assert len(work.calls) <= CHUNKS_IN_FLIGHT

    asyncio.run(scenario())


@pytest.mark.parametrize("has_encoder", [True, False])
@pytest.mark.parametrize("is_conditional", [True, False])
def test_the_graphs_define_what_a_generator_can_do(has_encoder: bool, is_conditional: bool) -> None:
    image_generator = TinyImageGenerator(has_encoder=has_encoder, is_conditional=is_conditional)
    manifest = manifest_of(image_generator)

    assert num_latents_of(manifest) == NUM_LATENTS
    assert takes_label(manifest, "decoder") == is_conditional
    assert uses_labels(manifest) == (has_encoder or is_conditional)
    if has_encoder:
        require_encoder(cast(ReadyModel, FakeModel(manifest)))
    else:
        with pytest.raises(UnsupportedTask, match=r"^'tiny' has no encoder"):
            require_encoder(cast(ReadyModel, FakeModel(manifest)))


def test_labels_are_for_graphs_that_take_them() -> None:
    with_label = manifest_of(TinyImageGenerator(has_encoder=False, is_conditional=True))
    without = manifest_of(TinyImageGenerator(has_encoder=True, is_conditional=False), "decoder")

    assert not uses_labels(without)
    assert checked_labels(without, "decoder", None) is None
    found = checked_labels(with_label, "decoder", [2, 0])
    assert found is not None
    assert found.tolist() == [2, 0]
    assert found.dtype == np.dtype(np.int64)
    with pytest.raises(InvalidParameter, match="the decoder of this model requires it"):
        checked_labels(with_label, "decoder", None)
    with pytest.raises(InvalidParameter, match="the decoder of this model takes none"):
        checked_labels(without, "decoder", [0])
