"""Scores on a split."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluate import score


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
