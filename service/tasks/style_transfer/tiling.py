"""Plans how an image of any size passes through a stylizer: padded to a bucket, then whole or in seamless tiles.

Pure geometry, in pixels of the padded image. Tiles are normalized with the statistics of the whole image (URST: Chen et
al., AAAI 2022), so a stylized tile differs from the whole only within `halo_pixels` of its border. That border is
discarded, so no seam needs blending.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.stylization import Stylization

BUCKET_PIXELS = 32
"""Sides are padded to multiples of this (and of the stride), so that images of similar sizes share batches."""


class Span(NamedTuple):
    """One axis of a tile: the range that is read, and the range of the output that is kept."""

    start: int
    end: int
    kept_start: int
    kept_end: int


class Tile(NamedTuple):
    """The rows and columns of one call of the network."""

    rows: Span
    columns: Span


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles of one image: a single one, kept whole, if the image fits the network."""

    height: int
    width: int
    padded_height: int
    padded_width: int
    tiles: tuple[Tile, ...]
    is_tiled: bool


def plan_tiles(height: int, width: int, stylization: Stylization) -> Plan:
    """Plan the tiles of an image."""
    bucket = math.lcm(BUCKET_PIXELS, stylization.stride)
    padded = [-(-side // bucket) * bucket for side in (height, width)]
    is_tiled = padded[0] * padded[1] > stylization.max_pixels
    longest = stylization.tile_pixels if is_tiled else max(padded)
    rows, columns = (
        _spans(side, padded_side, longest, stylization.halo_pixels)
        for side, padded_side in zip((height, width), padded, strict=True)
    )
    tiles = tuple(Tile(row, column) for row in rows for column in columns)
    return Plan(height, width, padded[0], padded[1], tiles, is_tiled)


def _spans(side: int, padded_side: int, longest: int, halo: int) -> list[Span]:
    """Windows of equal length within the padded side; each keeps what is in the halo of the one before."""
    window = min(longest, padded_side)
    spans: list[Span] = []
    kept = 0
    while kept < side:
        start = min(max(kept - halo, 0), padded_side - window)
        end = start + window
        kept_end = min(end if end == padded_side else end - halo, side)
        spans.append(Span(start, end, kept, kept_end))
        kept = kept_end
    return spans


def statistics_size(height: int, width: int, stylization: Stylization) -> tuple[int, int]:
    """The size to downscale a large image to for its statistics: multiples of the stride that fit the network."""
    scale = math.sqrt(stylization.max_pixels / (height * width))
    stride = stylization.stride
    short, long = (max(1, int(side * scale) // stride) * stride for side in sorted((height, width)))
    long = min(long, stylization.max_pixels // short // stride * stride)
    return (short, long) if height <= width else (long, short)


def mirrored(start: int, end: int, side: int) -> NDArray[np.intp]:
    """The indices into a side for the range `start` to `end` of the padded side, mirrored beyond the end."""
    places = np.arange(start, end) % max(2 * side - 2, 1)
    return np.minimum(places, 2 * side - 2 - places) if side > 1 else np.zeros_like(places)
