"""How a picture of any size goes through a stylizer: padded to a bucket, at once or in tiles that agree exactly.

Pure geometry in pixels of the padded picture; nothing here touches a pixel. A tile sees the statistics of the whole
picture (URST: Chen et al., AAAI 2022), so what it paints differs from the whole painting only where its border shows,
`halo_pixels` deep; that much is thrown away, and no seam is left to blend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.stylization import Stylization

BUCKET_PIXELS = 32
"""Sides are padded to multiples of this (and of the stride), so that pictures of like sizes share batches."""


class Span(NamedTuple):
    """One axis of a tile: what is read, and which part of what it paints is kept."""

    start: int
    end: int
    kept_start: int
    kept_end: int


class Tile(NamedTuple):
    """One call of the network."""

    rows: Span
    columns: Span


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles of one picture; a single one, all of which is kept, for a picture that fits the network at once."""

    height: int
    width: int
    padded_height: int
    padded_width: int
    tiles: tuple[Tile, ...]
    is_tiled: bool


def plan_tiles(height: int, width: int, stylization: Stylization) -> Plan:
    """Plan a picture of any size."""
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
    """Windows of one length, all within the padded side; each keeps what the one before it could not see right."""
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
    """Height and width to which a large picture is brought for its statistics: multiples of the stride, as they fit."""
    scale = math.sqrt(stylization.max_pixels / (height * width))
    stride = stylization.stride
    short, long = (max(1, int(side * scale) // stride) * stride for side in sorted((height, width)))
    long = min(long, stylization.max_pixels // short // stride * stride)
    return (short, long) if height <= width else (long, short)


def mirrored(start: int, end: int, side: int) -> NDArray[np.intp]:
    """The places in a side that `start` to `end` of its padded form show: beyond its end it is mirrored."""
    places = np.arange(start, end) % max(2 * side - 2, 1)
    return np.minimum(places, 2 * side - 2 - places) if side > 1 else np.zeros_like(places)
