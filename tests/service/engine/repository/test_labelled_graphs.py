from __future__ import annotations

import logging
from pathlib import Path

import pytest

from models.config import read_config
from models.preprocessing import Preprocessing
from service.engine.repository.loading import LoadedVersion, load_version
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.scorers import LABELS, Scorer


def loaded(repository: Path, name: str, config: str = "") -> LoadedVersion:
    (repository / name / "config.toml").write_text(config)
    settings = Settings(instances=1, threads=1)
    return load_version(repository / name / "1", settings, Device("cpu"), read_config(repository / name))


def preprocess(version: LoadedVersion) -> Preprocessing:
    assert version.manifest.preprocess is not None
    return version.manifest.preprocess


def flowers(repository: Path, scorer: Scorer | None = None, place: str = "1/labels.txt") -> None:
    scorer = scorer or Scorer(shape=("batch", 3, 96, 96))
    write_bare(repository, "flowers", scorer.model().SerializeToString())
    (repository / "flowers" / place).write_text("\n".join(LABELS))


@pytest.mark.parametrize("place", ["1/labels.txt", "1/labels.json", "labels.txt"])
def test_labels_beside_a_graph_make_a_classifier_of_it(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    flowers(tmp_path, place=place)
    if place.endswith("json"):
        (tmp_path / "flowers" / place).write_text(str(list(LABELS)).replace("'", '"'))

    with caplog.at_level(logging.WARNING):
        version = loaded(tmp_path, "flowers")

    assert (version.manifest.task, version.manifest.labels) == ("image-classification", LABELS)
    assert (preprocess(version).preset, preprocess(version).is_guessed) == ("imagenet", True)
    assert version.golden_error is not None
    assert version.golden_error < 1e-5
    assert version.graphs["model"].batching.max_batch_size > 1
    assert any("guessed; config.toml" in record.message for record in caplog.records)


def test_the_configuration_says_what_would_be_guessed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flowers(tmp_path)

    with caplog.at_level(logging.WARNING):
        preset = loaded(tmp_path, "flowers", 'preprocess = "clip"')
        numbers = loaded(
            tmp_path, "flowers", 'preprocess = {mean = [0.5], std = [0.25], crop = "none", channels = "bgr"}'
        )

    assert (preprocess(preset).preset, preprocess(preset).is_guessed) == ("clip", False)
    assert (preprocess(numbers).mean, preprocess(numbers).resize, preprocess(numbers).channels) == ((0.5,), 0, "bgr")
    assert [record for record in caplog.records if "guessed" in record.message] == []


def test_the_configuration_may_hold_the_labels_or_name_their_file(tmp_path: Path) -> None:
    flowers(tmp_path, place="1/names.txt")

    assert loaded(tmp_path, "flowers", 'labels = "names.txt"').manifest.labels == LABELS
    assert loaded(tmp_path, "flowers", 'labels = ["a", "b", "c", "d", "e"]').manifest.labels == tuple("abcde")
    assert loaded(tmp_path, "flowers").manifest.task == "tensors"


def test_a_graph_with_labels_may_stay_tensors(tmp_path: Path) -> None:
    flowers(tmp_path)

    assert loaded(tmp_path, "flowers", 'task = "tensors"').manifest.task == "tensors"


def test_labels_beside_a_graph_that_takes_no_images_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_bare(tmp_path, "scale", scale_bytes(2.0))
    (tmp_path / "scale" / "1" / "labels.txt").write_text("a\nb\nc\n")

    with caplog.at_level(logging.WARNING):
        version = loaded(tmp_path, "scale")

    assert version.manifest.task == "tensors"
    assert "the labels are not used" in caplog.text
    with pytest.raises(VersionRejected, match="images have 4 axes"):
        loaded(tmp_path, "scale", 'task = "image-classification"')


def test_a_classifier_whose_rows_mix_takes_one_image_at_a_time(tmp_path: Path) -> None:
    flowers(tmp_path, Scorer(mixes_rows=True))

    version = loaded(tmp_path, "flowers", 'preprocess = "0-1"')

    assert version.graphs["model"].batching.max_batch_size == 1
    assert "depends on the others" in version.graphs["model"].batching_reason


@pytest.mark.parametrize("config", ['preprocess = "vgg"', "preprocess = {std = [0]}", 'labels = "../labels.txt"'])
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, config: str) -> None:
    flowers(tmp_path)

    with pytest.raises(ValueError, match=r"config\.toml"):
        loaded(tmp_path, "flowers", config)
