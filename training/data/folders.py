"""Images of one's own: a folder, or a table of paths and labels, in any sizes, as one data set of one size.

It owns the layouts, what is skipped and said of it, and the split. An image becomes pixels as in the service
(`models.images.prepare`), so that a network meets there what it was trained on.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

from models.images import ImageError, prepare
from training.data.datasets import Dataset
from training.data.formats import IMAGE_SUFFIXES, DataError, Pixels

Channels = Literal["auto", "grey", "color"]
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_PATH_COLUMNS = ("path", "file", "filename", "file_name", "image")
_LABEL_COLUMNS = ("label", "class", "category", "target")
_PART_COLUMNS = ("split", "part", "subset", "set")
SMALLEST_SIDE, LARGEST_SIDE = 28, 224
_USUAL_SIDE = 64
# Images that are looked at to find out how large they are, and whether any has colours.
_NUM_LOOKED_AT = 200
_MOST_LISTED = 10
# Two images are near-duplicates if their reductions to 8 x 8 levels differ by less than this, as a root mean square.
_NEAR_LEVELS = 2.5
_COMPARED_SIDE, _COMPARED_ROWS = 8, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How images of one's own are read; `image_size` 0 and "auto" are found out from the images."""

    image_size: int = 0
    channels: Channels = "auto"
    test_share: float = 0.2
    max_unreadable: float = 0.05
    light_on_dark: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size and not SMALLEST_SIDE <= self.image_size <= LARGEST_SIDE:
            raise DataError(f"image_size is {self.image_size}; it must be from {SMALLEST_SIDE} to {LARGEST_SIDE}.")
        if not (0 < self.test_share < 1 and 0 <= self.max_unreadable < 1):
            raise DataError(
                f"test_share is {self.test_share} and max_unreadable {self.max_unreadable}; both are shares: the first "
                "is above 0, and both are below 1."
            )


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    label: str
    part: str


def read_own_images(path: Path, reading: Reading) -> Dataset:
    """Read images at `train/<class>/` and `test/<class>/`, at `<class>/`, in one folder, or listed in a CSV file.

    Images that cannot be read are named and left out, up to `max_unreadable` of them; so are classes without images.

    Raises: DataError.
    """
    entries = _listed(path) if path.is_file() else _found(path)
    if not entries:
        raise DataError(
            f"{path} holds no images; valid are files of {sorted(IMAGE_SUFFIXES)} at train/<class>/ and test/<class>/, "
            "at <class>/, or without classes in one folder; or a CSV file of paths and labels."
        )
    side, channels = _size_of(entries, reading)
    entries, pixels = _decoded(entries, side, channels, reading)
    labels = tuple(sorted({entry.label for entry in entries}))
    is_test = _tested(entries, labels, reading)
    if is_test.all() or not is_test.any():
        raise DataError(f"{path} has {len(entries)} images; training and test each need at least one.")
    indices = np.array([labels.index(entry.label) for entry in entries], np.int64)
    dataset = Dataset(
        name=path.resolve().stem if path.is_file() else path.resolve().name,
        description=f"the images {path.resolve().stem}",
        labels=labels,
        train_images=pixels[~is_test],
        train_labels=indices[~is_test],
        test_images=pixels[is_test],
        test_labels=indices[is_test],
        light_on_dark=reading.light_on_dark and channels == 1,
    )
    names = [str(entry.path.relative_to(path.parent if path.is_file() else path)) for entry in entries]
    _tell(dataset, names, is_test)
    return dataset


# What there is.


def _found(folder: Path) -> list[_Entry]:
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is neither a folder nor a file; --data names the images, or a CSV of them.")
    parts = {entry: _PARTS[entry.name.lower()] for entry in _folders(folder) if entry.name.lower() in _PARTS}
    if "train" not in parts.values():
        return _of_classes(folder, "")
    return [entry for each, part in parts.items() for entry in _of_classes(each, part)]


