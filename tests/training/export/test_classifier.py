"""The exported graph equals the network, at any batch size, and a bad export leaves the old version in place."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.golden import read_golden
from models.manifest import Evaluation, read_manifest, sha256_hex
from tests.training.lineage import UNTRAINED
from training.data.datasets import Parts, as_images
from training.export.classifier import check_parity, export_classifier, write_graph
from training.export.version import ExportError, ModelCard, run_torch, version_folder
from training.networks.resnet import ARCHITECTURES, OUTPUT_NAMES, ResNet, ServedClassifier

CARD = ModelCard(
    name="sample",
    version="3",
    task="image-classification",
    description="A sample.",
    labels=("a", "b", "c"),
    light_on_dark=True,
    margin=0.0,
    evaluation=(Evaluation(metric="accuracy", value=0.5, dataset="sample", split="test", count=2),),
    training=UNTRAINED,
)


def served(seed: int = 0) -> ServedClassifier:
    torch.manual_seed(seed)
    network = ResNet(ARCHITECTURES["tiny"], 3, 3, dropout=0.5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.weight, -1, 1)
    return ServedClassifier(network, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], temperature=0.7).eval()


def pixels(batch: int = 9) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (batch, 16, 12, 3), dtype=np.uint8)


def test_the_served_form_normalises_and_explains_its_class() -> None:
    module, images = served(), pixels()
    outputs = run_torch(module, {"image": images}, OUTPUT_NAMES)
    np.testing.assert_allclose(outputs["probabilities"].sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, atol=1e-6)
    scaled = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    logits = module.network(torch.from_numpy(scaled).float().permute(0, 3, 1, 2))
    # The mean of a class activation map, with the bias, is the class's logit.
    from_map = outputs["activation_map"].mean((2, 3)) + module.network.head.bias.detach().numpy()
    np.testing.assert_allclose(from_map, logits.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"], (logits / 0.7).softmax(1).detach().numpy(), atol=1e-5)


def parts() -> Parts:
    """Noise in three classes, of which nothing is learnt."""
    dataset = np.random.default_rng(2).integers(0, 256, (2, 60, 16, 12, 3), dtype=np.uint8)
    labels = np.arange(60) % 3
    train = as_images(dataset[0], labels)
    rows = torch.arange(60)
    return Parts(train=train.take(rows[:40]), held_out=train.take(rows[40:]), test=as_images(dataset[1], labels))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The graphs of two networks: exporting one takes longer than all that is tested of it."""
    folder = tmp_path_factory.mktemp("graphs")
    for seed in (0, 1):
        write_graph(served(seed), pixels()[:2], folder / f"{seed}.onnx")
    return [folder / "0.onnx", folder / "1.onnx"]


@pytest.fixture
def written(graphs: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Take the graphs, one after another, for those that exports write."""
    queue = list(graphs)
    monkeypatch.setattr(
        "training.export.classifier.write_graph", lambda _, __, path: shutil.copyfile(queue.pop(0), path)
    )
    return queue


def test_a_version_holds_graph_golden_and_manifest(tmp_path: Path, written: list[Path]) -> None:
    folder = export_classifier(served().train(), parts(), CARD, tmp_path)  # training mode is left first
    manifest = read_manifest(folder)
    assert folder == tmp_path / "sample" / "3"
    assert sorted(path.name for path in folder.iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.int8.onnx",
        "model.onnx",
    ]
    graph = manifest.graphs["model"]
    assert graph.sha256 == sha256_hex((folder / "model.onnx").read_bytes())
    assert [(spec.name, spec.datatype, spec.shape) for spec in graph.inputs] == [("image", "UINT8", (-1, 16, 12, 3))]
    assert [spec.shape for spec in graph.outputs] == [(-1, 3), (-1, 16), (-1, 3, 4, 3), (-1,)]
    assert manifest.parity is not None
    assert manifest.parity.max_abs_error < 1e-4
    assert manifest.parity.batch_sizes == (1, 2, 7, 64)
    assert manifest.light_on_dark
    assert [variant.precision for variant in manifest.variants] == ["int8"]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 16, 12, 3]
    golden = read_golden(folder)["model"]
    names = (*OUTPUT_NAMES, "novelty")
    assert set(golden.outputs) == set(names)
    for name, output in zip(names, session.run(names, golden.inputs), strict=True):
        np.testing.assert_allclose(output, golden.outputs[name], atol=1e-4)


def test_exporting_again_replaces_the_version_where_its_card_says_so(tmp_path: Path, written: list[Path]) -> None:
    first = export_classifier(served(0), parts(), CARD, tmp_path)
    before = (first / "model.onnx").read_bytes()
    with pytest.raises(ExportError, match="exists; export to another --model-version"), version_folder(tmp_path, CARD):
        pass
    assert (first / "model.onnx").read_bytes() == before
    export_classifier(served(1), parts(), dataclasses.replace(CARD, replaces=True), tmp_path)
    assert (first / "model.onnx").read_bytes() != before
    assert [path.name for path in first.parent.iterdir()] == ["3"]


def test_a_graph_that_differs_is_refused_and_the_old_version_stays(tmp_path: Path, written: list[Path]) -> None:
    first = export_classifier(served(0), parts(), CARD, tmp_path)
    before = (first / "model.onnx").read_bytes()
    with pytest.raises(ExportError, match=r"differs from torch by .*; valid is 0.0001 at most"):
        export_classifier(served(2), parts(), CARD, tmp_path)
    assert (first / "model.onnx").read_bytes() == before
    assert [path.name for path in first.parent.iterdir()] == ["3"]


def test_a_graph_with_a_fixed_batch_is_refused(tmp_path: Path, graphs: list[Path]) -> None:
    path = tmp_path / "fixed.onnx"
    model = onnx.load(graphs[0])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, path)
    assert check_parity(served(), path, pixels(), (2,)).max_abs_error < 1e-4
    with pytest.raises(ExportError, match="batch 1: the graph does not run"):
        check_parity(served(), path, pixels(), (2, 1))


def test_the_network_takes_any_image_size() -> None:
    network = ResNet(ARCHITECTURES["garment"], 1, 10)
    logits: Tensor = network(torch.zeros(2, 1, 40, 36))
    assert logits.shape == (2, 10)
