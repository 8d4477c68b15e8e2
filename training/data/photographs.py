"""Photographs and paintings from folders, and made-up ones: reading, sizes, the held-out part, and random crops.

It owns how a picture becomes a tensor [3,H,W] of 0 to 255, RGB. It knows neither networks nor losses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from training.data.formats import DataError

Picture = NDArray[np.uint8]  # [H,W,3]
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Longer sides of photographs are reduced to this: crops see a good part of the scene, and memory holds them all.
MAX_PHOTOGRAPH_PIXELS = 512
# A crop is cut from a square between this part of the shorter side and all of it, and resized.
_SMALLEST_CROP = 0.6
_NUM_MADE_UP = 8


@dataclass(frozen=True, slots=True)
class Painting:
    """A style: its name and its picture."""

    name: str
    picture: Picture


@dataclass(frozen=True, slots=True)
class Photographs:
    """Photographs of a folder, by their part."""

    train: list[Picture]
    held_out: list[Picture]
    sha256: str

    def few(self) -> Photographs:
        """A few to train on, with all that are held out."""
        return Photographs(self.train[:_NUM_MADE_UP], self.held_out, self.sha256)


def picture_files(folder: Path) -> list[Path]:
    """List the pictures of a folder by name.

    Raises: DataError when there are none.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(f"{str(folder)!r} holds no pictures; valid are files that end in {', '.join(_SUFFIXES)}.")
    return files


def read_picture(path: Path) -> Image.Image:
    """Read a picture upright, as RGB.

    Raises: DataError when it is not one.
    """
    try:
        # Cameras store pictures as the sensor lay and note which way is up.
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{str(path)!r} cannot be read as a picture: {type(error).__name__}.") from error


def resized(image: Image.Image, *, shorter: int) -> Image.Image:
    """Resize a picture to a shorter side of `shorter` pixels."""
    factor = shorter / min(image.size)
    size = (max(round(image.width * factor), shorter), max(round(image.height * factor), shorter))
    return image.resize(size, Image.Resampling.LANCZOS)


def read_painting(path: Path, shorter: int) -> Painting:
    """Read a painting; its style is named after the file."""
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    return Painting(name, np.asarray(resized(read_picture(path), shorter=shorter)))


def read_paintings(folder: Path, shorter: int) -> list[Painting]:
    """Read the paintings of a folder, by name.

    Raises: DataError when two styles would have one name.
    """
    paintings = [read_painting(path, shorter) for path in picture_files(folder)]
    names = [painting.name for painting in paintings]
    if twice := sorted({name for name in names if names.count(name) > 1 or not name}):
        raise DataError(f"{str(folder)!r} holds several paintings of the names {twice}; rename them.")
    return paintings


def read_photographs(folder: Path, num_held_out: int, seed: int) -> Photographs:
    """Read the photographs of a folder; `seed` chooses which are held out.

    Raises: DataError when too few are there.
    """
    files = picture_files(folder)
    if len(files) < num_held_out + 1:
        raise DataError(
            f"{str(folder)!r} holds {len(files)} pictures; {num_held_out} are held out, so more are needed."
        )
    pictures = [_read_photograph(path) for path in tqdm(files, desc="photographs", mininterval=1.0, leave=False)]
    # The seed chooses; the order within each part stays that of the file names, whatever the seed.
    order = np.random.default_rng(seed).permutation(len(files))
    return Photographs(
        train=[pictures[row] for row in sorted(order[num_held_out:])],
        held_out=[pictures[row] for row in sorted(order[:num_held_out])],
        sha256=sha256_of(pictures),
    )


def _read_photograph(path: Path) -> Picture:
    image = read_picture(path)
    image.thumbnail((MAX_PHOTOGRAPH_PIXELS, MAX_PHOTOGRAPH_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(image)


def sha256_of(pictures: Iterable[Picture]) -> str:
    """Hash shapes and pixels with SHA-256."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(repr(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


def to_tensor(picture: Picture) -> Tensor:
    """Turn a picture [H,W,3] into float32 [3,H,W]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


def centre(picture: Picture, side: int) -> Tensor:
    """The middle square of a picture, resized to `side` pixels."""
    image = ImageOps.fit(Image.fromarray(picture), (side, side), Image.Resampling.LANCZOS)
    return to_tensor(np.asarray(image))


def random_crops(pictures: Sequence[Picture], count: int, side: int, generator: torch.Generator) -> Tensor:
    """Cut `count` random squares [B,3,side,side], of pictures drawn at random, half of them mirrored."""
    rows = torch.randint(len(pictures), (count,), generator=generator).tolist()
    return torch.stack([_random_crop(to_tensor(pictures[row]), side, generator) for row in rows])


def _random_crop(picture: Tensor, side: int, generator: torch.Generator) -> Tensor:
    shorter = min(picture.shape[1:])
    # Four numbers in 0..1 decide a crop: its size, its place, and whether it is mirrored.
    part, down, right, mirror = torch.rand(4, generator=generator).tolist()
    length = max(round(shorter * (_SMALLEST_CROP + (1 - _SMALLEST_CROP) * part)), 16)
    if side < length:
        # Small crops show strokes, not scenes: they keep the scale of large ones, and see less.
        length = max(min(length, round(side * (1 + part / 2))), 16)
    top, left = int(down * (picture.shape[1] - length + 1)), int(right * (picture.shape[2] - length + 1))
    crop = picture[:, top : top + length, left : left + length]
    # Antialiased: without, a photograph that is halved would teach the network jagged edges.
    crop = functional.interpolate(crop[None], size=(side, side), mode="bilinear", antialias=True)[0]
    return crop.flip(2) if mirror < 0.5 else crop


# Made-up pictures, for dry runs: a network trained on them paints nothing worth seeing.


def made_up_paintings(names: tuple[str, ...] = ("stripes", "dots"), pixels: int = 48) -> list[Painting]:
    """Make a painting a name, of stripes in two colours."""
    place = np.arange(pixels)
    paintings = []
    for index, name in enumerate(names):
        stripes = (place[None] // (3 + index) + place[:, None] // (5 + index)) % 2
        colours = np.random.default_rng(index).integers(0, 256, (2, 3), dtype=np.uint8)
        paintings.append(Painting(name, colours[stripes]))
    return paintings


def made_up_photographs(num_held_out: int, seed: int = 0) -> Photographs:
    """Make photographs of coloured blocks with grain, upright and wide."""
    generator = np.random.default_rng(seed)
    pictures: list[Picture] = []
    for index in range(_NUM_MADE_UP + num_held_out):
        blocks = generator.integers(0, 200, (4, 5, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
        fine = blocks + generator.integers(0, 56, blocks.shape, dtype=np.uint8)
        pictures.append(fine if index % 2 else fine.transpose(1, 0, 2))
    return Photographs(pictures[num_held_out:], pictures[:num_held_out], sha256_of(pictures))
