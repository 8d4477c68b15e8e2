"""Explanations: an activation map over an image."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.tasks.classification.process import explanation_png
from service.tasks.colormap import COLOURS
from tests.models.samples import noise


def pixels_in(image: NDArray[np.uint8], activation_map: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(Image.open(BytesIO(explanation_png(image, activation_map)))).astype(np.int64)


def test_colour_shows_where_the_map_is_hot_and_the_image_elsewhere() -> None:
    image = noise(28, 28, 1).reshape(28, 28, 1)
    heat = np.full((7, 7), -1, np.float32)
    heat[5, 5] = 3
    shown = pixels_in(image, heat)
    assert shown.shape == (224, 224, 3)
    enlarged = np.kron(image[:, :, 0], np.ones((8, 8), np.int64))
    assert np.array_equal(shown[:100, :100], np.stack([enlarged] * 3, axis=-1)[:100, :100])
    saturation = shown.max(axis=-1) - shown.min(axis=-1)
    hottest = np.unravel_index(saturation.argmax(), saturation.shape)
    assert all(150 < axis < 210 for axis in hottest)


@pytest.mark.parametrize("value", [0.0, -5.0, np.nan, np.inf])
def test_without_positive_values_the_image_stays_grey(value: float) -> None:
    image = noise(28, 28, 1).reshape(28, 28, 1)
    shown = pixels_in(image, np.full((7, 7), value, np.float32))
    assert np.array_equal(shown[:, :, 0], np.kron(image[:, :, 0], np.ones((8, 8), np.int64)))
    assert np.ptp(shown, axis=-1).max() == 0


def test_the_scale_of_the_map_does_not_matter() -> None:
    image, heat = noise(32, 32), np.arange(16, dtype=np.float32).reshape(4, 4)
    assert np.array_equal(pixels_in(image, heat), pixels_in(image, heat * 1e-3))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((28, 28), (224, 224)), ((32, 16), (224, 112)), ((300, 200), (300, 200)), ((1, 1), (224, 224))],
)
def test_small_images_are_enlarged_by_a_whole_factor(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = noise(*size).reshape(*size, 3)
    assert pixels_in(image, np.eye(4, dtype=np.float32)).shape == (*expected, 3)


def test_lightness_rises_along_the_colours() -> None:
    lightness = COLOURS.astype(float) @ [0.2126, 0.7152, 0.0722]
    assert COLOURS.shape == (256, 3)
    assert (np.diff(lightness) > -1e-9).mean() > 0.9
    assert (np.diff(lightness[::16]) > 0).all()
    assert lightness[0] < 5
    assert lightness[-1] > 240
