"""Decodes the images of requests, small ones on the event loop, others in threads.

All tasks use it. Resizing and colours are the business of `models/images.py`.
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
from models.preprocessing import Preprocessing
from service.errors import InvalidParameter, PayloadTooLarge, ServiceError, UndecodableImage, UnsupportedMedia
from service.schema import custom
from service.settings import Settings
from service.telemetry.metrics import Metrics

Pixels = NDArray[np.uint8]
# Up to this many pixels, decoding is cheaper than a thread switch.
INLINE_PIXELS = 128 * 128
_INVERTS: dict[Any, Invert] = {"auto": "auto", "true": "true", "false": "false", True: "true", False: "false"}
_ERRORS: dict[str, type[ServiceError]] = {
    "unsupported": UnsupportedMedia,
    "too_large": PayloadTooLarge,
    "undecodable": UndecodableImage,
}


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn an ImageError in the block into UnsupportedMedia, PayloadTooLarge or UndecodableImage."""
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
    preprocess: Preprocessing | None = None,
) -> NDArray[np.uint8]:
    """Decode one image to the row [H,W,C] that the network takes.

    Raises: UnsupportedMedia, PayloadTooLarge, UndecodableImage.
    """
    height, width, channels = row_shape
    with translated_errors():
        return images.prepare(body, height, width, channels, light_on_dark, invert, limits, margin, preprocess)


def num_pixels(body: bytes) -> int:
    """Read the number of pixels from an image's header.

    Raises: UnsupportedMedia, UndecodableImage.
    """
    with translated_errors():
        return images.pixels_of(body)


def raw_row(body: bytes, row_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """View a body of exactly H*W*C bytes as a row [H,W,C] uint8, without a copy.

    Raises: InvalidParameter.
    """
    num_bytes = prod(row_shape)
    if len(body) != num_bytes:
        raise InvalidParameter(
            f"The body has {len(body)} bytes; a raw tensor must have {num_bytes}: "
            f"{'x'.join(map(str, row_shape))} uint8 values in row-major order."
        )
    return np.frombuffer(body, np.uint8).reshape(row_shape)


class ImageDecoder:
    """Decodes images within the limits of the settings."""

    def __init__(self, settings: Settings, metrics: Metrics, threads: ThreadPoolExecutor) -> None:
        self._limits = ImageLimits(max_pixels=settings.max_image_pixels)
        self._seconds = metrics.decode_seconds
        self._threads = threads

    async def row(self, body: bytes, manifest: Manifest, row_shape: tuple[int, ...], invert: Invert = "auto") -> Pixels:
        """Decode one image to the row [H,W,C] that a network takes.

        Raises: UnsupportedMedia, PayloadTooLarge, UndecodableImage.
        """
        return await self.decode(body, self._to_row(manifest, row_shape, invert))

    def row_at_once(
        self, body: bytes, manifest: Manifest, row_shape: tuple[int, ...], invert: Invert = "auto"
    ) -> Pixels | None:
        """As `row`, for an image that is small enough for the event loop; None for a larger one.

        Raises: as `row`.
        """
        return self._decode_at_once(body, self._to_row(manifest, row_shape, invert))

    def _to_row(self, manifest: Manifest, row_shape: tuple[int, ...], invert: Invert) -> Callable[[bytes], Pixels]:
        arguments = (row_shape, manifest.light_on_dark, invert, self._limits, manifest.margin, manifest.preprocess)
        return lambda body: image_row(body, *arguments)

    async def decode(self, body: bytes, decode: Callable[[bytes], Pixels]) -> Pixels:
        """Decode one image with a function, on the event loop or in a thread.

        Raises: UnsupportedMedia, UndecodableImage, and whatever the function raises.
        """
        if (pixels := self._decode_at_once(body, decode)) is None:
            started = perf_counter()
            pixels = await asyncio.get_running_loop().run_in_executor(self._threads, decode, body)
            self._seconds.observe(perf_counter() - started)
        return pixels

    def _decode_at_once(self, body: bytes, decode: Callable[[bytes], Pixels]) -> Pixels | None:
        started = perf_counter()
        if num_pixels(body) > INLINE_PIXELS:
            return None
        pixels = decode(body)
        self._seconds.observe(perf_counter() - started)
        return pixels


class PixelBudget:
    """A first-in, first-out semaphore over pixels; an image larger than the budget takes all of it."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.num_used = 0

    @asynccontextmanager
    async def reserve(self, num_pixels: int) -> AsyncIterator[None]:
        """Reserve pixels for the block."""
        await self._acquire(num_pixels)
        try:
            yield
        finally:
            self._release(num_pixels)

    async def _acquire(self, num_pixels: int) -> None:
        if not self._waiting and self._fits(num_pixels):
            self.num_used += num_pixels
            return
        waiter = (num_pixels, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter[1]
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._admit()  # it may have blocked smaller ones
            else:
                self._release(num_pixels)
            raise

    def _fits(self, num_pixels: int) -> bool:
        return self.num_used == 0 or self.num_used + num_pixels <= self._max_pixels

    def _release(self, num_pixels: int) -> None:
        self.num_used -= num_pixels
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            num_pixels, future = self._waiting.popleft()
            self.num_used += num_pixels
            if not future.done():
                future.set_result(None)
