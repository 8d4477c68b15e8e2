"""Decodes the images of requests: small ones at once, others in threads beside the event loop, all of them timed.

Every task that takes images decodes them here. How pixels are fitted to a network is said in `models/images.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from math import prod
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from models import images
from models.images import ImageError, ImageLimits, Invert
from models.manifest import Manifest
from service.errors import InvalidParameter, PayloadTooLarge, ServiceError, UndecodableImage, UnsupportedMedia
from service.schema import custom
from service.settings import Settings
from service.telemetry.metrics import Metrics

Pixels = NDArray[np.uint8]
# Up to this many pixels, decoding costs less than handing the image to a thread and back.
INLINE_PIXELS = 128 * 128
_INVERTS: dict[Any, Invert] = {"auto": "auto", "true": "true", "false": "false", True: "true", False: "false"}
_ERRORS: dict[str, type[ServiceError]] = {
    "unsupported": UnsupportedMedia,
    "too_large": PayloadTooLarge,
    "undecodable": UndecodableImage,
}


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise UnsupportedMedia, PayloadTooLarge or UndecodableImage for an ImageError in the block."""
    try:
        yield
    except ImageError as error:
        raise _ERRORS[error.kind](str(error)) from error


def _invert(value: Any) -> Invert:
    if not isinstance(value, str | bool) or value not in _INVERTS:
        raise ValueError
    return _INVERTS[value]


InvertParameter = Annotated[
    Invert,
    custom(
        "Is the object dark on a light background? `auto` looks at the border.",
        _invert,
        "auto, true or false",
        {"type": "string", "enum": ["auto", "true", "false"]},
    ),
]


def image_row(
    body: bytes,
    row_shape: tuple[int, ...],
    light_on_dark: bool,
    invert: images.Invert,
    limits: images.ImageLimits,
    margin: float = images.DEFAULT_MARGIN,
) -> NDArray[np.uint8]:
    """Decode one picture to the row [H,W,C] that the network takes.

    Raises: UnsupportedMedia, PayloadTooLarge, UndecodableImage.
    """
    height, width, channels = row_shape
    with translated_errors():
        return images.prepare(body, height, width, channels, light_on_dark, invert, limits, margin)


def num_pixels(body: bytes) -> int:
    """Count a picture's pixels by its header alone: small ones are decoded at once, large ones in a thread.

    Raises: UnsupportedMedia, UndecodableImage.
    """
    with translated_errors():
        return images.pixels_of(body)


def raw_row(body: bytes, row_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """View a body of exactly H*W*C uint8 bytes as the row [H,W,C]; nothing is copied.

    Raises: InvalidParameter.
    """
    num_bytes = prod(row_shape)
    if len(body) != num_bytes:
        raise InvalidParameter(
            f"The body has {len(body)} bytes; a raw tensor has exactly {num_bytes}: "
            f"{'x'.join(map(str, row_shape))} uint8 values, row by row."
        )
    return np.frombuffer(body, np.uint8).reshape(row_shape)


class ImageDecoder:
    """Decodes within the service's limits, in the threads of its process."""

    def __init__(self, settings: Settings, metrics: Metrics, threads: ThreadPoolExecutor) -> None:
        self._limits = ImageLimits(max_pixels=settings.max_image_pixels)
        self._seconds = metrics.decode_seconds
        self._threads = threads

    async def row(self, body: bytes, manifest: Manifest, row_shape: tuple[int, ...], invert: Invert = "auto") -> Pixels:
        """One encoded image as the row [H, W, C] that a network takes.

        Raises: UnsupportedMedia, PayloadTooLarge, UndecodableImage.
        """
        arguments = (row_shape, manifest.light_on_dark, invert, self._limits, manifest.margin)
        return await self.decode(body, lambda body: image_row(body, *arguments))

    async def decode(self, body: bytes, decode: Callable[[bytes], Pixels]) -> Pixels:
        """What a function makes of one encoded image.

        Raises: UnsupportedMedia, UndecodableImage, and what the function raises.
        """
        started = perf_counter()
        if num_pixels(body) <= INLINE_PIXELS:
            pixels = decode(body)
        else:
            pixels = await asyncio.get_running_loop().run_in_executor(self._threads, decode, body)
        self._seconds.observe(perf_counter() - started)
        return pixels


class PixelBudget:
    """Room for so many pixels, first come, first served; an image larger than all of it has it alone."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.num_used = 0

    @asynccontextmanager
    async def room(self, num_pixels: int) -> AsyncIterator[None]:
        """Hold room for an image while it is worked on; a request that is cancelled leaves the line."""
        await self._enter(num_pixels)
        try:
            yield
        finally:
            self._leave(num_pixels)

    async def _enter(self, num_pixels: int) -> None:
        if not self._waiting and self._fits(num_pixels):
            self.num_used += num_pixels
            return
        place = (num_pixels, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        try:
            await place[1]
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
                self._admit()  # he may have been the one who did not fit
            else:
                self._leave(num_pixels)
            raise

    def _fits(self, num_pixels: int) -> bool:
        return self.num_used == 0 or self.num_used + num_pixels <= self._max_pixels

    def _leave(self, num_pixels: int) -> None:
        self.num_used -= num_pixels
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            num_pixels, place = self._waiting.popleft()
            self.num_used += num_pixels
            if not place.done():
                place.set_result(None)
