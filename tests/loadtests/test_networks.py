"""Networks with random weights."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
import pytest

from loadtests import networks
from loadtests.sample import golden_images
from models.golden import read_golden
from models.manifest import read_manifest

SMALL = networks.Residual("small", depths=(1, 1), width=8, image_size=28, num_channels=1, num_classes=10, stem_stride=1)
DEEP = networks.Residual("deep", depths=(1, 1), width=8, bottleneck=True, image_size=64, num_classes=12)


@pytest.mark.parametrize("net", [SMALL, DEEP, networks.Residual("half", (1, 1), 8, image_size=64, half=True)])
def test_a_network_runs_and_its_probabilities_sum_to_one(net: networks.Residual) -> None:
    content = networks.build_residual(net)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    shape = (3, net.image_size, net.image_size, net.num_channels)
    image = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
    probabilities, embedding, activation_map = session.run(None, {"image": image})
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=2e-3)
    assert probabilities.shape == (3, net.num_classes)
    assert np.ptp(probabilities) > 1e-3
    assert np.isfinite(embedding).all()
    assert list(activation_map.shape) == [3, *session.get_outputs()[2].shape[1:]]


def test_resnet18_has_the_weights_of_the_paper() -> None:
    weights = onnx.load_from_string(networks.build_residual(networks.RESNET18)).graph.initializer
    num_weights = sum(int(np.prod(tensor.dims)) for tensor in weights if len(tensor.dims) > 1)
    assert num_weights == 11_678_912


def test_a_version_folder_holds_to_the_contract(tmp_path: Path) -> None:
    folder = networks.write_residual(tmp_path, SMALL, (1, 4))
    manifest, golden = read_manifest(folder), read_golden(folder)["model"]
    assert manifest.graphs["model"].inputs[0].shape == (-1, 28, 28, 1)
    assert set(golden.outputs) == {spec.name for spec in manifest.graphs["model"].outputs}


def test_the_light_network_says_the_same_of_pixels_and_of_numbers(tmp_path: Path) -> None:
    networks.write_light(tmp_path)
    files = {name: tmp_path / name / "1" / "model.onnx" for name in (networks.LIGHT, networks.LIGHT_FP32)}
    pixels = golden_images(files[networks.LIGHT].parent)
    (of_pixels,) = onnxruntime.InferenceSession(files[networks.LIGHT]).run(None, {"image": pixels})
    numbers = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    (of_numbers,) = onnxruntime.InferenceSession(files[networks.LIGHT_FP32]).run(None, {"x": numbers})
    np.testing.assert_allclose(of_pixels, of_numbers, atol=1e-6)
    weights = onnx.load(files[networks.LIGHT_FP32]).graph.initializer
    assert sum(int(np.prod(tensor.dims)) for tensor in weights) == 421_642
