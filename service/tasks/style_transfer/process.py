"""Pre- and postprocessing of style transfer: a photo to tiles, stylized tiles to a photo. No HTTP, no engine.

Memory of one image: at most 8 bytes per pixel (photo 3, alpha 1, stylized image 3; or, to downscale it, 4 at first),
beside the encoded files and single tiles. Only tiles become floats. `tiling.py` plans the tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import images
from models.image_header import check_size
from models.stylization import Stylization
from service.decoding.jobs import DecodedPhoto
from service.errors import InvalidParameter, PictureTooSmall
from service.tasks.image_decoding import translated_errors
from service.tasks.style_transfer.schema import StylizeParameters
from service.tasks.style_transfer.tiling import Plan, Span, Tile, mirrored, plan_tiles, statistics_size

Pixels = NDArray[np.uint8]

MIN_SIDE = 32
_LONGEST_WEBP_SIDE = 16_383


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image file of a size within the limits, which is given before the EXIF orientation."""

    body: bytes
    height: int
    width: int

    @property
    def num_pixels(self) -> int:
        """Height times width."""
        return self.height * self.width


def check_header(body: bytes, limits: images.ImageLimits, parameters: StylizeParameters) -> CheckedImage:
    """Check the size of an image, before it is decoded.

    Raises: UnsupportedMedia, PayloadTooLarge, UndecodableImage, PictureTooSmall, InvalidParameter.
    """
    with translated_errors():
        file_format, width, height = check_size(body, limits)
    if min(width, height) < MIN_SIDE:
        raise PictureTooSmall(f"The image is {width}x{height} pixels; each side must be at least {MIN_SIDE}.")
    if (parameters.file_format or file_format) == "WEBP" and max(width, height) > _LONGEST_WEBP_SIDE:
        raise InvalidParameter(
            f"The image is {width}x{height} pixels; a side of a WebP file has at most {_LONGEST_WEBP_SIDE}, so format "
            "must be jpeg or png.",
            parameter="format",
        )
    return CheckedImage(body, height, width)


class StylizedPhoto:
    """A photo being stylized: read its tiles, paste the stylized ones, take the result.

    Methods are thread-safe, but `result` must come last.
    """

    def __init__(self, photo: DecodedPhoto, stylization: Stylization, parameters: StylizeParameters) -> None:
        self._photo = photo
        self._stylization = stylization
        self._parameters = parameters
        height, width, _ = photo.colours.shape
        self.plan: Plan = plan_tiles(height, width, stylization)
        # Its memory is taken when tiles are pasted, which is after the photo was downscaled.
        self._canvas = np.zeros(photo.colours.shape, np.uint8) if parameters.needs_network else None

    def read_tile(self, tile: Tile) -> Pixels:
        """Return the pixels of a tile, uint8 [H,W,3], mirrored beyond the edges of the photo."""
        rows = mirrored(tile.rows.start, tile.rows.end, self.plan.height)
        columns = mirrored(tile.columns.start, tile.columns.end, self.plan.width)
        top, left = int(rows.min()), int(columns.min())
        pixels = self._photo.colours[top : int(rows.max()) + 1, left : int(columns.max()) + 1]
        if len(rows) > pixels.shape[0]:
            pixels = pixels.take(rows - top, axis=0)
        if len(columns) > pixels.shape[1]:
            pixels = pixels.take(columns - left, axis=1)
        return pixels

    def read_downscaled(self) -> Pixels:
        """Return the whole photo, downscaled to fit the network, for the statistics of the tiles, uint8 [H,W,3]."""
        height, width = statistics_size(self.plan.height, self.plan.width, self._stylization)
        colours = Image.fromarray(self._photo.colours)
        resized = colours.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.asarray(resized)

    def paste_tile(self, tile: Tile, stylized: Pixels) -> None:
        """Paste the kept part of a stylized tile, uint8 [H,W,3]."""
        assert self._canvas is not None
        top, left = tile.rows.kept_start, tile.columns.kept_start
        kept = stylized[_kept(tile.rows), _kept(tile.columns)]
        place = slice(top, top + kept.shape[0]), slice(left, left + kept.shape[1])
        if self._parameters.preserve_color or self._parameters.strength < 1:
            kept = blended(self._photo.colours[place], kept, self._parameters)
        self._canvas[place] = kept

    def result(self) -> DecodedPhoto:
        """The stylized image, to be encoded in the requested format or that of the photo, which is released."""
        photo = self._photo._replace(format=self._parameters.file_format or self._photo.format)
        if self._canvas is not None:
            photo = photo._replace(colours=self._canvas)
        self._photo = photo
        return photo


def _kept(span: Span) -> slice:
    return slice(span.kept_start - span.start, span.kept_end - span.start)


def blended(photo: Pixels, stylized: Pixels, parameters: StylizeParameters) -> Pixels:
    """Blend stylized pixels with the photo by `strength`, uint8 [H,W,3]; with `preserve_color`, only their luma.

    Luma is that of ITU-R BT.601. Adding its difference to every channel preserves chroma, unless a channel clips.
    """
    ground = photo.astype(np.float32)
    change = (_luma(stylized) - _luma(photo))[:, :, None] if parameters.preserve_color else stylized - ground
    mixed: NDArray[np.float32] = ground + change * np.float32(parameters.strength)
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def _luma(pixels: Pixels) -> NDArray[np.float32]:
    red, green, blue = (pixels[:, :, channel].astype(np.float32) for channel in range(3))
    luma: NDArray[np.float32] = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    return luma
