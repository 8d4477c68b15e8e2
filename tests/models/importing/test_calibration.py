"""The samples of a calibration: pictures in folders of their classes or not, or an archive, for any graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.importing.calibration import LEAST_ROWS, read_samples
from models.importing.sources import ImportRefused
from models.manifest import Batching, Graph, Manifest, TensorSpec

LABELS = ("cat", "Guinea pig", "7")
IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, 8, 8, 3))
VECTOR = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))


def graph(*inputs: TensorSpec, is_batched: bool = True) -> Graph:
    output = TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 3))
    return Graph(file="model.onnx", sha256="0" * 64, inputs=inputs, outputs=(output,), is_batched=is_batched)


def manifest(of: Graph, task: str = "image-classification") -> Manifest:
    return Manifest(
        name="pets",
        version="1",
        task=task,
        description="",
        graphs={"model": of},
        batching=Batching(max_batch_size=8, buckets=(1, 8)),
        labels=LABELS if task == "image-classification" else None,
    )


def pictures(folder: Path, shade: int, count: int = 10) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (shade, number, 0)).save(folder / f"{number:02}.png")


def read(path: Path, of: Graph, task: str = "image-classification") -> Any:
    return read_samples(path, manifest(of, task), of)


def test_folders_of_classes_label_their_pictures_by_label_or_by_index(tmp_path: Path) -> None:
    for name, shade in (("guinea_pig", 10), ("0", 20), ("7", 30), ("empty", 0)):
        pictures(tmp_path / name, shade, count=10 if shade else 0)
    (tmp_path / "0" / ".DS_Store").write_bytes(b"")
    (tmp_path / "0" / "notes.txt").write_text("no picture")

    samples = read(tmp_path, graph(IMAGE))

    assert samples.count == 30
    shades = samples.read(np.arange(30))["image"][:, 0, 0, 0]
    assert {(int(shade), int(label)) for shade, label in zip(shades, samples.labels, strict=True)} == {
        (10, 1),
        (20, 0),
        (30, 2),
    }


def test_pictures_without_folders_have_no_labels(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 1, count=20)

    samples = read(tmp_path / "pictures", graph(IMAGE))

    assert (samples.count, samples.labels, samples.dataset) == (20, None, "pictures")


def test_ranges_and_scores_come_from_different_rows_and_the_same_ones_each_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.arange(2000 * 4, dtype=np.float64).reshape(2000, 4))

    samples = read(tmp_path / "rows.npz", graph(VECTOR), "tensors")
    calibrated, compared = samples.split()

    assert (len(calibrated), len(compared)) == (512, 1488)
    assert len({*calibrated.tolist(), *compared.tolist()}) == 2000
    assert calibrated.tolist() == samples.split()[0].tolist()
    assert samples.read(calibrated)["x"].dtype == np.float32


def test_an_archive_may_label_the_images_of_a_classifier(tmp_path: Path) -> None:
    images = np.zeros((20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "rows.npz", image=images, labels=np.arange(20) % 3)

    assert read(tmp_path / "rows.npz", graph(IMAGE)).labels.tolist() == [number % 3 for number in range(20)]


@pytest.mark.parametrize("shape", [(20, 3, 4), (20, 1, 3, 4)])
def test_a_graph_of_one_row_takes_rows_with_and_without_an_axis_for_it(tmp_path: Path, shape: tuple[int, ...]) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 3, 4))
    np.savez(tmp_path / "rows.npz", x=np.ones(shape))

    samples = read(tmp_path / "rows.npz", graph(spec, is_batched=False), "tensors")

    assert samples.read(np.arange(2))["x"].shape == (2, 1, 3, 4)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"y": np.ones((20, 4))}, r"holds \['y'\]; the inputs are \['x'\]"),
        ({"x": np.ones((20, 5))}, r"\[5\], not \[4\]"),
        ({"x": np.ones((LEAST_ROWS - 1, 4))}, f"holds {LEAST_ROWS - 1} rows"),
        ({"x": np.full((20, 4), np.nan)}, "not finite"),
        ({"x": np.array(3.0)}, r"\[\], not \[4\]"),
    ],
)
def test_an_archive_that_does_not_fit_is_refused_with_what_does(
    tmp_path: Path, arrays: dict[str, Any], reason: str
) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)

    with pytest.raises(ImportRefused, match=reason):
        read(tmp_path / "rows.npz", graph(VECTOR), "tensors")


@pytest.mark.parametrize("labels", [np.arange(20), np.ones(20), np.zeros((20, 1), int), np.zeros(19, int)])
def test_labels_that_are_no_classes_of_the_rows_are_refused(tmp_path: Path, labels: Any) -> None:
    np.savez(tmp_path / "rows.npz", image=np.zeros((20, 8, 8, 3), np.uint8), labels=labels)

    with pytest.raises(ImportRefused, match=r"from 0 to 2|rows; all need as many"):
        read(tmp_path / "rows.npz", graph(IMAGE))


def test_what_is_no_sample_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "dogs" / "dog", 1, count=20)
    (tmp_path / "text.npz").write_text("no archive")
    pictures(tmp_path / "damaged", 1, count=20)
    (tmp_path / "damaged" / "00.png").write_bytes(b"no picture")

    with pytest.raises(ImportRefused, match="'dog' of --calibration is called after none of the labels: 'cat'"):
        read(tmp_path / "dogs", graph(IMAGE))
    with pytest.raises(ImportRefused, match="neither a folder nor an archive"):
        read(tmp_path / "text.npz", graph(IMAGE))
    with pytest.raises(ImportRefused, match=r"takes an \.npz file"):
        read(tmp_path / "dogs", graph(VECTOR), "tensors")
    with pytest.raises(ImportRefused, match=r"00\.png' of --calibration cannot be read"):
        read(tmp_path / "damaged", graph(IMAGE)).read(np.arange(20))
