"""Converts images with a light background to the light-on-dark form of MNIST and Fashion-MNIST.

It detects light backgrounds, and crops and centres the object. Decoding and resizing are in `images.py`. Sources: the
preprocessing described on the MNIST page, and in arXiv 1708.07747, section 4.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_MIN_CONTRAST = 24.0  # grey levels between background and object, below which there is no object
_OBJECT_LEVEL = 0.25  # fraction of the contrast from which a pixel belongs to the object


def corners(grey: NDArray[Any]) -> list[NDArray[Any]]:
    """The corner patches of [H,W], a ninth of the shorter side wide: top left, top right, bottom left, bottom right.

    Objects fill the middle and often touch an edge, but rarely the corners.
    """
    side = max(1, min(grey.shape) // 9)
    return [grey[:side, :side], grey[:side, -side:], grey[-side:, :side], grey[-side:, -side:]]


def median_of_corners(grey: Pixels) -> int:
    """Estimate the shade of the background of [H,W] from its corners."""
    shades = np.sort(np.concatenate([patch.ravel() for patch in corners(grey)]), kind="stable")
    return int(shades[len(shades) // 2])


def has_light_background(grey: Pixels) -> bool:
    """Whether the corners of [H,W] are closer to the lightest than to the darkest part of the image."""
    ground = median_of_corners(grey)
    shades = np.sort(grey, axis=None, kind="stable")  # a radix sort, ten times faster than np.percentile
    num_outliers = len(shades) // 100
    darkest, lightest = int(shades[num_outliers]), int(shades[-1 - num_outliers])
    if lightest - darkest < _MIN_CONTRAST:
        return ground > 127
    return ground - darkest > lightest - ground


def cut_out(grey: Pixels, height: int, width: int, margin: float) -> Pixels | None:
    """Crop a dark object from its light background and fit it, light on black, into [height,width].

    `margin` is the free fraction of each side: MNIST leaves 1/7 and centres by mass, Fashion-MNIST leaves none.
    Centring by mass moves the object within the margin only. None if there is no object.
    """
    relief = _relief(grey)
    box = _bounding_box(relief)
    if box is None:
        return None
    top, bottom, left, right = box
    scale = min(height * (1 - 2 * margin) / (bottom - top), width * (1 - 2 * margin) / (right - left))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    crop = Image.fromarray(relief[top:bottom, left:right])
    tile = np.asarray(crop.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)).clip(0, None)
    peak = float(tile.max())
    # Thin strokes fade when downscaled; in the data sets they reach full brightness.
    tile = (tile * (255 / peak)).round().astype(np.uint8)
    return _placed(tile, height, width, margin)


def _relief(grey: Pixels) -> NDArray[np.float32]:
    """How much darker than the background each pixel is, in [0, 1], without the background's gradient and noise."""
    patches = corners(grey)
    levels = [float(np.median(patch)) for patch in patches]
    noise = max(float(np.percentile(np.abs(patch - level), 95)) for patch, level in zip(patches, levels, strict=True))
    down = np.linspace(0, 1, grey.shape[0], dtype=np.float32)[:, None]
    across = np.linspace(0, 1, grey.shape[1], dtype=np.float32)[None, :]
    upper = levels[0] * (1 - across) + levels[1] * across
    lower = levels[2] * (1 - across) + levels[3] * across
    depth = upper * (1 - down) + lower * down - grey - (noise + 4)
    deepest = max(float(np.percentile(depth, 99.5)), _MIN_CONTRAST)
    return (depth / deepest).clip(0, 1).astype(np.float32)


def _bounding_box(relief: NDArray[np.float32]) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of the object; None without one."""
    is_object = relief > _OBJECT_LEVEL
    if not is_object.any():
        return None
    top, bottom = _extent(is_object.sum(axis=1))
    left, right = _extent(is_object.sum(axis=0))
    return top, bottom, left, right


def _extent(counts: NDArray[Any]) -> tuple[int, int]:
    """The first line of the object and the one after its last, from the object pixels in each line.

    Lines with only a few pixels count as dust, unless the object itself is that thin.
    """
    speck = min(len(counts) // 100, int(np.median(counts[counts > 0])) // 2)
    lines = np.flatnonzero(counts > speck)
    return int(lines[0]), int(lines[-1]) + 1


def _placed(tile: Pixels, height: int, width: int, margin: float) -> Pixels:
    canvas = np.zeros((height, width), np.uint8)
    top = _offset(tile.sum(axis=1), height, margin)
    left = _offset(tile.sum(axis=0), width, margin)
    canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def _offset(mass: NDArray[Any], length: int, margin: float) -> int:
    """The start of the tile on an axis that centres its mass, as far as the margin allows."""
    middle = (length - len(mass)) / 2
    centre = float((mass * (np.arange(len(mass)) + 0.5)).sum() / mass.sum())
    shift = float(np.clip(len(mass) / 2 - centre, -margin * length, margin * length))
    return int(np.clip(round(middle + shift), 0, length - len(mass)))
