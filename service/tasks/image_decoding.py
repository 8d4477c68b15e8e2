"""Decodes the images of requests: small ones on the event loop, others in processes of their own (`decoding/`).

All tasks use it. Resizing and colours are the business of `models/images.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from models.image_header import ImageError, is_quick, sniff
from models.images import Invert
from models.manifest import Manifest
from service.decoding.decoders import Decoders
from service.decoding.jobs import DecodedPhoto, Done, ToPhoto, ToRow, photo_of, to_file
from service.errors import InvalidParameter, PayloadTooLarge, ServiceError, UndecodableImage, UnsupportedMedia
from service.schema import custom
from service.settings import Settings
from service.telemetry.metrics import Metrics

Pixels = NDArray[np.uint8]
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
    """Decodes images within the limits of the settings, and encodes photos; one for a process."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.decoders = Decoders(settings, metrics)
        self._max_pixels = settings.max_image_pixels
        self._seconds = metrics.decode_seconds
        self._encode_seconds = metrics.encode_seconds

    async def row(
        self,
        body: bytes,
        manifest: Manifest,
        row_shape: tuple[int, ...],
        invert: Invert = "auto",
        *,
        caller: str,
    ) -> Pixels:
        """Decode one image to the row [H,W,C] that a network takes.

        Raises: UnsupportedMedia, PayloadTooLarge, UndecodableImage; Unavailable.
        """
        pixels = self.row_at_once(body, manifest, row_shape, invert)
        if pixels is not None:
            return pixels
        done, content = await self._decode(self._to_row(manifest, row_shape, invert), body, caller)
        return np.frombuffer(content, np.uint8).reshape(done.shape)

    def row_at_once(
        self, body: bytes, manifest: Manifest, row_shape: tuple[int, ...], invert: Invert = "auto"
    ) -> Pixels | None:
        """As `row`, for an image whose decoding is cheaper than a message to a decoder; None for any other.

        Raises: as `row`.
        """
        started = perf_counter()
        with translated_errors():
            if not is_quick(body):
                return None
            pixels = self._to_row(manifest, row_shape, invert).row(body)
        self._seconds.observe(perf_counter() - started)
        return pixels

    def _to_row(self, manifest: Manifest, row_shape: tuple[int, ...], invert: Invert) -> ToRow:
        height, width, channels = row_shape
        return ToRow(
            (height, width, channels),
            manifest.light_on_dark,
            invert,
            self._max_pixels,
            manifest.margin,
            manifest.preprocess,
        )

    async def photo(self, body: bytes, *, max_pixels: int | None = None, caller: str) -> DecodedPhoto:
        """Decode one image at its own size.

        Raises: as `row`.
        """
        done, content = await self._decode(ToPhoto(max_pixels or self._max_pixels), body, caller)
        return photo_of(done, content)

    async def encode(self, photo: DecodedPhoto, quality: int, *, caller: str) -> bytes:
        """Encode a photo as a file of its format.

        Raises: PayloadTooLarge; Unavailable.
        """
        started = perf_counter()
        with translated_errors():
            _, content = await self.decoders.run(caller, *to_file(photo, quality))
        self._encode_seconds.observe(perf_counter() - started)
        return bytes(content)

    async def _decode(self, job: ToRow | ToPhoto, body: bytes, caller: str) -> tuple[Done, bytearray]:
        started = perf_counter()
        with translated_errors():
            sniff(body)
            answer = await self.decoders.run(caller, job, [body])
        self._seconds.observe(perf_counter() - started)
        return answer
