"""Rendered files contain the exact pixels of their images."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from service.tasks.colormap import COLOURS
from service.tasks.image_generation import rendering as drawn
from tests.models.samples import noise

Pixels = NDArray[np.uint8]


def opened(content: bytes) -> Pixels:
    with Image.open(BytesIO(content)) as image:
        image.load()
        return np.asarray(image)


def frames_of(content: bytes) -> list[Pixels]:
    with Image.open(BytesIO(content)) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def random_images(count: int, side: int = 8, channels: int = 1) -> Pixels:
    return noise(count * side, side, channels).reshape(count, side, side, channels)


def test_a_grid_shows_every_image_enlarged_in_its_place() -> None:
    batch = random_images(5, 28)
    grid = opened(drawn.labelled_grid(batch, [""] * 5))
    side, gap = 84, 4
    assert grid.shape == (2 * side + 3 * gap, 3 * side + 4 * gap)
    for index, image in enumerate(batch):
        top, left = gap + index // 3 * (side + gap), gap + index % 3 * (side + gap)
        assert np.array_equal(grid[top : top + side, left : left + side], np.kron(image[:, :, 0], np.ones((3, 3))))
    assert (grid[side + 2 * gap :, 2 * (side + gap) + gap :] == 255).all()


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (36, 6), (37, 7), (64, 8), (256, 16)])
def test_a_grid_is_about_as_wide_as_it_is_high(count: int, columns: int) -> None:
    grid = opened(drawn.labelled_grid(random_images(count, 112), [""] * count))
    assert grid.shape == (-(-count // columns) * 116 + 4, columns * 116 + 4) or count == 1
    assert grid.shape[1] >= drawn.MIN_GRID_WIDTH


def test_captions_stand_below_their_images_only() -> None:
    batch = random_images(2, 28)
    bare = opened(drawn.labelled_grid(batch, ["", ""], num_columns=2))
    captioned = opened(drawn.labelled_grid(batch, ["Bag", ""], num_columns=2))
    assert captioned.shape[1] == bare.shape[1]
    below = bare.shape[0] - 4
    assert np.array_equal(captioned[:below], bare[:below])
    half = captioned.shape[1] // 2
    assert captioned[below:, :half].min() < 64
    assert (captioned[below:, half:] == 255).all()


def test_a_caption_too_wide_is_cut_to_its_own_cell() -> None:
    grid = opened(drawn.labelled_grid(random_images(2, 112), ["Flip-flops with " * 40, ""], num_columns=2))
    caption, beside = grid[116:, 4:116], grid[116:, 116:]
    assert caption.min() < 64
    assert (beside == 255).all()


@pytest.mark.parametrize("text", ["\u200b", "日本語", "a\nb\0c", " "])
def test_unusual_captions_do_not_change_the_image(text: str) -> None:
    batch = random_images(1, 224)
    grid = opened(drawn.labelled_grid(batch, [text]))
    assert grid.shape == (224 + 8 + 14, 224 + 8)
    assert np.array_equal(grid[4:228, 4:228], batch[0, :, :, 0])


def test_colours_stay_colours_in_a_grid() -> None:
    batch = random_images(1, 84, 3)
    grid = opened(drawn.labelled_grid(batch, ["Bag"]))
    assert np.array_equal(grid[4 : 4 + 252 : 3, 4 : 4 + 252 : 3], batch[0])
    assert np.ptp(grid[4 + 252 :], axis=-1).max() == 0


@pytest.mark.parametrize("kind", ["webp", "gif"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_animation_goes_back_and_forth_with_exact_pixels(kind: Literal["webp", "gif"], count: int) -> None:
    batch = random_images(count)
    frames = frames_of(drawn.animation(batch, kind, scale=3))
    order = [*range(count), *range(count - 2, 0, -1)]
    assert len(frames) == len(order)
    for frame, index in zip(frames, order, strict=True):
        assert np.array_equal(frame[:, :, 0], np.kron(batch[index, :, :, 0], np.ones((3, 3))))


def test_a_webp_animation_keeps_colours_exactly() -> None:
    batch = random_images(3, 16, 3)
    frames = frames_of(drawn.animation(batch, "webp", scale=1))
    assert all(np.array_equal(frame, batch[index]) for frame, index in zip(frames, [0, 1, 2, 1], strict=True))


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_an_animation_loops_at_its_pace(kind: Literal["webp", "gif"]) -> None:
    with Image.open(BytesIO(drawn.animation(random_images(3), kind, 0.05))) as image:
        assert image.info["loop"] == 0
        image.seek(1)
        image.load()
        assert image.info["duration"] == 50


def test_error_maps_have_one_scale() -> None:
    guess = np.log(256)
    errors = np.array([[0, guess / 2], [guess, 99], [np.nan, -1]])
    heat = drawn.error_colors(errors, 1)
    assert heat.shape == (3, 2, 3)
    expected = [COLOURS[0], COLOURS[128], COLOURS[255], COLOURS[255], COLOURS[255], COLOURS[0]]
    assert np.array_equal(heat.reshape(6, 3), expected)
    assert np.array_equal(drawn.error_colors(errors * 3, 3), heat)


def test_a_strip_shows_the_image_its_reconstruction_and_its_errors() -> None:
    batch, again = random_images(2, 28), 255 - random_images(2, 28)
    errors = np.linspace(0, 6, 2 * 28 * 28).reshape(2, 28, 28)
    sheet = opened(drawn.reconstruction_strips(batch, again, errors, ["1 nat", "2 nats"]))
    line = 84 + 14 + 4
    for index in range(2):
        top = 4 + index * line
        panes = [sheet[top : top + 84 : 3, 4 + pane * 88 : 4 + pane * 88 + 84 : 3] for pane in range(3)]
        assert np.array_equal(panes[0], np.repeat(batch[index], 3, axis=2))
        assert np.array_equal(panes[1], np.repeat(again[index], 3, axis=2))
        assert np.array_equal(panes[2], drawn.error_colors(errors[index], 1))
