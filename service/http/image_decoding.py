"""Decodes the pictures of requests: small ones at once, others in threads beside the event loop, all of them timed.

Which pictures a request holds, others know; what happens to pixels is said in `tasks/classification.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.images import ImageLimits, Invert
from models.manifest import Manifest
from service.settings import Settings
from service.tasks.classification import process as classification
from service.telemetry.metrics import Metrics

Pixels = NDArray[np.uint8]
# Up to this many pixels, decoding costs less than handing the picture to a thread and back.
INLINE_PIXELS = 128 * 128


class PictureDecoder:
    """Decodes within the service's limits, in the threads of its process."""

    def __init__(self, settings: Settings, metrics: Metrics, threads: ThreadPoolExecutor) -> None:
        self._limits = ImageLimits(max_pixels=settings.max_image_pixels)
        self._seconds = metrics.decode_seconds
        self._threads = threads

    async def row(self, body: bytes, manifest: Manifest, row_shape: tuple[int, ...], invert: Invert = "auto") -> Pixels:
        """One encoded picture as the row [H, W, C] that a network takes.

        Raises: UnsupportedMedia, PayloadTooLarge, UndecodableImage.
        """
        arguments = (row_shape, manifest.light_on_dark, invert, self._limits, manifest.margin)
        return await self.decode(body, lambda body: classification.image_row(body, *arguments))

    async def decode(self, body: bytes, decode: Callable[[bytes], Pixels]) -> Pixels:
        """What a function makes of one encoded picture.

        Raises: UnsupportedMedia, UndecodableImage, and what the function raises.
        """
        started = perf_counter()
        if classification.num_pixels(body) <= INLINE_PIXELS:
            pixels = decode(body)
        else:
            pixels = await asyncio.get_running_loop().run_in_executor(self._threads, decode, body)
        self._seconds.observe(perf_counter() - started)
        return pixels
