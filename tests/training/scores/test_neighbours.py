"""Precision and recall by neighbours, on sets whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.scores.distances import neighbour_radii, precision_and_recall, share_within

CENTRES = ((0.0, 0.0), (50.0, 0.0), (0.0, 50.0), (50.0, 50.0))


def blobs(centres: tuple[tuple[float, float], ...], seed: int, count: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Filled squares, so that hardly any point of another draw falls outside of all balls.
    return torch.cat([torch.rand(count, 2, generator=generator) + torch.tensor(centre) for centre in centres])


def test_the_radius_is_the_distance_to_the_kth_other_row() -> None:
    rows = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    assert neighbour_radii(rows, 1).tolist() == [1, 1, 4, 16]
    assert neighbour_radii(rows, 2).tolist() == [9, 4, 9, 36]


def test_twins_are_each_others_neighbours() -> None:
    rows = torch.tensor([[2.0], [2.0], [5.0]], dtype=torch.float64)
    assert neighbour_radii(rows, 1).tolist() == [0, 0, 9]


def test_more_neighbours_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="3 features have no 3 neighbours each"):
        neighbour_radii(torch.zeros(3, 2), 3)


def test_a_row_is_within_where_any_ball_reaches_it() -> None:
    centres = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    rows = torch.tensor([[1.0], [2.1], [9.5], [-5.0]], dtype=torch.float64)
    assert share_within(rows, centres, torch.tensor([4.0, 1.0])) == 0.5


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = blobs(CENTRES, 1), blobs(CENTRES[:3], 2)
    whole = precision_and_recall(generated, real)
    monkeypatch.setattr("training.scores.distances._CHUNK_ROWS", 37)
    assert precision_and_recall(generated, real) == whole


def test_the_same_distribution_has_both() -> None:
    precision, recall = precision_and_recall(blobs(CENTRES, 1), blobs(CENTRES, 2))
    assert precision > 0.9
    assert recall > 0.9


def test_a_dropped_mode_lowers_recall_alone() -> None:
    precision, recall = precision_and_recall(blobs(CENTRES[:3], 1, 80), blobs(CENTRES, 2))
    assert precision > 0.9
    assert 0.65 < recall <= 0.75


def test_made_up_pictures_lower_precision_alone() -> None:
    precision, recall = precision_and_recall(blobs((*CENTRES, (200.0, 200.0)), 1), blobs(CENTRES, 2))
    assert 0.7 < precision <= 0.8
    assert recall > 0.9
