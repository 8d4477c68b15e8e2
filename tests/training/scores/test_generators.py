"""A generator's scores: what the rows compare, what needs labels, and what a second scoring reads back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.fake_models.classification import LinearClassifier
from training.data.datasets import Dataset, Images
from training.scores import generators as scoring
from training.scores.distances import frechet_distance
from training.scores.generators import (
    BLURRED,
    GENERATED,
    REAL,
    ClassifierLesson,
    Draw,
    FeatureNetwork,
    GeneratorScores,
    ScoringPlan,
    blurred,
    cycled,
    score_generator,
    without_class,
)

SIDE, NUM_LABELS = 8, 4
CLASSIFIER = LinearClassifier(7, (SIDE, SIDE, 1))
PLAN = ScoringPlan(
    num_samples=60, num_lesson=80, lesson=ClassifierLesson(network="tiny", epochs=1, held_out=10, batch_size=16)
)


def dataset() -> Dataset:
    """Noise, with the labels that the classifier gives it."""
    train, test = CLASSIFIER.images(100, 1), CLASSIFIER.images(60, 2)
    return Dataset(
        name="noise",
        description="noise",
        labels=("cat", "dog", "emu", "fox"),
        train_images=train,
        train_labels=called(train),
        test_images=test,
        test_labels=called(test),
    )


def called(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    labels: np.ndarray[tuple[int], np.dtype[np.int64]] = CLASSIFIER.outputs(images)["probabilities"].argmax(1)
    return labels


def draw_labelled(labels: Tensor, seed: int) -> Tensor:
    """Draw noise until the classifier calls each picture by its label."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 256, (2000, SIDE, SIDE, 1), dtype=np.uint8)
    rows_of = {label: list(np.flatnonzero(called(pool) == label)) for label in range(NUM_LABELS)}
    return torch.from_numpy(pool[[rows_of[int(label)].pop() for label in labels]]).permute(0, 3, 1, 2)


@pytest.fixture
def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GeneratorScores]:
    folder = CLASSIFIER.write(tmp_path / "repository", "noise")
    monkeypatch.setattr(scoring, "accuracy_on_test", lambda pictures, *_: len(pictures) / 1000)

    def score_with(draw: Draw = draw_labelled, **changes: object) -> GeneratorScores:
        arguments = {"recipe": "mnist", "identity": "one", "plan": PLAN} | changes
        return score_generator(draw, dataset(), folder, tmp_path / "scores.json", **arguments)  # type: ignore[arg-type]

    return score_with


def features_of(images: Tensor, tmp_path: Path) -> Tensor:
    return FeatureNetwork(tmp_path / "repository" / "noise" / "1").features(images, "features").embeddings


def test_the_rows_compare_with_the_test_split(score: Callable[..., GeneratorScores], tmp_path: Path) -> None:
    scores = score()
    train, test = (
        torch.from_numpy(images).permute(0, 3, 1, 2) for images in (dataset().train_images, dataset().test_images)
    )
    reference = features_of(test, tmp_path)
    assert [row.name for row in scores.rows[:2]] == [REAL, BLURRED]
    assert scores.floor.frechet == pytest.approx(frechet_distance(features_of(train[:60], tmp_path), reference))
    spoilt = frechet_distance(features_of(blurred(test, 1.0), tmp_path), reference)
    assert scores.rows[1].frechet == pytest.approx(spoilt)
    assert scores.rows[3] == scores.generated
    assert scores.generated.name == GENERATED
    assert all(row.count == 60 for row in scores.rows)
    assert scores.num_reference == 60


def test_the_missing_class_is_the_one_that_shows_least(score: Callable[..., GeneratorScores], tmp_path: Path) -> None:
    row = score().rows[2]
    reference = features_of(torch.from_numpy(dataset().test_images).permute(0, 3, 1, 2), tmp_path)
    labels = torch.from_numpy(dataset().test_labels)
    distances = [frechet_distance(reference[without_class(labels, label)], reference) for label in range(NUM_LABELS)]
    missing = dataset().labels[int(np.argmin(distances))]
    assert row.name == f"test pictures without a class ({missing})"
    assert row.frechet == pytest.approx(min(distances))


def test_pictures_of_their_label_agree(score: Callable[..., GeneratorScores]) -> None:
    scores = score()
    assert scores.agreement == 1
    assert scores.class_agreement == (1, 1, 1, 1)


def test_a_generator_deaf_to_one_label_shows_in_that_class(score: Callable[..., GeneratorScores]) -> None:
    def draw(labels: Tensor, seed: int) -> Tensor:
        return draw_labelled(torch.where(labels == 2, 0, labels), seed)

    scores = score(draw)
    assert scores.class_agreement == (1, 1, 0, 1)
    assert scores.agreement == pytest.approx(float((dataset().test_labels != 2).mean()))


def test_what_needs_labels_is_left_out_without_them(score: Callable[..., GeneratorScores]) -> None:
    scores = score(labelled=False)
    assert scores.agreement is None
    assert scores.class_agreement is None
    assert scores.accuracy_from_generated is None
    assert GeneratorScores.from_json(json.loads(json.dumps(scores.to_json()))) == scores


def test_lessons_are_drawn_apart_and_taught(score: Callable[..., GeneratorScores]) -> None:
    seeds = []

    def draw(labels: Tensor, seed: int) -> Tensor:
        seeds.append(seed)
        return draw_labelled(labels, seed)

    scores = score(draw, plan=ScoringPlan(num_samples=60, num_lesson=80, lesson=PLAN.lesson, lesson_of_real=True))
    assert scores.accuracy_from_generated == 0.08
    assert scores.accuracy_from_real == 0.08
    assert len(set(seeds)) == len(seeds) == 2


def test_scores_survive_a_file(score: Callable[..., GeneratorScores]) -> None:
    scores = score()
    assert GeneratorScores.from_json(json.loads(json.dumps(scores.to_json()))) == scores


def test_a_second_scoring_draws_nothing(score: Callable[..., GeneratorScores], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = score()

    def fail(*_: object) -> Tensor:
        raise AssertionError("drawn or measured again")

    monkeypatch.setattr(FeatureNetwork, "features", fail)
    assert score(fail) == scores
    with pytest.raises(AssertionError, match="again"):
        score(fail, identity="another")


def test_an_interrupted_scoring_goes_on_after_its_last_piece(
    score: Callable[..., GeneratorScores], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counting(labels: Tensor, seed: int) -> Tensor:
        calls.append(len(labels))
        return draw_labelled(labels, seed)

    def interrupted(pictures: Images, *_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "accuracy_on_test", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(counting)
    assert calls == [60, 80]
    assert score(counting).accuracy_from_generated == 0.08
    assert calls == [60, 80, 80]


def test_calibration_is_shared_by_the_generators_of_a_run(
    score: Callable[..., GeneratorScores], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(section="mixture")
    monkeypatch.setattr(scoring, "blurred", lambda *_: pytest.fail("calibrated again"))
    second = score(section="normal", identity="two", labelled=False)
    assert second.rows[:3] == first.rows[:3]


def test_labels_are_repeated_in_the_proportions_of_a_part() -> None:
    assert cycled(torch.tensor([2, 0, 2]), 7).tolist() == [2, 0, 2, 2, 0, 2, 2]
    assert without_class(torch.tensor([0, 1, 0, 2, 1]), 0).tolist() == [1, 3, 4, 1, 3]
