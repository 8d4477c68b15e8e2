"""What the callers send: sample photographs, golden inputs of the shipped models, and beginnings of texts.

A classifier that does not ship with the project gets the photographs, at the size of its input. It knows no route.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from loadtests.sample import PHOTOGRAPHS, encode_png, golden_images, read_photographs, resized_jpeg
from loadtests.scenarios.catalog import Served
from loadtests.servers import REPOSITORY

JPEG, PNG, RAW = "image/jpeg", "image/png", "application/octet-stream"

PROMPTS = (
    "It was the best of times",
    "Call me",
    "The night was dark, and the rain beat upon the windows of the old house. She rose from her chair,",
    "My dear Watson,",
    "There was once a",
    "He had been for some years a lieutenant, and in that time had seen the world, or as much of it as a man may see "
    "from the deck of a ship; and when he came home at last, with little money and much to tell,",
    "“I do not believe a word of it,” said",
    "The old man looked at",
)


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a request and their media type."""

    data: bytes
    media_type: str


@cache
def photographs(side: int) -> tuple[Body, ...]:
    """The sample photographs as square JPEGs."""
    return tuple(Body(resized_jpeg(photo, side, side), JPEG) for photo in read_photographs(PHOTOGRAPHS))


@cache
def images(model: Served) -> tuple[tuple[Body, ...], tuple[Body, ...]]:
    """Images for a classifier as PNG, and as raw tensors: none of these where the size of its input is free."""
    if model.image_shape is None:
        return photographs(256), ()
    pixels = _golden(model) or _fitted(model.image_shape)
    return (
        tuple(Body(encode_png(image), PNG) for image in pixels),
        tuple(Body(image.tobytes(), RAW) for image in pixels),
    )


def _golden(model: Served) -> list[np.ndarray]:
    for file in sorted(REPOSITORY.glob(f"{model.name}/*/golden.npz")):
        pixels = golden_images(file.parent)
        if pixels.shape[1:] == model.image_shape:
            return list(pixels)
    return []


def _fitted(shape: tuple[int, int, int]) -> list[np.ndarray]:
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    fitted = [photo.resize((width, height)).convert(mode) for photo in read_photographs(PHOTOGRAPHS)]
    return [np.asarray(photo, np.uint8).reshape(height, width, -1) for photo in fitted]
