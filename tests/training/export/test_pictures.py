"""A stylizer and a generator get a variant in int8 that is near to fp32, says how near, and serves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

from models.manifest import read_manifest
from models.variants import obstacle
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.training.lineage import UNTRAINED
from tests.training.small_generators import CARD as GENERATOR
from tests.training.small_generators import loud_generator, small_rows
from tests.training.small_stylizers import photographs, small_stylizer
from training.data.photographs import made_up_paintings, made_up_photographs
from training.export.generators import DECODER, export_generator, gan_graphs
from training.export.pictures import extend_version, main, style_samples
from training.export.style import export_stylizer
from training.export.version import ModelCard

pytestmark = pytest.mark.slow

CARD = ModelCard(
    name="sample",
    version="2",
    task="style-transfer",
    description="A sample.",
    evaluation=(),
    training=msgspec.structs.replace(UNTRAINED, script="training.train_style", config={"held_out": 2, "seed": 0}),
)
STYLES = ("stripes", "dots", "lines")


@pytest.fixture(scope="module")
def stylizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("stylizer")
    folder = export_stylizer(small_stylizer(), made_up_paintings(STYLES), photographs(), CARD, repository)
    plain = read_manifest(folder)
    assert extend_version(folder, made_up_photographs(2)).graphs == plain.graphs
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository, rows = tmp_path_factory.mktemp("generator"), small_rows(DECODER)
    card = dataclasses.replace(GENERATOR, training=msgspec.structs.replace(UNTRAINED, script="training.train_gan"))
    folder = export_generator(gan_graphs(loud_generator()), rows, card, repository)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.export.pictures._NUM_DRAWN_BATCHES", 2)
        patch.setattr("training.export.pictures._DRAWN_ROWS", 32)
        extend_version(folder, None)
    return folder


@pytest.fixture(params=["stylizer", "generator"])
def version(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_the_variant_says_how_near_it_comes(version: Path) -> None:
    manifest = read_manifest(version)
    (variant,) = manifest.variants

    assert (variant.precision, variant.evaluation) == ("int8", ())
    assert variant.agreement is not None
    assert variant.calibration is not None
    assert 30 < variant.agreement.value < 100
    assert variant.agreement.split != variant.calibration.split
    assert (obstacle(manifest, variant) == "") == (variant.agreement.value >= 40)


def test_it_serves_where_it_is_asked_for(version: Path) -> None:
    loaded = load_version(version, Settings(instances=1, threads=1, precision="int8"), Device("cpu"))

    assert loaded.precision.precision == "int8"


@pytest.mark.parametrize("size", [(32, 32), (36, 100), (128, 64)])
def test_any_size_and_any_blend_is_painted_nearly_as_in_fp32(stylizer: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(60, 200, (2, *size, 3), dtype=np.uint8)
    inputs = {"image": image, "style_weights": np.array([[0.5, 0.25, 0.25], [0, 1, 0]], np.float32)}

    expected, actual = (
        onnxruntime.InferenceSession(stylizer / f"model{suffix}.onnx").run(None, inputs)[0] for suffix in ("", ".int8")
    )
    assert expected.shape == actual.shape
    assert np.abs(expected.astype(int) - actual).mean() < 6


def test_each_style_is_calibrated_and_scored_on_pictures_of_its_own(stylizer: Path) -> None:
    samples = style_samples(read_manifest(stylizer), made_up_photographs(2), "made-up")

    assert list(samples.calibration) == list(samples.test) == list(STYLES)
    assert samples.num_test == 2
    for style, part in enumerate(samples.calibration.values()):
        assert all(rows["style_weights"][0].argmax() == style for rows in part)


def test_the_command_names_what_is_missing(stylizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "sample", "--model-version", "2", "--repository", str(stylizer.parent.parent)]

    assert main(arguments) == 2
    assert "--data is missing" in capsys.readouterr().err
