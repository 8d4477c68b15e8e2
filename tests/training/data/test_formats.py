"""Readers of idx files, CIFAR records, folders and archives."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import idx_bytes
from training.data.formats import (
    DataError,
    decode_class_folders,
    find_idx,
    read_cifar_records,
    read_idx,
    walk_archive,
    walk_folder,
)


def png(color: tuple[int, int, int], size: tuple[int, int] = (4, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_idx_file_is_read_with_and_without_gzip(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed.gz"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "starts with '00000d01'"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", "holds 3 bytes of data; its header says shape \\(5,\\)"),
        (b"\x00\x00\x08\x03\x00\x00", "its header says shape"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "bad")


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.gz").write_bytes(gzip.compress(bytes(1000))[:-9])
    with pytest.raises(DataError, match=r"bad.gz cannot be read"):
        read_idx(tmp_path / "bad.gz")


def test_an_idx_file_is_found_by_its_stem(tmp_path: Path) -> None:
    assert find_idx(tmp_path, "labels") is None
    (tmp_path / "labels.gz").touch()
    assert find_idx(tmp_path, "labels") == tmp_path / "labels.gz"
    (tmp_path / "labels").touch()
    assert find_idx(tmp_path, "labels") == tmp_path / "labels"


def test_cifar_records_become_channels_last_images() -> None:
    planes = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3, 32, 32)
    content = b"".join(bytes([label]) + plane.tobytes() for label, plane in zip((7, 2), planes, strict=True))
    images, labels = read_cifar_records(content, "batch")
    assert labels.tolist() == [7, 2]
    np.testing.assert_array_equal(images, planes.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("content", [b"", bytes(3074)])
def test_cifar_records_of_a_wrong_length_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"batch.bin has .* bytes; it must be a multiple of 3073"):
        read_cifar_records(content, "batch.bin")


def test_class_folders_are_read_alike_from_a_folder_and_from_an_archive(tmp_path: Path) -> None:
    files = {
        "train/red/b.png": png((250, 0, 0)),
        "train/blue/a.png": png((0, 0, 250)),
        "test/red/c.png": png((200, 0, 0)),
        "train/notes.txt": b"not an image",
    }
    root = tmp_path / "colours"
    archive_path = tmp_path / "colours.tar.xz"
    with tarfile.open(archive_path, "w:xz") as archive:
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
            archive.add(root / name, f"colours/{name}")
    for walked in (walk_folder(root), walk_archive(archive_path)):
        images, labels, names = decode_class_folders(walked, "train", "RGB", ())
        assert names == ("blue", "red")
        assert labels.tolist() == [0, 1]
        assert images.shape == (2, 3, 4, 3)
        assert images[0, 0, 0].tolist() == [0, 0, 250]


def test_known_labels_keep_their_order() -> None:
    files = [(PurePosixPath(f"train/{name}/1.png"), png((9, 9, 9))) for name in ("ant", "bee")]
    _, labels, names = decode_class_folders(iter(files), "train", "L", ("bee", "ant"))
    assert names == ("bee", "ant")
    assert labels.tolist() == [1, 0]


def test_images_of_unequal_size_are_refused() -> None:
    files = [(PurePosixPath("train/a/1.png"), png((1, 1, 1))), (PurePosixPath("train/a/2.png"), png((1, 1, 1), (5, 5)))]
    with pytest.raises(DataError, match="all must be of one size"):
        decode_class_folders(iter(files), "train", "RGB", ())


def test_a_file_that_is_no_image_is_named() -> None:
    files = [(PurePosixPath("train/a/1.png"), b"nonsense")]
    with pytest.raises(DataError, match=r"train/a/1.png is not a readable image"):
        decode_class_folders(iter(files), "train", "RGB", ())


def test_a_split_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="no images at test/<class>/<file>"):
        decode_class_folders(iter([]), "test", "RGB", ())


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.tar.xz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"bad.tar.xz cannot be read"):
        list(walk_archive(tmp_path / "bad.tar.xz"))
