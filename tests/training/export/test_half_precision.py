"""A classifier that was exported gets a variant in float16, scored on the test images that fp32 was scored on."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.manifest import read_manifest
from models.variants import loss_of
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.training.export.test_quantization import network, parts_of, write
from training.export.half_precision import extend_version, main


def test_a_version_gets_float16_with_a_score_and_is_not_served_in_it_by_a_cpu(tmp_path: Path) -> None:
    model = network()
    folder = write(tmp_path, model)

    manifest = extend_version(folder, parts_of(model))

    (variant,) = manifest.variants
    assert [(each.dataset, each.split, each.count) for each in variant.evaluation] == [("noise", "test", 400)]
    loss = loss_of(manifest, variant)
    assert loss is not None
    assert loss < 1
    assert [each.split for each in manifest.evaluation] == ["test", "held-out"]
    assert read_manifest(folder) == manifest
    settings = Settings(instances=1, threads=1)
    assert load_version(folder, settings, Device("cpu")).precision.precision == "fp32"
    forced = load_version(folder, settings.model_copy(update={"precision": "fp16"}), Device("cpu"))
    assert forced.precision.precision == "fp16"


def test_a_version_that_was_not_trained_here_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, network())

    assert main(["--model", "sample", "--repository", str(folder.parents[1])]) == 2
    assert "was not trained by training.train_classifier" in capsys.readouterr().err
