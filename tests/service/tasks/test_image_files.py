"""PNG files, read back by Pillow."""

from __future__ import annotations

import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.tasks.image_files import encode_png
from service.tasks.image_generation.rendering import enlarged
from tests.models.samples import noise


def opened(content: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(content)) as image:
        image.load()
        return np.asarray(image)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (1, 1, 1), (5, 3, 3)])
def test_a_png_holds_the_very_pixels(shape: tuple[int, int, int]) -> None:
    pixels = noise(*shape).reshape(shape)
    assert np.array_equal(opened(encode_png(pixels)).reshape(shape), pixels)


def test_a_png_of_repeated_lines_holds_them_all() -> None:
    pixels = enlarged(noise(16, 16, 3).reshape(16, 16, 3), 5)
    content = encode_png(pixels)
    assert np.array_equal(opened(content), pixels)
    assert len(content) < pixels.size / 5


def test_a_part_of_a_larger_array_is_encoded_as_it_is() -> None:
    whole = noise(20, 20, 3).reshape(20, 20, 3)
    part = whole[3:12:2, ::-1]
    assert np.array_equal(opened(encode_png(part)), part)


def test_checksums_of_a_png_are_right() -> None:
    content = encode_png(noise(8, 8, 1).reshape(8, 8, 1))
    at, names = 8, []
    while at < len(content):
        length = int.from_bytes(content[at : at + 4])
        name_and_body = content[at + 4 : at + 8 + length]
        assert zlib.crc32(name_and_body) == int.from_bytes(content[at + 8 + length : at + 12 + length])
        names.append(name_and_body[:4])
        at += 12 + length
    assert names == [b"IHDR", b"IDAT", b"IEND"]
