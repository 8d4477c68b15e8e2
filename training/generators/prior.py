"""The prior that is fitted after a VAE: a mixture of Gaussians for each label, over the latents of the train split.

It owns the fit and the draw, and knows nothing of pictures' quality. The latents are drawn from the posteriors, so that
the mixture covers what the decoder was trained on (the aggregated posterior: Makhzani et al. 2015, arXiv 1511.05644).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from tqdm import tqdm

from training.generators.config import VaeConfig
from training.generators.likelihood import to_signed
from training.generators.parts import Pictures
from training.networks.vae import Vae

PRIOR_FILE = "prior.npz"
_MAX_LATENTS = 6_000  # of one label
_MAX_ITERATIONS = 200
_LEAST_VARIANCE = 1e-3
_BATCH_ROWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Weights [K,M], means [K,M,Z] and lower Cholesky factors [K,M,Z,Z] of the covariances, float32, by label."""

    weights: Tensor
    means: Tensor
    factors: Tensor

    def latents(self, noise: Tensor, choice: Tensor, labels: Tensor) -> Tensor:
        """Turn standard normal noise [B,Z] and uniform choice [B] into latents [B,Z] of the labels [B]."""
        edges = self.weights.cumsum(1)[labels]
        # Rounding may leave the last edge below one, and a choice beyond it.
        used = (self.weights > 0).sum(1)[labels] - 1
        component = torch.minimum((choice[:, None] >= edges).sum(1), used)
        return self.means[labels, component] + (self.factors[labels, component] @ noise[:, :, None])[:, :, 0]

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one latent for each label."""
        choice = torch.rand(len(labels), generator=generator)
        noise = torch.randn(len(labels), self.means.shape[2], generator=generator)
        return self.latents(noise, choice, labels)

    def save(self, path: Path, identity: str) -> None:
        """Write the mixture beside the identity of the network that it was fitted to."""
        tensors = {"weights": self.weights, "means": self.means, "factors": self.factors}
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez(path, allow_pickle=False, identity=np.array(identity), **arrays)


def load_or_fit_prior(network: Vae, train: Pictures, config: VaeConfig, path: Path, identity: str) -> Mixture:
    """Read the mixture at `path` where it was fitted to the network of this identity; else fit it and write it."""
    if path.exists():
        with np.load(path, allow_pickle=False) as saved:
            if str(saved["identity"]) == identity:
                return Mixture(**{name: torch.from_numpy(saved[name]) for name in ("weights", "means", "factors")})
    mixture = fit_prior(network, train, config)
    mixture.save(path, identity)
    return mixture


def fit_prior(network: Vae, train: Pictures, config: VaeConfig) -> Mixture:
    """Fit `mixture_components` Gaussians of full covariance to latents of each label.

    A label with fewer than two pictures keeps the standard normal.
    """
    num_labels = network.shape.num_labels or int(train.labels.max()) + 1
    generator = torch.Generator().manual_seed(config.seed)
    weights = torch.zeros(num_labels, config.mixture_components)
    means = torch.zeros(num_labels, config.mixture_components, config.latent)
    factors = torch.eye(config.latent).repeat(num_labels, config.mixture_components, 1, 1)
    weights[:, 0] = 1.0
    for label in tqdm(range(num_labels), desc="prior", unit="label"):
        rows = (train.labels == label).nonzero()[:, 0][:_MAX_LATENTS]
        if len(rows) < 2:
            continue
        latents = sample_posterior(network, train.take(rows), generator)
        fitted = fit_mixture(latents.double().numpy(), config.mixture_components, config.seed)
        for tensor, values in zip((weights, means, factors), fitted, strict=True):
            tensor[label, : len(values)] = torch.from_numpy(values).float()
    return Mixture(weights=weights, means=means, factors=factors)


@torch.no_grad()
def sample_posterior(network: Vae, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Draw one latent [B,Z] from the posterior of every picture."""
    network.eval()
    device = next(network.parameters()).device
    drawn = []
    for rows in torch.split(torch.arange(len(pictures)), _BATCH_ROWS):
        batch = pictures.take(rows)
        one_hot = network.one_hot(batch.labels.to(device))
        mean, log_variance = network.encoder(to_signed(batch.levels.to(device)), one_hot)
        noise = torch.randn(mean.shape, generator=generator).to(device)
        drawn.append((mean + noise * (0.5 * log_variance).exp()).cpu())
    return torch.cat(drawn)


def fit_mixture(latents: NDArray[np.float64], num_components: int, seed: int) -> tuple[NDArray[np.float64], ...]:
    """Fit one mixture to [B,Z]: weights [M], means [M,Z], lower Cholesky factors [M,Z,Z].

    M is `num_components`, or as many as leave each component two rows in the mean.
    """
    model = GaussianMixture(
        max(min(num_components, len(latents) // 2), 1),
        covariance_type="full",
        reg_covar=_LEAST_VARIANCE,
        max_iter=_MAX_ITERATIONS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # A prior that could still improve a little is a prior; it is judged by what it draws.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(latents)
    return model.weights_, model.means_, np.linalg.cholesky(model.covariances_)
