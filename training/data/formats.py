"""Readers for the file formats data sets come in: idx, CIFAR's binary records, class-per-folder images, archives.

It owns parsing into arrays (uint8 [B,H,W,C] and int64 [B]) and knows no data set by name or address. idx: the format
of Yann LeCun's MNIST page; CIFAR records: one label byte, then 3,072 bytes of planes (Krizhevsky's page).
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_CIFAR_RECORD_BYTES = 1 + 3 * 32 * 32


class DataError(ValueError):
    """A data file is missing, damaged or not in the expected form; the message names it."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, gzipped or not.

    Raises: DataError.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    # Two zeros, the type (8: unsigned byte), the number of axes; then the size of each axis, big-endian; then the data.
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} starts with {content[:4].hex()!r}; an idx file of unsigned bytes starts with 000008.")
    num_axes = content[3]
    start = 4 + 4 * num_axes
    shape = struct.unpack(f">{num_axes}I", content[4:start]) if len(content) >= start else ()
    if not shape or len(content) - start != int(np.prod(shape)):
        raise DataError(f"{path} holds {len(content) - start} bytes of data; its header says shape {shape}.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def find_idx(folder: Path, stem: str) -> Path | None:
    """Find `stem` or `stem`.gz in `folder`."""
    return next((path for name in (stem, f"{stem}.gz") if (path := folder / name).is_file()), None)


def read_cifar_records(content: bytes, what: str) -> tuple[Pixels, Labels]:
    """Parse the records of CIFAR-10's binary version.

    Raises: DataError.
    """
    if not content or len(content) % _CIFAR_RECORD_BYTES:
        raise DataError(f"{what} has {len(content)} bytes; it must be a multiple of {_CIFAR_RECORD_BYTES}.")
    # Three planes, red first, of 32 rows each: [B,3,32,32] -> [B,32,32,3].
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD_BYTES)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)


def walk_folder(root: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield relative path and content of every image file below `root`, in sorted order."""
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield PurePosixPath(path.relative_to(root).as_posix()), path.read_bytes()


def walk_archive(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield path and content of every file in a tar archive, in the archive's order.

    Raises: DataError when it is damaged.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield PurePosixPath(member.name), stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def decode_class_folders(
    files: Iterator[tuple[PurePosixPath, bytes]], split: str, mode: str, known_labels: Sequence[str]
) -> tuple[Pixels, Labels, tuple[str, ...]]:
    """Decode the files at `.../<split>/<class>/<file>` as Pillow mode `mode`; also returns the class names.

    The classes keep the order of `known_labels` when they are the same names, else they are sorted.

    Raises: DataError when there is no image, or the images differ in size.
    """
    # The part and the class are the last two folders; what lies above them, such as the archive's own name, is nobody's
    # business.
    found = [(path, content) for path, content in files if len(path.parts) >= 3 and path.parts[-3] == split]
    found = sorted((pair for pair in found if pair[0].suffix.lower() in IMAGE_SUFFIXES), key=lambda pair: pair[0])
    if not found:
        raise DataError(f"no images at {split}/<class>/<file>; valid file types are {sorted(IMAGE_SUFFIXES)}.")
    # The labels of the official edition keep their order, so that a network can be scored on either edition.
    names = {path.parts[-2] for path, _ in found}
    labels = tuple(known_labels) if names == set(known_labels) else tuple(sorted(names))
    images = [_decode(content, mode, path) for path, content in found]
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise DataError(f"the images of {split!r} have the sizes {sorted(sizes)}; all must be of one size.")
    return np.stack(images), np.array([labels.index(path.parts[-2]) for path, _ in found], np.int64), labels


def _decode(content: bytes, mode: str, path: PurePosixPath) -> Pixels:
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert(mode))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image: {error}.") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
