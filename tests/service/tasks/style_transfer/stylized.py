"""Stylize requests, and the images expected from NumPy."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.stylization import Style, Stylization
from service.tasks.style_transfer.tiling import statistics_size
from tests.fake_models.style_transfer import HALO_PIXELS, STRIDE, STYLES, TinyStylizer

Pixels = NDArray[np.uint8]

PATH = "/v1/models/tiny-stylizer/stylize"
STYLIZATION = Stylization(
    styles=tuple(Style(name=name, thumbnail=f"{name}.jpg") for name in STYLES),
    stride=STRIDE,
    max_pixels=128 * 128,
    tile_pixels=64,
    halo_pixels=HALO_PIXELS,
)


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """Encode an image [H,W], [H,W,3] or [H,W,4]."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Pixels:
    """The pixels of a file."""
    return np.asarray(Image.open(BytesIO(content)))


def painted(stylizer: TinyStylizer, pixels: Pixels, weights: NDArray[np.float32]) -> Pixels:
    """The expected result for an image [H,W,3]: padded by mirroring, stylized whole, cropped."""
    height, width = pixels.shape[:2]
    bottom, right = -height % 32, -width % 32
    padded = np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="reflect")[None]
    statistics = {}
    if padded.shape[1] * padded.shape[2] > STYLIZATION.max_pixels:
        rows, columns = statistics_size(height, width, STYLIZATION)
        small = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BICUBIC, reducing_gap=3.0)
        statistics = stylizer.statistics(np.asarray(small)[None], weights)
    return stylizer.paint(padded, weights, **statistics)[0, :height, :width]


def assert_painted(response: httpx.Response, expected: Pixels, levels: int = 1) -> None:
    """Assert that the answer is this image, up to rounding."""
    assert response.status_code == 200, response.text
    assert_alike(opened(response.content), expected, levels)


def assert_alike(found: Pixels, expected: Pixels, levels: int = 1) -> None:
    """Assert that two images differ by a few levels at most."""
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= levels
