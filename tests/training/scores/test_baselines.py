"""The linear model against a multivariate normal, and grey levels as probabilities against torch's own loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional

from training.scores.likelihood import (
    LinearModel,
    cross_entropy,
    dequantized,
    fit_linear_model,
    grey_level_entropy,
    mean_picture,
)


def levels(count: int, seed: int = 0, side: int = 3) -> Tensor:
    """Pictures whose pixels depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.randint(0, 150, (count, 1, 1, 1), generator=generator)
    return (brightness + torch.randint(0, 100, (count, 1, side, side), generator=generator)).to(torch.uint8)


def covariance_of(model: LinearModel, number: int) -> Tensor:
    """Loadings of the components and one variance of noise, as the model is defined."""
    noise = model.eigenvalues[number:].mean()
    loadings = model.eigenvectors[:, :number] * (model.eigenvalues[:number] - noise).sqrt()
    return loadings @ loadings.T + noise * torch.eye(len(model.mean), dtype=torch.float64)


def test_the_density_is_that_of_the_multivariate_normal() -> None:
    model = fit_linear_model(levels(500), seed=0)
    values = dequantized(levels(20, seed=1), torch.Generator().manual_seed(2))
    densities = model.log_likelihoods(values, [0, 1, 4, 8])
    for column, number in zip(densities.T, (0, 1, 4, 8), strict=True):
        expected = MultivariateNormal(model.mean, covariance_of(model, number)).log_prob(values)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(column, expected)


def test_the_fit_is_the_moments_of_levels_with_noise() -> None:
    pictures = levels(20_000)
    model = fit_linear_model(pictures, seed=0)
    torch.testing.assert_close(model.mean, pictures.double().flatten(1).mean(0) + 0.5, atol=0.02, rtol=0)
    # All but one component are the whole covariance; uniform noise of a unit adds 1/12 to each variance.
    whole = torch.cov(pictures.double().flatten(1).T, correction=0) + torch.eye(9, dtype=torch.float64) / 12
    rebuilt = (model.eigenvectors * model.eigenvalues) @ model.eigenvectors.T
    torch.testing.assert_close(rebuilt, whole, atol=15.0, rtol=0)
    assert torch.equal(model.eigenvalues, model.eigenvalues.sort(descending=True).values)


def test_no_number_of_components_beats_the_maximum_likelihood_on_its_own_pictures() -> None:
    pictures = levels(3000)
    model = fit_linear_model(pictures, seed=0)
    values = dequantized(pictures, torch.Generator().manual_seed(0))
    means = model.log_likelihoods(values, list(range(9))).mean(0)
    assert torch.equal(means, means.sort().values)
    assert means[1] - means[0] > 5 * (means[8] - means[1])


@pytest.mark.parametrize("number", [-1, 9])
def test_a_number_that_leaves_no_noise_is_refused(number: int) -> None:
    model = fit_linear_model(levels(50), seed=0)
    with pytest.raises(ValueError, match="each must be from 0 to 8"):
        model.log_likelihoods(torch.zeros(1, 9), [number])


def test_cross_entropy_is_torchs_and_its_floor_is_the_entropy_of_the_levels() -> None:
    pictures = levels(6)
    probabilities = torch.rand(pictures.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = functional.binary_cross_entropy(probabilities, pictures.double() / 255, reduction="none")
    torch.testing.assert_close(cross_entropy(pictures, probabilities), expected.flatten(1).sum(1))
    assert (grey_level_entropy(pictures) < cross_entropy(pictures, probabilities)).all()


def test_black_and_white_have_no_entropy() -> None:
    assert grey_level_entropy(torch.tensor([[[[0, 255], [255, 0]]]], dtype=torch.uint8)).tolist() == [0]


def test_the_mean_picture_is_the_best_constant_one() -> None:
    pictures = levels(200)
    pictures[:, :, 0, 0] = 0
    mean = mean_picture(pictures)
    assert 0 < mean[0, 0, 0] < 1e-4
    best = cross_entropy(pictures, mean.expand(pictures.shape)).mean()
    assert best.isfinite()
    for shift in (-0.01, 0.01):
        assert cross_entropy(pictures, (mean + shift).clamp(1e-6, 1).expand(pictures.shape)).mean() > best
