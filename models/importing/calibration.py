"""Reads what a user quantises a network with: a folder of pictures, in folders of their classes or not, or an archive.

Pictures are decoded and resized as the service does. Of the rows, some calibrate, and the others compare and score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import images
from models.golden import Tensors
from models.images import ImageError
from models.importing.onnx_graphs import first_line
from models.importing.sources import ImportRefused
from models.manifest import Graph, Manifest, TensorSpec

LABELS = "labels"
"""The array of an archive that holds the index of each row's class."""
MOST_CALIBRATED = 512
LEAST_ROWS = 16
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".ppm", ".pgm"}

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows of a graph's inputs, read when they are needed, and the index of each row's class where it is known.

    With `is_test`, all rows score and none calibrates.
    """

    dataset: str
    count: int
    read: Callable[[Rows], Tensors]
    labels: Rows | None = None
    is_test: bool = False

    def split(self) -> tuple[Rows, Rows]:
        """The rows to calibrate with, at most half of them, and the others; the same ones each time."""
        order = np.random.default_rng(0).permutation(self.count)
        num_calibrated = 0 if self.is_test else min(MOST_CALIBRATED, self.count // 2)
        return order[:num_calibrated], order[num_calibrated:]


def read_samples(path: Path, manifest: Manifest, graph: Graph) -> Samples:
    """Read the samples that a folder or an archive holds for a graph.

    Raises: ImportRefused.
    """
    if path.is_dir():
        if manifest.task != "image-classification":
            raise ImportRefused(f"--calibration is the folder {str(path)!r}; a graph of tensors takes an .npz file.")
        samples = _read_pictures(path, manifest, graph)
    else:
        samples = _read_archive(path, manifest, graph)
    if samples.count < LEAST_ROWS:
        raise ImportRefused(
            f"--calibration {str(path)!r} holds {samples.count} rows; {LEAST_ROWS} are needed at least."
        )
    return samples


# --- pictures ---


def _read_pictures(folder: Path, manifest: Manifest, graph: Graph) -> Samples:
    files, labels = _find_pictures(folder, manifest.labels or ())
    (spec,) = graph.inputs
    height, width, channels = spec.row_shape

    def prepared(file: Path) -> NDArray[np.uint8]:
        try:
            return images.prepare(
                file.read_bytes(),
                height,
                width,
                channels,
                manifest.light_on_dark,
                margin=manifest.margin,
                preprocess=manifest.preprocess,
            )
        except (ImageError, OSError) as error:
            raise ImportRefused(f"The picture {str(file)!r} of --calibration cannot be read: {error}") from error

    def read(rows: Rows) -> Tensors:
        return {spec.name: np.stack([prepared(files[row]) for row in rows])}

    return Samples(folder.name or str(folder), len(files), read, labels)


def _find_pictures(folder: Path, labels: tuple[str, ...]) -> tuple[list[Path], Rows | None]:
    """The pictures of a folder, and their classes where it has folders of them."""
    folders = {each: found for each in sorted(folder.iterdir()) if each.is_dir() and (found := _pictures_in(each))}
    if not folders:
        return _pictures_in(folder), None
    classes = {each: _class_of(each.name, labels) for each in folders}
    files = [file for found in folders.values() for file in found]
    indices = [classes[each] for each, found in folders.items() for _ in found]
    return files, np.array(indices, np.int64)


def _pictures_in(folder: Path) -> list[Path]:
    found = (each for each in folder.iterdir() if each.suffix.lower() in _SUFFIXES and not each.name.startswith("."))
    return sorted(each for each in found if each.is_file())


def _class_of(name: str, labels: tuple[str, ...]) -> int:
    """The index of the class that a folder is called after: by its label, or by its index."""
    places = {_plain(label): index for index, label in enumerate(labels)}
    if (index := places.get(_plain(name))) is not None:
        return index
    if name.isdecimal() and int(name) < len(labels):
        return int(name)
    shown = ", ".join(map(repr, labels[:5])) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
    raise ImportRefused(f"The folder {name!r} of --calibration is called after none of the labels: {shown}.")


def _plain(label: str) -> str:
    return "".join(character for character in label.casefold() if character.isalnum())


# --- archives ---


def _read_archive(path: Path, manifest: Manifest, graph: Graph) -> Samples:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, NDArray[Any]] = dict(archive)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ImportRefused(
            f"--calibration {str(path)!r} is neither a folder nor an archive of arrays (.npz): {first_line(error)}"
        ) from error
    labels = arrays.pop(LABELS, None) if manifest.labels else None
    expected = {spec.name: spec for spec in graph.inputs}
    if arrays.keys() != expected.keys():
        raise ImportRefused(f"--calibration {str(path)!r} holds {sorted(arrays)}; the inputs are {sorted(expected)}.")
    counts = {len(array) if array.ndim else 0 for array in (*arrays.values(), *([] if labels is None else [labels]))}
    if len(counts) > 1:
        raise ImportRefused(f"The arrays of --calibration {str(path)!r} have {sorted(counts)} rows; all need as many.")
    arrays = {name: _fitted(array, expected[name], graph.is_batched) for name, array in arrays.items()}

    def read(rows: Rows) -> Tensors:
        return {name: array[rows] for name, array in arrays.items()}

    return Samples(path.stem, counts.pop(), read, _checked(labels, len(manifest.labels or ())))


def _fitted(array: NDArray[Any], spec: TensorSpec, is_batched: bool) -> NDArray[Any]:
    """The rows of an input in its type; those of a graph that takes one at a time may lack the axis of size 1."""
    shape = spec.row_shape if is_batched else spec.shape
    if not is_batched and array.ndim == len(shape) and shape[0] in (1, -1):
        array = array[:, np.newaxis]
    if array.ndim != len(shape) + 1 or any(e not in (-1, s) for e, s in zip(shape, array.shape[1:], strict=True)):
        raise ImportRefused(f"Rows of {spec.name!r} in --calibration are {list(array.shape[1:])}, not {list(shape)}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImportRefused(f"{spec.name!r} in --calibration has values that are not finite; a range needs numbers.")
    return array.astype(spec.dtype)


def _checked(labels: NDArray[Any] | None, num_labels: int) -> Rows | None:
    if labels is None:
        return None
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < num_labels)).all():
        raise ImportRefused(f"{LABELS!r} of --calibration must be whole numbers from 0 to {num_labels - 1}, one a row.")
    return labels.astype(np.int64)
