"""The comparison of measures: its arithmetic, and the pictures that no classifier was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.manifest import read_manifest
from service.settings import SHIPPED_REPOSITORY
from training.data.datasets import DEFAULT_CACHE, synthetic_dataset
from training.studies import novelty
from training.studies.novelty import area_under_curve, main, measures, others

Outputs = dict[str, NDArray[Any]]


def test_the_area_under_the_curve_is_the_chance_to_score_higher() -> None:
    real = np.array([1.0, 2, 3, 4])
    assert area_under_curve(real, np.array([5.0, 6])) == 1
    assert area_under_curve(real, real) == 0.5
    assert area_under_curve(real, np.array([0.0, 2.5])) == 0.25


def test_every_measure_finds_a_blob_far_from_both_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    rows = np.eye(4)[labels] + rng.normal(scale=0.1, size=(600, 4))
    sure = np.eye(2)[labels] * 0.9 + 0.05
    known: Outputs = {"embedding": rows.astype(np.float32), "probabilities": sure}
    far: Outputs = {"embedding": np.full((50, 4), -1, np.float32), "probabilities": np.full((50, 2), 0.5)}
    for measure in measures(known, labels, known).values():
        assert area_under_curve(measure(known), measure(far)) > 0.99


def test_others_fit_the_network_and_drawings_come_as_uploads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "_NUM_DRAWN", 3)
    monkeypatch.setattr(novelty, "load", lambda name, *_: synthetic_dataset(name).test_images)
    manifest = read_manifest(SHIPPED_REPOSITORY / "mnist" / "1")
    kinds = others(manifest, synthetic_dataset("mnist").test_images, None, DEFAULT_CACHE)
    assert {"fashion-mnist", "cifar10", "smileys", "blank"} <= kinds.keys()
    assert all(images.shape[1:] == (28, 28, 1) and images.dtype == np.uint8 for images in kinds.values())
    assert kinds["smileys"][:, 0, 0].max() < 60  # ink became light, paper dark


def test_a_model_that_is_not_there_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
