"""Renders generated images: many as a labelled grid, a walk as an animation, errors as colors.

It knows pixels and captions, neither networks nor HTTP. Nothing is interpolated: a pixel of the network becomes a
square of equal pixels.
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

MIN_CELL_WIDTH = 84  # a cell's caption has room for about 14 letters
MIN_GRID_WIDTH = 224
_GAP = 4
_CAPTION_HEIGHT = 14
_PAPER = 255
_NATS_OF_A_GUESS = log(256)  # what a value of 256 levels costs whoever knows nothing of it


def enlarged(pictures: Pixels, factor: int) -> Pixels:
    """Repeat every pixel of [...,H,W,C] in both directions."""
    return pictures if factor == 1 else pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def labelled_grid(pictures: Pixels, captions: Sequence[str], num_columns: int | None = None) -> bytes:
    """Draw uint8 [B,H,W,C] line by line on white, each with its caption below ("" for none), as a PNG file.

    Without `num_columns` there are about as many columns as lines. Small pictures are enlarged by a whole factor, and a
    caption that is wider than its picture is cut.
    """
    count, height, width, channels = pictures.shape
    columns = num_columns or isqrt(count - 1) + 1
    factor = max(1, ceil(MIN_CELL_WIDTH / width), ceil(MIN_GRID_WIDTH / (columns * width)))
    below = _CAPTION_HEIGHT if any(captions) else 0
    line_height, column_width = height * factor + below + _GAP, width * factor + _GAP
    size = ceil(count / columns) * line_height + _GAP, columns * column_width + _GAP
    canvas = np.full((*size, channels), _PAPER, np.uint8)
    for index, (picture, caption) in enumerate(zip(enlarged(pictures, factor), captions, strict=True)):
        top, left = _GAP + index // columns * line_height, _GAP + index % columns * column_width
        bottom, right = top + height * factor, left + width * factor
        canvas[top:bottom, left:right] = picture
        if caption:
            canvas[bottom : bottom + below, left:right] = _caption(caption, width * factor)[:, :, None]
    return encode_png(canvas)


@lru_cache(maxsize=1024)
def _caption(text: str, width: int) -> Pixels:
    """The text in black on white, in the middle of [_CAPTION_HEIGHT,width]; cut where it is wider."""
    font = ImageFont.load_default()
    shown = text = " ".join(text.split())[:width]  # no letter is narrower than a pixel
    while text and font.getlength(shown) > width:
        text = text[:-1]
        shown = text.rstrip() + ".."
    image = Image.new("L", (width, _CAPTION_HEIGHT), _PAPER)
    left = max(0, (width - font.getlength(shown)) / 2)
    ImageDraw.Draw(image).text((left, 1), shown, fill=0, font=font)
    return np.asarray(image)


def error_colors(error_map: NDArray[Any], num_channels: int) -> Pixels:
    """Paint nats a pixel [...,H,W] as colours [...,H,W,3], on a scale that is the same for all pictures.

    Black costs nothing; the hottest colour costs what guessing among the 256 levels of each channel does, or more.
    """
    shares = np.nan_to_num(error_map.astype(np.float64), nan=np.inf) / (num_channels * _NATS_OF_A_GUESS)
    return colormap(shares.clip(0, 1))


def reconstruction_strips(
    pictures: Pixels, reconstructions: Pixels, error_maps: NDArray[Any], captions: Sequence[str]
) -> bytes:
    """Draw a line for each of [B,H,W,C]: the picture, its reconstruction, its errors [B,H,W] with a caption; a PNG."""
    shape = (*pictures.shape[:3], 3)
    heat = error_colors(error_maps, pictures.shape[3])
    panes = np.stack([np.broadcast_to(pictures, shape), np.broadcast_to(reconstructions, shape), heat], axis=1)
    texts = [text for caption in captions for text in ("input", "reconstruction", caption)]
    return labelled_grid(panes.reshape(-1, *shape[1:]), texts, num_columns=3)


def animation(pictures: Pixels, kind: Literal["webp", "gif"], frame_seconds: float = 0.08, *, scale: int = 4) -> bytes:
    """Show uint8 [B,H,W,C] there and back, for ever, every pixel as a square of `scale`.

    Both are lossless, but for GIF in colours, which takes the 256 that fit best. Its clock ticks 100 times a second.
    """
    order = [*range(len(pictures)), *range(len(pictures) - 2, 0, -1)]
    frames = [Image.fromarray(_flat(picture)) for picture in enlarged(pictures, scale)]
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


def _flat(picture: Pixels) -> Pixels:
    return picture[:, :, 0] if picture.shape[2] == 1 else picture
