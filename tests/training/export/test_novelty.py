"""Novelty joins a graph without a change to its other outputs, with a fresh export and with a version that is there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from models.golden import read_golden
from models.images import prepare
from models.manifest import Evaluation, read_manifest, sha256_hex, write_manifest
from service.settings import SHIPPED_REPOSITORY
from tests.fake_models.classification import LinearClassifier
from tests.training.lineage import UNTRAINED
from training.data.datasets import Parts, as_images
from training.export.exported import rows_of
from training.export.novelty import extend_version, main
from training.export.version import ExportError

NETWORK = LinearClassifier()
DATA = Path(__file__).parents[2] / "data"


def parts(seed: int = 0) -> Parts:
    """Images whose labels are what the network says."""
    images = NETWORK.images(700, seed)
    every = as_images(images, NETWORK.outputs(images)["probabilities"].argmax(1))
    rows = torch.arange(700)
    return Parts(train=every.take(rows[:300]), held_out=every.take(rows[300:500]), test=every.take(rows[500:]))


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version without novelty that is right on all held-out images."""
    score = Evaluation(metric="accuracy", value=1.0, dataset="made up", split="held-out", count=200)
    return NETWORK.write(tmp_path, "sample", evaluation=(score,))


def outputs(folder: Path, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def test_a_version_gets_novelty_and_keeps_its_other_outputs_to_the_bit(version: Path) -> None:
    images = NETWORK.images(9, 5)
    before = outputs(version, images)

    manifest = extend_version(version, parts())

    after = outputs(version, images)
    assert after.keys() - before.keys() == {"novelty"}
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert manifest == read_manifest(version)
    assert manifest.novelty is not None
    assert manifest.novelty.num_held_out == 200
    assert manifest.graphs["model"].sha256 == sha256_hex((version / "model.onnx").read_bytes())
    golden = read_golden(version)["model"]
    assert outputs(version, golden.inputs["image"])["novelty"] == pytest.approx(golden.outputs["novelty"], rel=1e-3)


def test_five_percent_of_the_held_out_images_exceed_one_in_the_graph_alone_or_together(version: Path) -> None:
    extend_version(version, parts())
    rows = rows_of(parts().held_out.levels)
    novelty = outputs(version, rows)["novelty"]
    assert (novelty > 1).mean() == pytest.approx(0.05, abs=0.006)
    alone = [outputs(version, rows[row : row + 1])["novelty"][0] for row in range(3)]
    np.testing.assert_allclose(alone, novelty[:3], rtol=1e-5)


def test_measuring_anew_replaces_what_was_there(version: Path) -> None:
    extend_version(version, parts())
    first = (version / "model.onnx").read_bytes()
    extend_version(version, parts())
    assert (version / "model.onnx").read_bytes() == first
    graph = onnx.load(version / "model.onnx").graph
    assert [output.name for output in graph.output].count("novelty") == 1


def test_images_that_the_network_was_trained_on_are_refused_and_the_version_stays(version: Path) -> None:
    before = (version / "manifest.json").read_bytes()
    wrong = parts()
    wrong = Parts(train=wrong.train, held_out=as_images(NETWORK.images(200), np.zeros(200, np.int64)), test=wrong.test)
    with pytest.raises(ExportError, match="must be those that it was not trained on"):
        extend_version(version, wrong)
    assert (version / "manifest.json").read_bytes() == before


def test_the_command_refuses_other_data_and_other_networks(
    version: Path, idx_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "sample", "--repository", str(version.parents[1]), "--data", str(idx_folder)]
    assert main(arguments) == 2
    assert "was not trained by training.train_classifier" in capsys.readouterr().err
    config = {"dataset": "mnist", "held_out": 20, "seed": 0}
    training = msgspec.structs.replace(UNTRAINED, script="training.train_classifier", config=config)
    write_manifest(version, msgspec.structs.replace(read_manifest(version), training=training))
    assert main(arguments) == 2
    assert "was trained on data of the SHA-256 000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "file", "is_novel"),
    [
        ("mnist", "smiley.png", True),
        ("mnist", "seven.png", False),
        ("mnist", "zero_on_paper_turned.jpg", False),
        ("fashion-mnist", "smiley.png", True),
        ("fashion-mnist", "ankle_boot_on_paper.jpg", False),
        ("cifar10", "smiley.png", True),
        ("cifar10", "ship.jpg", False),
    ],
)
def test_the_shipped_classifiers_know_what_they_know(model: str, file: str, is_novel: bool) -> None:
    folder = SHIPPED_REPOSITORY / model / "1"
    manifest = read_manifest(folder)
    assert manifest.novelty is not None
    assert manifest.novelty.test_share == pytest.approx(0.05, abs=0.01)
    height, width, channels = manifest.graphs["model"].inputs[0].row_shape
    row = prepare((DATA / file).read_bytes(), height, width, channels, manifest.light_on_dark, margin=manifest.margin)
    assert (outputs(folder, row[None])["novelty"][0] > 1) == is_novel