def _of_classes(folder: Path, part: str) -> list[_Entry]:
    """The images of each folder in `folder`, whose name is their label; of `folder` itself where it has no folders."""
    classes = _folders(folder)
    if not classes:
        return [_Entry(file, "image", part) for file in _images(folder)]
    found = [(each, _images(each)) for each in classes]
    if empty := [each.name for each, files in found if not files]:
        where = f" of {folder.name}" if part else ""
        tqdm.write(f"warning: without images, and left out: the classes {_shortened(empty)}{where}")
    return [_Entry(file, each.name, part) for each, files in found for file in files]


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _listed(table: Path) -> list[_Entry]:
    """The rows of a CSV file: path, label and, where it has one, the split; with a heading or without."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(table)!r} cannot be read as a CSV file in UTF-8: {error}.") from error
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = [next((heading.index(n) for n in names if n in heading), -1) for names in _COLUMNS]
    if columns[0] < 0:
        columns = [0, 1 if len(heading) > 1 else -1, -1]
    else:
        rows = rows[1:]
    return [_row(table, number, row, columns) for number, row in enumerate(rows, 1)]


_COLUMNS = (_PATH_COLUMNS, _LABEL_COLUMNS, _PART_COLUMNS)


def _row(table: Path, number: int, row: Sequence[str], columns: Sequence[int]) -> _Entry:
    if len(row) <= max(columns):
        raise DataError(f"row {number} of {table} has {len(row)} cells; at least {max(columns) + 1} are needed.")
    path, label, part = (row[column].strip() if column >= 0 else "" for column in columns)
    if part and part.lower() not in _PARTS:
        raise DataError(f"row {number} of {table} is of the split {part!r}; valid are {', '.join(sorted(_PARTS))}.")
    return _Entry(table.parent / path, label or "image", _PARTS.get(part.lower(), ""))


# From files to pixels.


def _size_of(entries: Sequence[_Entry], reading: Reading) -> tuple[int, int]:
    """The side and the channels to read with: as asked, else what a part of the images have."""
    looked_at = entries[:: max(len(entries) // _NUM_LOOKED_AT, 1)]
    shapes, has_colors = set(), False
    for entry in looked_at:
        try:
            with Image.open(entry.path) as image:
                shapes.add(image.size)
                has_colors = has_colors or (reading.channels == "auto" and _has_colors(image))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # named when it is read
    channels = {"auto": 3 if has_colors else 1, "grey": 1, "color": 3}[reading.channels]
    (width, height) = next(iter(shapes)) if len(shapes) == 1 else (0, 0)
    is_usual = width == height and SMALLEST_SIDE <= width <= LARGEST_SIDE and width % 4 == 0
    return reading.image_size or (width if is_usual else _USUAL_SIDE), channels


def _has_colors(image: Image.Image) -> bool:
    if image.mode in ("1", "L", "LA", "I", "I;16", "F"):
        return False
    small = image.convert("RGB")
    small.thumbnail((64, 64))
    levels = np.asarray(small).astype(np.int16)
    # A JPEG of a grey scan may have colours that are off by a level or two.
    return bool((levels.max(2) - levels.min(2)).mean() > 2)


def _decoded(entries: list[_Entry], side: int, channels: int, reading: Reading) -> tuple[list[_Entry], Pixels]:
    """The images that can be read, with their pixels [B,S,S,C].

    Raises: DataError when too many cannot.
    """

    def decode(entry: _Entry) -> Pixels | str:
        try:
            return prepare(entry.path.read_bytes(), side, side, channels)
        except (ImageError, OSError) as error:
            return f"{entry.path}: {getattr(error, 'message', error)}"

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        title = f"images of {side} x {side}"
        found = list(tqdm(pool.map(decode, entries), total=len(entries), desc=title, mininterval=1.0, leave=False))
    if wrong := [each for each in found if isinstance(each, str)]:
        text = f"{len(wrong)} of {len(entries)} images cannot be read:\n  " + "\n  ".join(wrong[:_MOST_LISTED])
        text += f"\n  and {len(wrong) - _MOST_LISTED} more" if len(wrong) > _MOST_LISTED else ""
        if len(wrong) > reading.max_unreadable * len(entries):
            most = f"{reading.max_unreadable:.1%}"
            raise DataError(f"{text}\nAt most {most} may be left out; repair them, or raise --max-unreadable.")
        tqdm.write(f"warning: left out, {text}")
    kept = [entry for entry, each in zip(entries, found, strict=True) if not isinstance(each, str)]
    return kept, np.stack([each for each in found if not isinstance(each, str)])


# The split.


def _tested(entries: Sequence[_Entry], labels: Sequence[str], reading: Reading) -> NDArray[np.bool_]:
    """Which images [B] are of test: those that lie there, else a share of each class, drawn by the seed."""
    parts = Counter(entry.part for entry in entries)
    if parts["test"] or parts["validation"]:
        # Validation images without test images test; beside them, they are trained on, and some held out again.
        tested = "test" if parts["test"] else "validation"
        return np.array([entry.part == tested for entry in entries])
    rng = np.random.default_rng(reading.seed)
    is_test = np.zeros(len(entries), bool)
    for label in labels:
        rows = np.flatnonzero([entry.label == label for entry in entries])
        # Each class has an image to train on, then one to test.
        count = min(max(round(reading.test_share * len(rows)), 1), len(rows) - 1)
        is_test[rng.permutation(rows)[:count]] = True
    tqdm.write(f"no test images of their own: {reading.test_share:.0%} of each class are, drawn by seed {reading.seed}")
    return is_test


def _tell(dataset: Dataset, names: Sequence[str], is_test: NDArray[np.bool_]) -> None:
    """Say what was read, and what is wrong with it."""
    side, channels = dataset.train_images.shape[2:]
    tqdm.write(
        f"{dataset.name}: {len(dataset.train_labels):,} images to train on, {len(dataset.test_labels):,} of test, "
        f"{side} x {side} in {'grey' if channels == 1 else 'colour'}, classes: {_shortened(dataset.labels)}"
    )
    for part, labels in (("train", dataset.train_labels), ("test", dataset.test_labels)):
        counts = np.bincount(labels, minlength=len(dataset.labels))
        if missing := [label for label, count in zip(dataset.labels, counts, strict=True) if not count]:
            tqdm.write(f"warning: no {part} images of {_shortened(missing)}")
    pairs = near_duplicates(dataset.train_images, dataset.test_images)
    if pairs:
        train, test = (np.array(names)[rows] for rows in (~is_test, is_test))
        shown = ", ".join(f"{test[second]} ~ {train[first]}" for first, second in pairs[:3])
        tqdm.write(
            f"warning: {len(pairs)} of {len(dataset.test_labels)} test images are nearly the same as one to train on, "
            f"so test scores flatter: {shown}"
        )


def near_duplicates(train: Pixels, test: Pixels) -> list[tuple[int, int]]:
    """Pairs (train, test) of rows that look the same, the nearest for each row of test."""
    first, second = _reduced(train), _reduced(test)
    pairs = []
    for start in range(0, len(second), _COMPARED_ROWS):
        rows = second[start : start + _COMPARED_ROWS]
        best = torch.full((len(rows),), torch.inf)
        where = torch.zeros(len(rows), dtype=torch.long)
        for begin in range(0, len(first), _COMPARED_ROWS):
            distances, places = torch.cdist(rows, first[begin : begin + _COMPARED_ROWS]).min(1)
            where = torch.where(distances < best, places + begin, where)
            best = torch.minimum(best, distances)
        near = (best < _NEAR_LEVELS * first.shape[1] ** 0.5).nonzero()[:, 0]
        pairs += [(int(where[row]), start + int(row)) for row in near]
    return pairs


def _reduced(pixels: Pixels) -> torch.Tensor:
    parts = torch.split(torch.from_numpy(pixels), _COMPARED_ROWS)
    small = [functional.adaptive_avg_pool2d(part.permute(0, 3, 1, 2).float(), _COMPARED_SIDE) for part in parts]
    return torch.cat(small).flatten(1)


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(map(repr, names[:_MOST_LISTED])) + more
