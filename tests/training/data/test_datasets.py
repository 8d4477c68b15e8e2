"""Where data sets are found, and what the loaded arrays look like."""

from __future__ import annotations

import dataclasses
import gzip
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import idx_files
from training.data.datasets import SOURCES, load_dataset
from training.data.download import Resource
from training.data.formats import DataError


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_idx_files_load_as_channels_last_bytes(idx_folder: Path) -> None:
    dataset = load_dataset("mnist", folder=idx_folder)
    assert dataset.name == "mnist"
    assert dataset.train_images.shape == (120, 28, 28, 1)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.test_labels.dtype == np.int64
    assert dataset.test_labels[:11].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_a_folder_of_several_data_sets_is_searched_by_name(idx_folder: Path) -> None:
    idx_folder.rename(idx_folder.parent / "fashion-mnist")
    dataset = load_dataset("fashion-mnist", folder=idx_folder.parent)
    assert dataset.labels[9] == "Ankle boot"
    assert dataset.labels[0] == "T-shirt/top"


def test_a_system_package_is_found_by_itself(idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dataclasses.replace(SOURCES["fashion-mnist"], system_folders=(idx_folder,))
    monkeypatch.setitem(SOURCES, "fashion-mnist", source)
    assert len(load_dataset("fashion-mnist", cache=idx_folder / "unused").train_labels) == 120


def test_the_jpeg_archive_is_named_for_what_it_is(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar10-jpeg.tar.xz", "w:xz") as archive:
        for split, shade in (("train", 0), ("test", 5)):
            for number, label in enumerate(sorted(SOURCES["cifar10"].labels)):
                add(archive, f"cifar10-jpeg/{split}/{label}/0000.jpg", jpeg(20 * number + shade))
    dataset = load_dataset("cifar10", folder=tmp_path)
    assert dataset.name == "cifar10-jpeg"
    assert "JPEG re-encoding of CIFAR-10" in dataset.description
    assert dataset.labels == SOURCES["cifar10"].labels
    assert dataset.train_images.shape == (10, 32, 32, 3)
    assert dataset.train_images[dataset.train_labels == 9].mean() == pytest.approx(180, abs=2)


def test_cifars_binary_archive_loads_in_batch_order(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for number in (3, 1, 2, 5, 4):
            add(archive, f"cifar-10-batches-bin/data_batch_{number}.bin", bytes([number]) + bytes(3072))
        add(archive, "cifar-10-batches-bin/test_batch.bin", bytes([9]) + b"\x07" * 3072)
    dataset = load_dataset("cifar10", folder=tmp_path)
    assert dataset.name == "cifar10"
    assert dataset.train_labels.tolist() == [1, 2, 3, 4, 5]
    assert dataset.test_images[0, 0, 0].tolist() == [7, 7, 7]


def test_a_binary_archive_without_a_batch_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        add(archive, "cifar-10-batches-bin/test_batch.bin", bytes(3073))
    with pytest.raises(DataError, match=re.escape("lacks ['data_batch_1.bin', 'data_batch_2.bin'")):
        load_dataset("cifar10", folder=tmp_path)


def test_image_folders_bring_their_own_name_and_labels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("round", "square"):
            folder = tmp_path / "shapes" / split / label
            folder.mkdir(parents=True)
            (folder / "1.jpg").write_bytes(jpeg(80))
    dataset = load_dataset("mnist", folder=tmp_path / "shapes")
    assert (dataset.name, dataset.labels) == ("shapes", ("round", "square"))
    assert dataset.train_images.shape == (2, 32, 32, 1)


def test_classes_that_differ_between_splits_are_refused(tmp_path: Path) -> None:
    for split, label in (("train", "a"), ("test", "b")):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_bytes(jpeg(80))
    with pytest.raises(DataError, match="has other classes or sizes in test"):
        load_dataset("cifar10", folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("imagenet", ".", "data set 'imagenet' is unknown; known are"),
        ("mnist", "nowhere", "nowhere is not a folder"),
        ("mnist", ".", "holds no mnist that is understood; valid are"),
    ],
)
def test_data_that_is_not_there_is_explained(tmp_path: Path, name: str, folder: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(name, folder=tmp_path / folder)


def test_labels_and_images_must_match(idx_folder: Path) -> None:
    (idx_folder / "train-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x01\x00")
    with pytest.raises(DataError, match="images of shape"):
        load_dataset("mnist", folder=idx_folder)


def test_the_hash_covers_every_array(idx_folder: Path) -> None:
    dataset = load_dataset("mnist", folder=idx_folder)
    changed = dataset.test_labels.copy()
    changed[-1] += 1
    assert dataset.sha256() == load_dataset("mnist", folder=idx_folder).sha256()
    assert dataclasses.replace(dataset, test_labels=changed).sha256() != dataset.sha256()


def test_official_files_are_downloaded_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake_fetch(resource: Resource, folder: Path) -> Path:
        asked.append(resource.url)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / resource.file_name).write_bytes(gzip.compress(idx_files()[resource.file_name.removesuffix(".gz")]))
        return folder / resource.file_name

    monkeypatch.setattr("training.data.datasets.fetch", fake_fetch)
    dataset = load_dataset("mnist", cache=tmp_path)
    assert len(dataset.train_labels) == 120
    assert asked == [resource.url for resource in SOURCES["mnist"].resources]
    assert (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").is_file()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_official_file_has_an_address_and_a_checksum(name: str) -> None:
    for resource in SOURCES[name].resources:
        assert re.fullmatch(r"https?://[^ ]+\.gz", resource.url)
        assert re.fullmatch(r"[0-9a-f]{64}", resource.sha256)
    assert len(SOURCES[name].labels) == 10
