"""Fréchet's and the kernel distance, against closed forms and direct sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.scores.distances import frechet_distance, kernel_distance


def whitened(count: int, width: int, seed: int) -> Tensor:
    """Rows whose mean is zero and whose covariance is the unit matrix, exactly."""
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows - rows.mean(0)
    white: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(rows.T)), rows.T, upper=False).T
    return white


def test_equal_sets_are_at_no_distance() -> None:
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-10)


def test_a_shift_counts_with_its_square() -> None:
    rows = whitened(100, 5, 2)
    assert frechet_distance(rows, rows + torch.tensor([3.0, 0, 0, 4, 0])) == pytest.approx(25)


def test_gaussians_that_share_axes_differ_by_their_standard_deviations() -> None:
    first = whitened(300, 3, 3) * torch.tensor([1.0, 2.0, 0.5])
    second = whitened(200, 3, 4) * torch.tensor([4.0, 2.0, 1.0])
    assert frechet_distance(first, second) == pytest.approx(3**2 + 0 + 0.5**2)


def test_gaussians_of_any_covariance_match_the_matrix_root_of_the_product() -> None:
    mixing = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    first, second = whitened(300, 2, 5) @ mixing, whitened(300, 2, 6)
    # In two dimensions the trace of a matrix' root follows from its trace and determinant.
    product = mixing.T @ mixing
    trace_of_root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(product.det())))
    assert frechet_distance(first, second) == pytest.approx(float(product.trace()) + 2 - 2 * trace_of_root)


def test_a_set_in_a_plane_has_a_distance_too() -> None:
    flat = whitened(100, 3, 7) * torch.tensor([1.0, 1.0, 0.0])
    assert frechet_distance(flat, whitened(100, 3, 8)) == pytest.approx(1)


def direct_discrepancy(first: list[Tensor], second: list[Tensor]) -> float:
    """The unbiased estimate by a loop over pairs, features scaled by the root of their width."""
    width = len(first[0])

    def kernel(one: Tensor, other: Tensor) -> float:
        return float((one * width**0.5) @ (other * width**0.5) / width + 1) ** 3

    def mean_within(rows: list[Tensor]) -> float:
        pairs = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(a, b) for a in first for b in second]
    return mean_within(first) + mean_within(second) - 2 * sum(across) / len(across)


def test_the_kernel_distance_is_the_direct_sum_over_pairs() -> None:
    generator = torch.Generator().manual_seed(9)
    first, second = (torch.randn(12, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    halves = [direct_discrepancy(list(first[rows]), list(second[rows])) for rows in (slice(6), slice(6, 12))]
    estimate, error = kernel_distance(first, second)
    assert estimate == pytest.approx(sum(halves) / 2)
    assert error == pytest.approx(abs(halves[0] - halves[1]) / 2)


def test_what_is_left_over_is_a_block_of_its_own() -> None:
    generator = torch.Generator().manual_seed(10)
    first, second = (torch.randn(25, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    cuts = (slice(10), slice(10, 20), slice(20, 25))
    blocks = torch.tensor([direct_discrepancy(list(first[rows]), list(second[rows])) for rows in cuts])
    estimate, error = kernel_distance(first, second, 10)
    assert estimate == pytest.approx(float(blocks.mean()), rel=1e-5)
    assert error == pytest.approx(float(blocks.std()) / 3**0.5, rel=1e-5)


def test_too_few_features_for_two_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="a set has 3 features"):
        kernel_distance(torch.zeros(3, 2), torch.zeros(9, 2))


def test_the_kernel_distance_of_one_distribution_is_unbiased() -> None:
    generator = torch.Generator().manual_seed(11)
    first, second = (
        torch.nn.functional.normalize(torch.randn(4000, 16, generator=generator, dtype=torch.float64)) for _ in range(2)
    )
    estimate, error = kernel_distance(first, second, 200)
    assert abs(estimate) < 3 * error
    moved = torch.nn.functional.normalize(second + 0.2)
    assert kernel_distance(first, moved, 200)[0] > 20 * error
