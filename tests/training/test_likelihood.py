"""The formulas of the ELBO agree with a sum over all levels, with torch's distributions, and with their ends."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from training.losses import (
    gaussian_kl,
    logistic_log_likelihood,
    pixel_log_likelihood,
    to_levels,
    to_signed,
)

LEVELS = torch.arange(256.0, dtype=torch.float64)


def distribution(location: float, log_scale: float) -> torch.Tensor:
    """The log-probability [256] of every level of one pixel."""
    whole = torch.full((256,), location, dtype=torch.float64), torch.full((256,), log_scale, dtype=torch.float64)
    return pixel_log_likelihood(LEVELS, *whole)


@pytest.mark.parametrize("location", [-1.7, -1.0, -0.31, 0.0, 0.8, 1.2])
@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 3.0])
def test_probabilities_of_all_levels_sum_to_one_and_are_masses_of_the_logistic(
    location: float, log_scale: float
) -> None:
    # Levels are spread over -1..1 in single precision, whatever the type of the rest.
    probabilities = distribution(location, log_scale).exp()

    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-6)
    edges = (torch.arange(257, dtype=torch.float64) - 0.5) * 2 / 255 - 1
    cumulated = torch.sigmoid((edges - location) * torch.tensor(-log_scale).double().exp())
    cumulated[0], cumulated[-1] = 0, 1
    assert torch.allclose(probabilities, cumulated.diff(), atol=1e-4)


def test_single_precision_neither_overflows_nor_cancels() -> None:
    location, log_scale = torch.meshgrid(torch.linspace(-40, 40, 81), torch.linspace(-7, 3, 21), indexing="ij")
    for level in (0.0, 1.0, 128.0, 254.0, 255.0):
        pixels = torch.full_like(location, level)
        single = pixel_log_likelihood(pixels, location, log_scale)
        double = pixel_log_likelihood(pixels.double(), location.double(), log_scale.double())
        assert torch.isfinite(single).all()
        assert float(((single - double).abs() / (1 + double.abs())).max()) < 1e-5


def test_a_picture_sums_over_its_pixels() -> None:
    pixels = torch.randint(0, 256, (3, 2, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    location, log_scale = torch.zeros_like(pixels), torch.full_like(pixels, -1.0)

    assert torch.equal(
        logistic_log_likelihood(pixels, location, log_scale),
        pixel_log_likelihood(pixels, location, log_scale).flatten(1).sum(1),
    )


def test_the_divergence_is_the_one_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 7, generator=generator)

    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))

    assert torch.allclose(gaussian_kl(mean, log_variance), expected, atol=1e-6)


def test_levels_survive_the_way_there_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)

    assert torch.equal(to_levels(to_signed(levels)), levels)
    assert to_levels(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]
