"""Features come from an exported classifier's graph; a blur keeps what is flat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.manifest import read_manifest
from tests.fake_models.classification import LinearClassifier
from training.scores.generators import FeatureNetwork, blurred


def test_features_are_those_of_the_exported_graph(tmp_path: Path) -> None:
    classifier = LinearClassifier(shape=(6, 5, 3))
    images = classifier.images(300)
    folder = classifier.write(tmp_path, "sample")
    network = FeatureNetwork(folder)

    features = network.features(torch.from_numpy(images).permute(0, 3, 1, 2), "features")

    expected = classifier.outputs(images)
    np.testing.assert_allclose(features.embeddings.numpy(), expected["embedding"], atol=1e-5)
    assert features.embeddings.dtype == torch.float64
    np.testing.assert_array_equal(features.called.numpy(), expected["probabilities"].argmax(1))
    assert network.sha256 == read_manifest(folder).graphs["model"].sha256


def test_a_blur_keeps_flat_pictures() -> None:
    flat = torch.full((2, 3, 9, 9), 200, dtype=torch.uint8)
    assert torch.equal(blurred(flat, 1.0), flat)


def test_a_blur_spreads_a_dot_as_a_gaussian() -> None:
    dot = torch.zeros(1, 2, 15, 15, dtype=torch.uint8)
    dot[0, 1, 7, 7] = 255
    spread = blurred(dot, 1.0)
    assert not spread[0, 0].any()
    assert spread[0, 1, 7, 7] == round(255 / (2 * np.pi))
    assert spread[0, 1, 7, 8] == round(255 / (2 * np.pi) * np.exp(-0.5))
    assert spread[0, 1, 8, 8] == round(255 / (2 * np.pi) * np.exp(-1))
