"""Precision and recall of generated features, by nearest neighbours.

It owns the formulas, in float64 and by chunks, and knows no pictures. Source: Kynkäänniemi et al. 2019, arXiv
1904.06991: a set's manifold is the union of balls around its members, each reaching to its k-th nearest neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_NEIGHBOURS = 3
_CHUNK_ROWS = 1_000


def precision_and_recall(generated: Tensor, real: Tensor, num_neighbours: int = NUM_NEIGHBOURS) -> tuple[float, float]:
    """Share of the generated features [B,D] within the real manifold, and of the real ones within the generated."""
    real, generated = real.double(), generated.double()
    precision = share_within(generated, real, neighbour_radii(real, num_neighbours))
    recall = share_within(real, generated, neighbour_radii(generated, num_neighbours))
    return precision, recall


def neighbour_radii(features: Tensor, num_neighbours: int) -> Tensor:
    """Squared distance [B] of every row to its k-th nearest other row.

    Raises: ValueError when there are not so many others.
    """
    if len(features) <= num_neighbours:
        raise ValueError(f"{len(features)} features have no {num_neighbours} neighbours each; more are needed.")
    radii = []
    for start in range(0, len(features), _CHUNK_ROWS):
        distances = _squared_distances(features[start : start + _CHUNK_ROWS], features)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf
        radii.append(distances.topk(num_neighbours, largest=False).values[:, -1])
    return torch.cat(radii)


def share_within(features: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of the features that lie within at least one ball of squared radius."""
    within = [
        (_squared_distances(rows, centres) <= radii).any(1).double() for rows in torch.split(features, _CHUNK_ROWS)
    ]
    return float(torch.cat(within).mean())


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    squares = first.square().sum(1)[:, None] + second.square().sum(1)[None]
    return torch.addmm(squares, first, second.T, alpha=-2).clamp_(min=0)
