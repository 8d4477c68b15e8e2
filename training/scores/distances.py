"""Distances between two sets of features: Fréchet's, of their Gaussians, the kernel distance, precision and recall.

It owns formulas in float64 and knows no pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_NEIGHBOURS = 3
_BLOCK_ROWS = 1_000
_CHUNK_ROWS = 1_000


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Compute |m1 - m2|² + tr(S1 + S2 - 2 (S1^½ S2 S1^½)^½) of two sets of features [B,D]."""
    # Each set as one Gaussian: its mean [D] and covariance [D,D].
    means, covariances = zip(*(_moments(features.double()) for features in (first, second)), strict=True)
    # The root of the first covariance by its eigenvalues, S^½ = V diag(λ^½) V^T.
    values, vectors = torch.linalg.eigh(covariances[0])
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    # The symmetric form of the product: its eigenvalues are real, up to rounding not negative.
    inner = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    # Two Gaussians are one where means and covariances agree: the first term is of the means, the rest of the
    # covariances.
    shift = (means[0] - means[1]).square().sum()
    return float(shift + covariances[0].trace() + covariances[1].trace() - 2 * inner)


def kernel_distance(first: Tensor, second: Tensor, block_rows: int = _BLOCK_ROWS) -> tuple[float, float]:
    """Estimate the squared maximum mean discrepancy without bias, block against block: the mean and its standard error.

    The kernel is (x·y / D + 1)³. Features of unit length are scaled by √D first: x·y / D would be next to zero for all
    of them, and the kernel flat. Small sets are halved, so that there are two blocks at least.

    Raises: ValueError when a set has fewer than four features.
    """
    # Unlike Fréchet's distance, this one assumes no Gaussian and has no bias in small sets (Bińkowski et al. 2018,
    # section 3).
    width, fewest = first.shape[1], min(len(first), len(second))
    if fewest < 4:
        raise ValueError(f"a set has {fewest} features; a kernel distance with an error needs at least 4.")
    block_rows = min(block_rows, fewest // 2)
    # Blocks of a thousand: the estimate is the mean over blocks, and their spread says how far to trust it.
    blocks = [
        _block_discrepancy(mine * width**0.5, yours * width**0.5)
        for mine, yours in zip(torch.split(first, block_rows), torch.split(second, block_rows), strict=False)
        if min(len(mine), len(yours)) > 1
    ]
    estimates = torch.tensor(blocks, dtype=torch.float64)
    return float(estimates.mean()), float(estimates.std() / len(blocks) ** 0.5)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(0), torch.cov(features.T)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    # [B,D] x [B,D] -> [B,B]; the cube compares mean, variance and skewness of features (Bińkowski et al. 2018, section
    # 4).
    return (first @ second.T / first.shape[1] + 1) ** 3


def _block_discrepancy(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate: no feature is compared with itself."""
    within = [_kernel(block, block) for block in (first, second)]
    # Without the diagonal: a feature is always most like itself, which says nothing of the set.
    means = [(kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1)) for kernel in within]
    return float(means[0] + means[1] - 2 * _kernel(first, second).mean())


def precision_and_recall(generated: Tensor, real: Tensor, num_neighbours: int = NUM_NEIGHBOURS) -> tuple[float, float]:
    """Share of the generated features [B,D] within the real manifold, and of the real ones within the generated."""
    real, generated = real.double(), generated.double()
    # Precision: how much of what is drawn could be real. Recall: how much of what is real could be drawn. A generator
    # that draws one perfect picture has the first and not the second.
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
    # In chunks: all distances of ten thousand features at once would be 800 MB.
    for start in range(0, len(features), _CHUNK_ROWS):
        distances = _squared_distances(features[start : start + _CHUNK_ROWS], features)
        rows = torch.arange(len(distances))
        # A feature is no neighbour of its own.
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
    # |a - b|² = |a|² + |b|² - 2 a·b, one matrix product for all pairs; rounding may leave a little below zero.
    squares = first.square().sum(1)[:, None] + second.square().sum(1)[None]
    return torch.addmm(squares, first, second.T, alpha=-2).clamp_(min=0)
