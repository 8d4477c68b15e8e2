"""Pictures from folders: upright, of one size, split by seed, and cut at random but repeatably."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.small_stylizers import photographs, write_pictures
from training.data.formats import DataError
from training.data.photographs import (
    MAX_PHOTOGRAPH_PIXELS,
    centre,
    made_up_paintings,
    random_crops,
    read_paintings,
    read_photographs,
    read_picture,
    to_tensor,
)


def test_paintings_are_named_after_their_files_and_resized(tmp_path: Path) -> None:
    tall = np.zeros((80, 40, 3), np.uint8)
    folder = write_pictures(tmp_path / "styles", {"The Great-Wave": tall, "a": made_up_paintings()[0].picture})
    (folder / "notes.txt").write_text("no picture")

    paintings = read_paintings(folder, 64)

    assert [painting.name for painting in paintings] == ["the_great_wave", "a"]
    assert paintings[0].picture.shape == (128, 64, 3)


def test_two_paintings_of_one_name_are_refused(tmp_path: Path) -> None:
    picture = made_up_paintings()[0].picture
    folder = write_pictures(tmp_path / "styles", {"wave 1": picture, "wave-1": picture})

    with pytest.raises(DataError, match="'wave_1'"):
        read_paintings(folder, 32)


def test_a_picture_is_read_upright_and_as_rgb(tmp_path: Path) -> None:
    image = Image.new("L", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)

    upright = read_picture(tmp_path / "turned.jpg")

    assert (upright.size, upright.mode) == ((10, 20), "RGB")


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")

    with pytest.raises(DataError, match=r"broken\.jpg"):
        read_picture(tmp_path / "broken.jpg")
    with pytest.raises(DataError, match="holds no pictures"):
        read_paintings(tmp_path / "nowhere", 32)


def test_the_seed_chooses_which_photographs_are_held_out(tmp_path: Path) -> None:
    pictures = {f"photo_{index}": np.full((30, 40, 3), index, np.uint8) for index in range(8)}
    folder = write_pictures(tmp_path / "photographs", pictures)

    first, again, other = (read_photographs(folder, 3, seed) for seed in (0, 0, 1))

    values = [sorted(int(p[0, 0, 0]) for p in part) for part in (first.train, first.held_out)]
    assert sorted(values[0] + values[1]) == list(range(8))
    assert len(values[1]) == 3
    assert [p[0, 0, 0] for p in again.held_out] == [p[0, 0, 0] for p in first.held_out]
    assert [p[0, 0, 0] for p in other.held_out] != [p[0, 0, 0] for p in first.held_out]
    assert first.sha256 == other.sha256
    with pytest.raises(DataError, match="holds 8 pictures; 8 are held out"):
        read_photographs(folder, 8, 0)


def test_large_photographs_are_reduced(tmp_path: Path) -> None:
    pictures = {"large": np.zeros((300, 1024, 3), np.uint8), "small": np.zeros((30, 40, 3), np.uint8)}

    read = read_photographs(write_pictures(tmp_path / "photographs", pictures), 1, 0)

    shapes = {picture.shape[:2] for picture in read.train + read.held_out}
    assert shapes == {(150, MAX_PHOTOGRAPH_PIXELS), (30, 40)}


@pytest.mark.parametrize("side", [16, 32, 64])
def test_crops_are_square_within_range_and_repeatable(side: int) -> None:
    pictures = photographs()

    crops, again, other = (random_crops(pictures, 5, side, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))

    assert crops.shape == (5, 3, side, side)
    assert crops.min() >= 0
    assert crops.max() <= 255.01
    assert torch.equal(crops, again)
    assert not torch.equal(crops, other)


def test_the_centre_of_a_square_is_the_picture() -> None:
    picture = made_up_paintings()[0].picture

    assert torch.equal(centre(picture, 48), to_tensor(picture))
    assert centre(photographs()[0], 20).shape == (3, 20, 20)
