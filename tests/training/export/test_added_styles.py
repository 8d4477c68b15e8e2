"""A style that is added to the version that ships: its network read back, and graphs in which all else stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from models.golden import deviation
from training.data.photographs import Painting
from training.export.exported import read_classifier_weights
from training.export.style import MODEL, STATISTICS, TILE, extend_style_graph, read_stylizer, write_thumbnail
from training.export.subpixels import DoublingConvolution, PairedConvolution, undoubled, unpaired
from training.export.version import DEFAULT_REPOSITORY, ExportError, find_version
from training.networks.stylizer import Stylizer, with_style

PAINTER = DEFAULT_REPOSITORY / "painter" / "1"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def network() -> Stylizer:
    return read_stylizer(PAINTER)


def run(path: Path, **inputs: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_the_network_that_is_read_back_paints_as_the_graph_does(network: Stylizer) -> None:
    weights = np.eye(6, dtype=np.float32)[[1, 4]]
    with torch.no_grad():
        pictures = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
        painted = network(pictures, torch.from_numpy(weights)).permute(0, 2, 3, 1).numpy()
    (shipped,) = run(PAINTER / "model.onnx", image=IMAGES, style_weights=weights)
    assert deviation(shipped, painted.round().astype(np.uint8)) <= 1


def test_old_styles_stay_to_the_bit_in_every_graph(network: Stylizer, tmp_path: Path) -> None:
    larger = with_style(network)
    statistics = {"mean": np.zeros((2, 627), np.float32), "deviation": np.ones((2, 627), np.float32)}
    for graph in (MODEL, STATISTICS, TILE):
        given: dict[str, Any] = {"image": IMAGES} | (statistics if graph == TILE else {})
        extend_style_graph(PAINTER / f"{graph}.onnx", larger, tmp_path / f"{graph}.onnx")
        for style in range(6):
            before, after = (np.eye(size, dtype=np.float32)[[style, style]] for size in (6, 7))
            expected = run(PAINTER / f"{graph}.onnx", style_weights=before, **given)
            for one, other in zip(expected, run(tmp_path / f"{graph}.onnx", style_weights=after, **given), strict=True):
                np.testing.assert_array_equal(one, other)
        new = run(tmp_path / f"{graph}.onnx", style_weights=np.eye(7, dtype=np.float32)[[6, 6]], **given)
        assert not np.array_equal(new[0], expected[0])


def test_kernels_come_back_from_their_cheaper_forms() -> None:
    convolution = torch.nn.Conv2d(3, 5, 3, bias=False)
    doubled = DoublingConvolution(convolution, "replicate").convolution.weight
    assert torch.allclose(undoubled(doubled), convolution.weight, atol=1e-6)
    assert torch.equal(unpaired(PairedConvolution(convolution, "reflect").convolution.weight), convolution.weight)


def test_old_thumbnails_are_copied_and_new_ones_drawn(tmp_path: Path) -> None:
    painting = np.full((40, 40, 3), 90, np.uint8)
    for name in ("udnie", "mine"):
        write_thumbnail(tmp_path, Painting(name, painting), PAINTER)
    assert (tmp_path / "udnie.jpg").read_bytes() == (PAINTER / "udnie.jpg").read_bytes()
    assert (tmp_path / "mine.jpg").stat().st_size > 100


def test_a_version_is_found_by_its_folder_and_by_its_name() -> None:
    assert find_version(PAINTER, DEFAULT_REPOSITORY) == PAINTER
    assert find_version(Path("painter"), DEFAULT_REPOSITORY) == PAINTER
    assert find_version(Path("runs/painter"), DEFAULT_REPOSITORY) is None


def test_a_version_of_another_script_is_refused() -> None:
    with pytest.raises(ExportError, match="'mnist' was not trained by"):
        read_stylizer(DEFAULT_REPOSITORY / "mnist" / "1")
    with pytest.raises(ExportError, match="'painter' was not trained by"):
        read_classifier_weights(PAINTER)
