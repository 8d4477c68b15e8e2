"""Renders generated images as labelled grids and animations, and error maps in colour.

It knows pixels and captions, neither networks nor HTTP. Images are enlarged without interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from math import ceil, isqrt, log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.tasks.colormap import colormap
from service.tasks.image_files import encode_png

Pixels = NDArray[np.uint8]

MIN_CELL_WIDTH = 84  # fits a caption of about 14 letters
MIN_GRID_WIDTH = 224
_GAP = 4
_CAPTION_HEIGHT = 14
_WHITE = 255
_UNIFORM_NATS = log(256)  # nats of a uniform guess among 256 levels


def enlarged(images: Pixels, factor: int) -> Pixels:
    """Repeat every pixel of [...,H,W,C] in both directions."""
    return images if factor == 1 else images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def labelled_grid(images: Pixels, captions: Sequence[str], num_columns: int | None = None) -> bytes:
    """Render images uint8 [B,H,W,C] as a grid on white with captions below ("" for none); return a PNG file.

    By default, the grid has about as many columns as rows. Small images are enlarged by a whole factor; captions wider
    than their image are truncated.
    """
    count, height, width, channels = images.shape
    columns = num_columns or isqrt(count - 1) + 1
    factor = max(1, ceil(MIN_CELL_WIDTH / width), ceil(MIN_GRID_WIDTH / (columns * width)))
    below = _CAPTION_HEIGHT if any(captions) else 0
    row_height, column_width = height * factor + below + _GAP, width * factor + _GAP
    size = ceil(count / columns) * row_height + _GAP, columns * column_width + _GAP
    canvas = np.full((*size, channels), _WHITE, np.uint8)
    for index, (pixels, caption) in enumerate(zip(enlarged(images, factor), captions, strict=True)):
        top, left = _GAP + index // columns * row_height, _GAP + index % columns * column_width
        bottom, right = top + height * factor, left + width * factor
        canvas[top:bottom, left:right] = pixels
        if caption:
            canvas[bottom : bottom + below, left:right] = _caption(caption, width * factor)[:, :, None]
    return encode_png(canvas)


@lru_cache(maxsize=1024)
def _caption(text: str, width: int) -> Pixels:
    """Render a text, black on white and centred, to [_CAPTION_HEIGHT,width]; truncate it to fit."""
    font = ImageFont.load_default()
    shown = text = " ".join(text.split())[:width]  # no letter is narrower than a pixel
    while text and font.getlength(shown) > width:
        text = text[:-1]
        shown = text.rstrip() + ".."
    image = Image.new("L", (width, _CAPTION_HEIGHT), _WHITE)
    left = max(0, (width - font.getlength(shown)) / 2)
    ImageDraw.Draw(image).text((left, 1), shown, fill=0, font=font)
    return np.asarray(image)


def error_colors(error_map: NDArray[Any], num_channels: int) -> Pixels:
    """Map nats per pixel [...,H,W] to colours [...,H,W,3], on the same scale for all images.

    Black is 0 nats; the brightest colour is a uniform guess among the 256 levels of each channel, or worse.
    """
    shares = np.nan_to_num(error_map.astype(np.float64), nan=np.inf) / (num_channels * _UNIFORM_NATS)
    return colormap(shares.clip(0, 1))


def reconstruction_strips(
    images: Pixels, reconstructions: Pixels, error_maps: NDArray[Any], captions: Sequence[str]
) -> bytes:
    """Render a row for each image [B,H,W,C]: input, reconstruction, captioned error map [B,H,W]; return a PNG file."""
    shape = (*images.shape[:3], 3)
    errors = error_colors(error_maps, images.shape[3])
    panes = np.stack([np.broadcast_to(images, shape), np.broadcast_to(reconstructions, shape), errors], axis=1)
    texts = [text for caption in captions for text in ("input", "reconstruction", caption)]
    return labelled_grid(panes.reshape(-1, *shape[1:]), texts, num_columns=3)


def animation(images: Pixels, kind: Literal["webp", "gif"], frame_seconds: float = 0.08, *, scale: int = 4) -> bytes:
    """Animate images uint8 [B,H,W,C] back and forth in an endless loop, enlarged by `scale`.

    WebP is lossless; GIF is reduced to 256 colours, and its frame times to hundredths of a second.
    """
    order = [*range(len(images)), *range(len(images) - 2, 0, -1)]
    frames = [Image.fromarray(_squeezed(each)) for each in enlarged(images, scale)]
    first, *others = (frames[index] for index in order)
    buffer = BytesIO()
    options: dict[str, Any] = {"lossless": True, "quality": 50} if kind == "webp" else {"optimize": False}
    first.save(
        buffer,
        kind.upper(),
        save_all=True,
        append_images=others,
        duration=round(1000 * frame_seconds),
        loop=0,
        **options,
    )
    return buffer.getvalue()


def _squeezed(image: Pixels) -> Pixels:
    return image[:, :, 0] if image.shape[2] == 1 else image
