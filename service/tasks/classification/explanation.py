"""Draws a class activation map over the picture that the network saw.

It knows neither networks nor classes: a picture and a map come in, a PNG goes out. The colours are those of `heat.py`.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import encode_png
from service.tasks.colormap import colormap

Pixels = NDArray[np.uint8]

MIN_LONGEST_SIDE = 224
_PICTURE_SHARE = 0.45  # how much of the grey picture shows where the map is hottest


def explanation_png(image: Pixels, activation_map: NDArray[Any]) -> bytes:
    """Draw the positive part of `activation_map` [h,w] over `image` uint8 [H,W,C], as a PNG file.

    The map is scaled to its own maximum; where nothing is positive the picture stays grey. The result is enlarged by a
    whole factor until its longest side has at least 224 pixels.
    """
    height, width = image.shape[:2]
    factor = max(1, ceil(MIN_LONGEST_SIDE / max(height, width)))
    size = width * factor, height * factor
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    # Whole factor, nearest: the caller sees the very pixels that the network saw.
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.NEAREST), np.float32)[:, :, None]
    heat = _heat(activation_map, size)
    colours = colormap(heat)
    share = heat[:, :, None] ** 0.5 * (1 - _PICTURE_SHARE)
    return encode_png((grey * (1 - share) + colours * share).round().astype(np.uint8))


def _heat(activation_map: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """The map as [H,W] of 0 to 1, interpolated smoothly."""
    positive = np.nan_to_num(activation_map.astype(np.float32), nan=0, posinf=0, neginf=0).clip(0, None)
    peak = float(positive.max())
    if peak > 0:
        positive = positive / peak
    heat = np.asarray(Image.fromarray(positive).resize(size, Image.Resampling.BICUBIC))
    return heat.clip(0, 1)
