"""Novelty is a distance in units of what 5 % of held-out images exceed, whatever the classes look like."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.scores.novelty import NoveltyMeasure, fit_novelty

CENTRES = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0]])
SPREADS = np.array([[0.1, 1, 1], [1, 0.1, 1], [1, 1, 0.1]])


def drawn(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Three classes, each flat in another direction."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    rows = CENTRES[labels] + SPREADS[labels] * rng.normal(size=(count, 3))
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def measure() -> NoveltyMeasure:
    return fit_novelty(*drawn(3000, 0), drawn(2000, 1)[0])


def test_one_in_twenty_of_held_out_and_of_other_real_rows_exceeds_one(measure: NoveltyMeasure) -> None:
    assert (measure(drawn(2000, 1)[0]) > 1).mean() == pytest.approx(0.05, abs=0.002)
    assert (measure(drawn(4000, 2)[0]) > 1).mean() == pytest.approx(0.05, abs=0.015)


def test_novelty_is_no_distance_to_the_mean_but_counts_in_each_classs_own_spread(measure: NoveltyMeasure) -> None:
    assert measure(CENTRES.astype(np.float32)) == pytest.approx(0, abs=0.1)
    # As far from the first class as usual in a wide direction, and much too far in its flat one.
    wide, flat = measure(np.array([[0, 1.5, 0], [1.5, 0, 0]], np.float32))
    assert wide < 1 < flat


def test_what_lies_between_the_classes_is_novel_and_twice_as_far_is_twice_as_novel(measure: NoveltyMeasure) -> None:
    assert measure(np.array([[4.5, 4.5, 0]], np.float32))[0] > 2
    near, far = measure(np.array([[0, 0, 50], [0, 0, 100]], np.float32))
    assert far == pytest.approx(2 * near, rel=0.01)


def test_overfitted_training_rows_do_not_set_the_scale() -> None:
    rows, labels = drawn(3000, 0)
    closer = (CENTRES[labels] + (rows - CENTRES[labels]) / 10).astype(np.float32)
    held_out = drawn(2000, 1)[0]
    assert (fit_novelty(closer, labels, held_out)(held_out) > 1).mean() == pytest.approx(0.05, abs=0.002)


def test_a_class_of_one_image_and_a_label_without_images_do_no_harm() -> None:
    rows, labels = drawn(3000, 0)
    labels[0] = 7
    measure = fit_novelty(rows, labels, drawn(2000, 1)[0])
    assert measure.means.shape == (4, 3)
    assert np.isfinite(measure.whitening).all()
    assert (measure(drawn(4000, 2)[0]) > 1).mean() == pytest.approx(0.05, abs=0.015)


def test_embeddings_that_are_all_the_same_are_refused() -> None:
    same = np.ones((10, 3), np.float32)
    with pytest.raises(ValueError, match="nothing is calibrated"):
        fit_novelty(same, np.zeros(10, np.int64), same)
