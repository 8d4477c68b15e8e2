"""What preprocessor_config.json and config.json say is what an import takes from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.importing.optimum import is_image_classifier, read_id2label, read_preprocessing, sample_inputs
from models.importing.sources import ImportRefused
from models.manifest import TensorSpec
from models.preprocessing import PreprocessingOptions, resolve

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
VIT = HALF | {"do_rescale": True, "rescale_factor": 1 / 255, "size": {"height": 224, "width": 224}, "resample": 2}


def preprocessing(folder: Path, config: dict[str, Any]) -> PreprocessingOptions:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return read_preprocessing(folder)


@pytest.mark.parametrize(
    ("config", "size", "crop"),
    [
        (VIT, 224, "none"),
        (VIT | {"size": 224}, 224, "none"),
        (
            VIT | {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 192}},
            256,
            "224x192",
        ),
        (VIT | {"size": 256, "do_center_crop": True, "crop_size": 224}, 256, "224x224"),
        (VIT | {"do_resize": False, "do_center_crop": True, "crop_size": 224}, 224, "224x224"),
        (VIT | {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 256, "224x224"),
        (VIT | {"size": {"shortest_edge": 384}, "crop_pct": 1.0}, 384, "none"),
        (VIT | {"size": {"height": 192, "width": 256}}, 0, "none"),
        (VIT | {"do_resize": False}, 0, ""),
    ],
)
def test_resizing(config: dict[str, Any], size: int, crop: str, tmp_path: Path) -> None:
    options = preprocessing(tmp_path, config)

    assert (options.size, options.crop, options.layout) == (size, crop, "nchw")


@pytest.mark.parametrize(
    ("config", "white"),
    [
        (HALF, 1.0),
        (HALF | {"rescale_factor": 1 / 127.5}, 3.0),
        (HALF | {"rescale_factor": 1 / 127.5, "rescale_offset": True}, 1.0),
        (HALF | {"do_rescale": False}, 509.0),
        ({"do_normalize": False}, 1.0),
        ({"do_normalize": False, "do_rescale": False}, 255.0),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True}, 1.0),
        ({"image_mean": [2.0], "image_std": [4.0]}, -0.25),
        ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, 2.2489),
    ],
)
def test_a_white_pixel_becomes_what_the_file_says(config: dict[str, Any], white: float, tmp_path: Path) -> None:
    options = preprocessing(tmp_path, config)

    chosen = resolve(options, "imagenet", "nchw", 224, 3, is_guessed=False)

    assert (255 / chosen.divisor - chosen.mean[0]) / chosen.std[0] == pytest.approx(white, rel=1e-4)


def test_interpolation_and_the_order_of_colours(tmp_path: Path) -> None:
    assert preprocessing(tmp_path, VIT).interpolation == "bilinear"
    assert preprocessing(tmp_path, VIT | {"resample": 3}).interpolation == "bicubic"
    assert preprocessing(tmp_path, VIT | {"do_flip_channel_order": True}).channels == "bgr"


def test_what_no_file_says_is_left_open(tmp_path: Path) -> None:
    assert read_preprocessing(tmp_path) == PreprocessingOptions()
    assert not preprocessing(tmp_path, {"size": 224}).states_normalisation


@pytest.mark.parametrize("config", [HALF | {"size": "large"}, HALF | {"image_std": ["x"]}, HALF | {"image_std": [0.0]}])
def test_a_file_that_makes_no_sense_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"preprocessor_config\.json"):
        preprocessing(tmp_path, config)


def test_labels_are_those_of_the_config_in_order(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "dog", "0": "cat"}}))

    assert read_id2label(tmp_path) == ("cat", "dog")


def test_labels_with_a_gap_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "2": "dog"}}))

    with pytest.raises(ImportRefused, match="id2label"):
        read_id2label(tmp_path)


@pytest.mark.parametrize(
    ("architectures", "expected"),
    [(["ViTForImageClassification"], True), (["BertModel"], False), ([], None), (None, None)],
)
def test_what_a_network_was_made_for(architectures: Any, expected: bool | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))

    assert is_image_classifier(tmp_path) is expected


def specs(*names: str) -> list[TensorSpec]:
    return [TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in names]


def test_token_ids_are_of_the_vocabulary_and_all_are_attended_to(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 5}))

    rows = sample_inputs(tmp_path, specs("input_ids", "attention_mask", "token_type_ids", "position_ids"))

    assert rows is not None
    assert {array.shape for array in rows.values()} == {(2, 16)}
    assert {array.dtype for array in rows.values()} == {np.dtype(np.int64)}
    assert set(rows["input_ids"].ravel()) == set(range(5))
    assert rows["attention_mask"].all()
    assert not rows["token_type_ids"].any()
    assert rows["position_ids"].tolist() == [list(range(16))] * 2


def test_inputs_that_are_no_tokens_are_left_to_others(tmp_path: Path) -> None:
    assert sample_inputs(tmp_path, specs("input_ids")) is None
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 5}))
    pixels = TensorSpec(name="pixel_values", datatype="FP32", shape=(-1, 3, 8, 8))
    assert sample_inputs(tmp_path, [*specs("input_ids"), pixels]) is None
