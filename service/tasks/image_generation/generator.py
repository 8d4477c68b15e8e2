"""Runs the graphs of an image generator for one request: which it has, what they take, how many rows are queued.

A request is cut into chunks, of which few are in the engine's queue at once: a caller who asks for one image waits for
these alone, however many another asks for. What the numbers mean is said in `process.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, UnsupportedTask
from service.http.request_context import RequestContext
from service.tasks.engine_work import EngineWork, together
from service.tasks.image_decoding import Pixels
from service.tasks.image_generation.process import Draws
from service.telemetry.metrics import Metrics

CHUNK_ROWS = 16
CHUNKS_IN_FLIGHT = 2

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Done = TypeVar("Done")


class Generator:
    """The graphs of one model, for one request. Arrays have their rows along the first axis."""

    def __init__(self, work: EngineWork) -> None:
        self.manifest = work.model.manifest
        self.room = asyncio.Semaphore(CHUNKS_IN_FLIGHT)
        self._work = work

    async def by_chunks(self, num_rows: int, job: Callable[[slice], Coroutine[Any, Any, Done]]) -> list[Done]:
        """Run a job for each chunk of rows; each job holds `room` while it asks a graph."""
        return await together(job(slice(at, min(at + CHUNK_ROWS, num_rows))) for at in range(0, num_rows, CHUNK_ROWS))

    async def latents(self, draws: Draws) -> Floats:
        """The latents [B, Z] of a chunk of draws: the prior's, or the noise itself where there is none."""
        if "prior" not in self.manifest.graphs:
            return draws.noise
        return await self._infer("prior", (draws.noise, draws.choices), draws.labels, "latent")

    async def decode(self, latents: Floats, labels: Indices | None) -> Pixels:
        """The images [B, H, W, C] of a chunk of latents; labels where the decoder takes them."""
        return await self._infer("decoder", (latents,), labels, "image")

    async def encode(self, images: Pixels, labels: Indices | None) -> Floats:
        """The means [B, Z] that the encoder finds in a chunk of images; labels where it takes them."""
        return await self._infer("encoder", (images,), labels, "mean")

    async def _infer(
        self, graph: str, arrays: Sequence[NDArray[Any]], labels: Indices | None, output: str
    ) -> NDArray[Any]:
        if takes_label(self.manifest, graph):
            assert labels is not None  # the routes ask for them
            arrays = (*arrays, labels)
        found = await self._work.infer(graph, arrays, (output,), num_rows=len(arrays[0]))
        return found[output]


class ImageWriter:
    """Encodes the images of answers in threads beside the event loop, and times that."""

    def __init__(self, metrics: Metrics, threads: ThreadPoolExecutor) -> None:
        self._metrics = metrics
        self._threads = threads

    async def write(self, context: RequestContext, encode: Callable[[], Done]) -> Done:
        """Run an encoder."""

        def timed() -> tuple[Done, float]:
            started = perf_counter()
            return encode(), perf_counter() - started

        encoded, seconds = await asyncio.get_running_loop().run_in_executor(self._threads, timed)
        self._metrics.encode_seconds.observe(seconds)
        context.encode_seconds += seconds
        return encoded


def num_latents_of(manifest: Manifest) -> int:
    """How many numbers a latent of this model has."""
    return manifest.graphs["decoder"].inputs[0].row_shape[0]


def takes_label(manifest: Manifest, graph: str) -> bool:
    """Whether a graph has the input `label`."""
    return any(spec.name == "label" for spec in manifest.graphs[graph].inputs)


def knows_labels(manifest: Manifest) -> bool:
    """Whether what is generated depends on a label."""
    return any(takes_label(manifest, graph) for graph in ("prior", "decoder") if graph in manifest.graphs)


def require_encoder(model: ReadyModel) -> None:
    """Refuse what only a model with an encoder can do.

    Raises: UnsupportedTask.
    """
    if "encoder" not in model.manifest.graphs:
        raise UnsupportedTask(
            f"{model.name!r} has no encoder: it generates images, but cannot find the latents of one."
        )


def checked_labels(manifest: Manifest, graph: str, labels: Sequence[int] | None) -> Indices | None:
    """The labels as a graph takes them; None where it takes none.

    Raises: InvalidParameter where it takes them and there are none, or the reverse.
    """
    if takes_label(manifest, graph):
        if labels is None:
            raise InvalidParameter(f"label is missing; the {graph} of this model needs it.", parameter="label")
        return np.array(labels, np.int64)
    if labels is not None:
        raise InvalidParameter(f"label is given, but the {graph} of this model takes none.", parameter="label")
    return None
