"""Scores on a split."""

from __future__ import annotations

import numpy as np
import pytest

from training.scores.classification import fit_temperature, score


def test_scores_count_right_and_wrong_by_class() -> None:
    logits = np.array([[5.0, 0, 0], [0, 2, 0], [9, 0, 0], [0, 0, 1], [0, 3, 0]], np.float32)
    scores = score(logits, np.array([0, 1, 1, 2, 2]))
    assert scores.accuracy == pytest.approx(0.6)
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert scores.class_accuracy.tolist() == [1.0, 0.5, 0.5]
    assert scores.confidence[3] == pytest.approx(np.e / (np.e + 2))


def test_the_wrongest_come_first_and_are_errors() -> None:
    logits = np.array([[1.0, 0], [4, 0], [2, 0], [0, 5]], np.float32)
    scores = score(logits, np.array([1, 1, 0, 1]), num_wrongest=5)
    assert scores.wrongest.tolist() == [1, 0]


def test_a_class_without_images_has_no_accuracy() -> None:
    scores = score(np.eye(3, dtype=np.float32)[:2], np.array([0, 1]))
    assert np.isnan(scores.class_accuracy[2])


def test_huge_logits_do_not_overflow() -> None:
    scores = score(np.array([[1e4, -1e4]], np.float32), np.array([0]))
    assert scores.confidence.tolist() == [1.0]


def test_the_temperature_undoes_a_known_scaling_of_the_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)).astype(np.float32) * 2
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(5, p=row / row.sum()) for row in odds.astype(np.float64)])

    assert fit_temperature(logits, labels) == pytest.approx(1.0, rel=0.08)
    assert fit_temperature(logits / 3, labels) == pytest.approx(1 / 3, rel=0.08)
