"""Runs the graphs of an image generator for one request.

Requests are split into chunks, of which only a few are queued in the engine at once, so that a request for one image
does not wait for all images of a large request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.manifest import BLEND_GRAPH, Manifest
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, UnsupportedTask
from service.http.request_context import RequestContext
from service.tasks.engine_work import EngineWork, run_concurrently
from service.tasks.image_decoding import Pixels
from service.tasks.image_generation.process import Samples
from service.telemetry.metrics import Metrics
from service.threads import WORKERS, off_loop

CHUNK_ROWS = 16
CHUNKS_IN_FLIGHT = 2

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Result = TypeVar("Result")


class Generator:
    """The graphs of one model for one request. The first axis of all arrays is the batch."""

    def __init__(self, work: EngineWork) -> None:
        self.manifest = work.model.manifest
        self.caller = work.caller
        self.chunk_slots = asyncio.Semaphore(CHUNKS_IN_FLIGHT)
        self._work = work

    async def by_chunks(self, num_rows: int, job: Callable[[slice], Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run a job for each chunk of rows; jobs hold one of the `chunk_slots` while they call the engine."""
        chunks = (slice(start, min(start + CHUNK_ROWS, num_rows)) for start in range(0, num_rows, CHUNK_ROWS))
        return await run_concurrently(job(chunk) for chunk in chunks)

    async def latents(self, samples: Samples) -> Floats:
        """Return the latents [B,Z] of samples: from the prior, or the noise itself if there is none."""
        if "prior" not in self.manifest.graphs:
            return samples.noise
        return await self._infer("prior", (samples.noise, samples.choices), samples.labels, "latent")

    async def decode(self, latents: Floats, labels: Indices | None) -> Pixels:
        """Decode latents to images [B,H,W,C]; labels only if the decoder takes them."""
        return await self._infer("decoder", (latents,), labels, "image")

    async def blend(self, latents: Floats, weights: Floats) -> Pixels:
        """Decode latents to images [B,H,W,C] of weighted labels [B,K]; only where the model `can_blend`."""
        return await self._infer(BLEND_GRAPH, (latents, weights), None, "image")

    async def encode(self, images: Pixels, labels: Indices | None) -> Floats:
        """Encode images to means [B,Z]; labels only if the encoder takes them."""
        return await self._infer("encoder", (images,), labels, "mean")

    async def _infer(
        self, graph: str, arrays: Sequence[NDArray[Any]], labels: Indices | None, output: str
    ) -> NDArray[Any]:
        if takes_label(self.manifest, graph):
            assert labels is not None  # checked by the routes
            arrays = (*arrays, labels)
        found = await self._work.infer(graph, arrays, (output,), num_rows=len(arrays[0]))
        return found[output]


class ImageWriter:
    """Encodes the images of answers in threads, and measures the time."""

    def __init__(self, metrics: Metrics, threads: ThreadPoolExecutor = WORKERS) -> None:
        self._metrics = metrics
        self._threads = threads

    async def write(self, context: RequestContext, encode: Callable[[], Result]) -> Result:
        """Run an encoding function in a thread."""

        def timed() -> tuple[Result, float]:
            started = perf_counter()
            return encode(), perf_counter() - started

        encoded, seconds = await off_loop(timed, threads=self._threads)
        self._metrics.encode_seconds.observe(seconds)
        context.encode_seconds += seconds
        return encoded


def num_latents_of(manifest: Manifest) -> int:
    """The latent dimension of a model."""
    return manifest.graphs["decoder"].inputs[0].row_shape[0]


def takes_label(manifest: Manifest, graph: str) -> bool:
    """Whether a graph has the input `label`."""
    return any(spec.name == "label" for spec in manifest.graphs[graph].inputs)


def can_blend(manifest: Manifest) -> bool:
    """Whether a model draws mixes of labels."""
    return BLEND_GRAPH in manifest.graphs


def uses_labels(manifest: Manifest) -> bool:
    """Whether generation depends on a label."""
    return any(takes_label(manifest, graph) for graph in ("prior", "decoder") if graph in manifest.graphs)


def require_encoder(model: ReadyModel) -> None:
    """Check that a model has an encoder.

    Raises: UnsupportedTask.
    """
    if "encoder" not in model.manifest.graphs:
        raise UnsupportedTask(f"{model.name!r} has no encoder: it can generate images, but not encode them.")


def checked_labels(manifest: Manifest, graph: str, labels: Sequence[int] | None) -> Indices | None:
    """The labels as an input of a graph; None if it takes none.

    Raises: InvalidParameter if labels are required and missing, or given and not accepted.
    """
    if takes_label(manifest, graph):
        if labels is None:
            raise InvalidParameter(f"label is missing; the {graph} of this model requires it.", parameter="label")
        return np.array(labels, np.int64)
    if labels is not None:
        raise InvalidParameter(f"label is given, but the {graph} of this model takes none.", parameter="label")
    return None
