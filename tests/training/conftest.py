"""Small data sets on disk and a quiet, single-threaded torch for the training tests."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coverage
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Encode an array as an idx file of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_files(num_train: int = 120, num_test: int = 70) -> dict[str, bytes]:
    """Make the four idx files of a ten-class data set whose classes differ in brightness, so that it can be learnt."""
    rng = np.random.default_rng(5)
    files = {}
    for images_name, labels_name, count in ((*IDX_NAMES[:2], num_train), (*IDX_NAMES[2:], num_test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        noise = rng.integers(0, 20, (count, 28, 28))
        files[images_name] = idx_bytes((labels[:, None, None] * 20 + noise).astype(np.uint8))
        files[labels_name] = idx_bytes(labels)
    return files


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Make a folder with the four idx files, the images gzipped and the labels not."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, content in idx_files().items():
        if "images" in name:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def kept_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scratch folder of a dry run, which is kept to be looked at."""

    @contextmanager
    def keep(**_: object) -> Iterator[str]:
        yield str(tmp_path)

    monkeypatch.setattr("training.command_line.tempfile.TemporaryDirectory", keep)
    return tmp_path


@pytest.fixture(scope="package", autouse=True)
def _exports_without_coverage() -> Iterator[None]:
    """Pause coverage while torch traces a graph: it takes twice as long otherwise, and the network has run before."""
    measuring, export = coverage.Coverage.current(), torch.onnx.export
    if measuring is None:
        yield
        return

    def untraced(*arguments: Any, **options: Any) -> Any:
        measuring.stop()
        try:
            return export(*arguments, **options)
        finally:
            measuring.start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", untraced)
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
