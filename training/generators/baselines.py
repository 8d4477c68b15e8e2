"""What a VAE is measured against: a linear model of pixels, the entropy of grey levels, and the mean picture.

It owns formulas in nats and knows no network. The linear model is probabilistic PCA in its closed form (Tipping &
Bishop 1999); on levels with uniform noise its density bounds the likelihood of the levels from below (Theis et al.
2016, arXiv 1511.01844, section 3.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK_ROWS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModel:
    """The eigenvalues [D], descending, and eigenvectors [D,D], as columns, of pixels' covariance around `mean` [D]."""

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def log_likelihoods(self, values: Tensor, numbers: list[int]) -> Tensor:
        """Log density [B,N] in nats of values [B,D], for each number of components; the rest is one noise variance.

        Raises: ValueError when a number leaves no dimension to the noise.
        """
        width = len(self.mean)
        if not all(0 <= number < width for number in numbers):
            raise ValueError(f"the numbers of components are {numbers}; each must be from 0 to {width - 1}.")
        squares = ((values.double() - self.mean) @ self.eigenvectors).square()
        explained = torch.nn.functional.pad((squares / self.eigenvalues).cumsum(1), (1, 0))
        left_over = squares.sum(1, keepdim=True) - torch.nn.functional.pad(squares.cumsum(1), (1, 0))
        columns = []
        for number in numbers:
            noise = self.eigenvalues[number:].mean()
            log_volume = self.eigenvalues[:number].log().sum() + (width - number) * noise.log()
            distance = explained[:, number] + left_over[:, number] / noise
            columns.append(-0.5 * (width * math.log(2 * math.pi) + log_volume + distance))
        return torch.stack(columns, dim=1)


def fit_linear_model(levels: Tensor, seed: int) -> LinearModel:
    """Fit to uint8 pictures [B,C,H,W] with uniform noise."""
    generator = torch.Generator().manual_seed(seed)
    width = levels[0].numel()
    total, products = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for rows in torch.split(levels, _CHUNK_ROWS):
        values = dequantized(rows, generator)
        total += values.sum(0)
        products += values.T @ values
    mean = total / len(levels)
    eigenvalues, eigenvectors = torch.linalg.eigh(products / len(levels) - torch.outer(mean, mean))
    # Fewer pictures than pixels leave directions without variance, on which a density would be infinite.
    eigenvalues = eigenvalues.flip(0).clamp(min=1e-6)
    return LinearModel(mean=mean, eigenvalues=eigenvalues, eigenvectors=eigenvectors.flip(1))


def dequantized(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Spread each level over the unit above it: uint8 [B,...] to float64 [B,D]."""
    values = levels.flatten(1).double()
    return values + torch.rand(values.shape, dtype=torch.float64, generator=generator)


def grey_level_entropy(levels: Tensor) -> Tensor:
    """The least cross entropy [B] in nats of uint8 pictures whose levels are taken as probabilities of white.

    No reconstruction, however exact, has less: this much of such a "loss" says nothing of a network.
    """
    return cross_entropy(levels, levels.double() / 255)


def cross_entropy(levels: Tensor, probabilities: Tensor) -> Tensor:
    """Binary cross entropy [B] in nats of uint8 pictures [B,...] as probabilities of white, under others."""
    white = levels.double() / 255
    probabilities = probabilities.double()
    return -(torch.xlogy(white, probabilities) + torch.xlogy(1 - white, 1 - probabilities)).flatten(1).sum(1)


def mean_picture(levels: Tensor) -> Tensor:
    """The mean [C,H,W] of uint8 pictures, in 0..1, kept off both ends by half a level in all of them together."""
    least = 0.5 / (255 * len(levels))
    return (levels.double().mean(0) / 255).clamp(least, 1 - least)
