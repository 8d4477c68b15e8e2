"""The part of a manifest that describes a stylizer: its styles, and how it handles images of any size."""

from __future__ import annotations

import re

from models import strict

_STYLE = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")


class Style(strict.Strict, frozen=True, kw_only=True):
    """One style: its name and the file of its thumbnail."""

    name: str
    thumbnail: str

    def __post_init__(self) -> None:
        strict.require_match(_STYLE, self.name, "style")
        strict.require_match(strict.FILE_NAME, self.thumbnail, "thumbnail")


class Stylization(strict.Strict, frozen=True, kw_only=True):
    """The styles of a stylizer, and how images of any size pass through its graphs.

    Sides are multiples of `stride`. Images of up to `max_pixels` pass through the graph `model` whole. Larger ones are
    split into squares with sides of `tile_pixels` for the graph `tile`; a border of `halo_pixels`, the receptive field,
    is discarded.
    """

    styles: tuple[Style, ...]
    stride: int
    max_pixels: int
    tile_pixels: int
    halo_pixels: int

    def __post_init__(self) -> None:
        names = [style.name for style in self.styles]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"styles are {names}; there must be at least one, without duplicates.")
        for name in ("stride", "max_pixels", "tile_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.tile_pixels % self.stride or self.halo_pixels % self.stride:
            raise ValueError(
                f"tile_pixels {self.tile_pixels} and halo_pixels {self.halo_pixels} "
                f"must be multiples of the stride {self.stride}."
            )
        if not 0 <= 2 * self.halo_pixels < self.tile_pixels or self.tile_pixels**2 > self.max_pixels:
            raise ValueError(
                f"tile_pixels is {self.tile_pixels}; a tile must exceed two halos of {self.halo_pixels} "
                f"and hold at most {self.max_pixels} pixels."
            )
