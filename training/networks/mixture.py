"""The prior that is fitted after a VAE: a mixture of Gaussians for each label, over the latents of the train split.

A VAE is trained so that its latents look like N(0, 1), but they never quite do: a latent from N(0, 1) may lie where no
picture was encoded, and the decoder makes nothing sensible of it. The mixture covers where pictures were encoded, the
aggregated posterior (Makhzani et al. 2015, arXiv 1511.05644; Hoffman & Johnson 2016).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from tqdm import tqdm

from training.data.datasets import Images
from training.losses import to_signed
from training.networks.vae import Vae

PRIOR_FILE = "prior.npz"
_MAX_LATENTS = 6_000  # of one label
_MAX_ITERATIONS = 200
_LEAST_VARIANCE = 1e-3
_BATCH_ROWS = 500


class Mixture(nn.Module):
    """Weights [K,M], means [K,M,Z] and lower Cholesky factors [K,M,Z,Z] of the covariances, float32, by label."""

    def __init__(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        super().__init__()
        # Parameters that nothing trains: fitted by EM, and exported as constants of a graph.
        self.weights = nn.Parameter(weights, requires_grad=False)
        self.means = nn.Parameter(means, requires_grad=False)
        self.factors = nn.Parameter(factors, requires_grad=False)

    def forward(self, noise: Tensor, choice: Tensor, label: Tensor) -> Tensor:
        """Turn standard normal noise [B,Z] and a uniform choice [B] into latents [B,Z] of the labels [B].

        Noise and choice are inputs: the exported graph holds no random operator, so a seed decides a picture anywhere.
        """
        # A component is chosen by where `choice` falls among the cumulated weights: [B,M] edges, [B] components.
        edges = self.weights.cumsum(1)[label]
        # Rounding may leave the last edge below one, and a choice beyond it.
        used = (self.weights > 0).sum(1)[label] - 1
        component = torch.minimum((choice[:, None] >= edges).sum(1), used)
        # With covariance F F^T, mean + F noise has the component's distribution: [B,Z,Z] @ [B,Z,1] -> [B,Z].
        return self.means[label, component] + (self.factors[label, component] @ noise[:, :, None])[:, :, 0]

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one latent for each label."""
        # First the component, then the place within it.
        choice = torch.rand(len(labels), generator=generator)
        noise = torch.randn(len(labels), self.means.shape[2], generator=generator)
        latents: Tensor = self(noise, choice, labels)
        return latents

    @property
    def num_parameters(self) -> int:
        """Count the free numbers: of a factor, the triangle."""
        width = self.means.shape[2]
        return self.weights.numel() * (1 + width + width * (width + 1) // 2)


def load_or_fit_prior(
    network: Vae, train: Images, num_components: int, seed: int, path: Path, identity: str
) -> Mixture:
    """Read the mixture at `path` where it was fitted to the network of this identity; else fit it and write it."""
    if path.exists():
        with np.load(path, allow_pickle=False) as saved:
            # A mixture belongs to the very weights whose latents it was fitted to.
            if str(saved["identity"]) == identity:
                return Mixture(**{name: torch.from_numpy(saved[name]) for name in ("weights", "means", "factors")})
    mixture = fit_prior(network, train, num_components, seed)
    arrays = {name: tensor.numpy() for name, tensor in mixture.state_dict().items()}
    np.savez(path, allow_pickle=False, identity=np.array(identity), **arrays)
    return mixture


def fit_prior(network: Vae, train: Images, num_components: int, seed: int) -> Mixture:
    """Fit `num_components` Gaussians of full covariance to latents of each label.

    A label with fewer than two pictures keeps the standard normal.
    """
    # A network that was not told labels has latents of all of them mixed; the mixture sorts them by the labels of the
    # data.
    num_labels = network.shape.num_labels or int(train.labels.max()) + 1
    latent = network.shape.latent
    # Everything starts as N(0, 1) for each label, in its first component: a label without pictures keeps it.
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(num_labels, num_components)
    means = torch.zeros(num_labels, num_components, latent)
    factors = torch.eye(latent).repeat(num_labels, num_components, 1, 1)
    weights[:, 0] = 1.0
    for label in tqdm(range(num_labels), desc="prior", unit="label"):
        # A few thousand latents say where a label lies; EM on all of them would take longer than it gains.
        rows = (train.labels == label).nonzero()[:, 0][:_MAX_LATENTS]
        if len(rows) < 2:
            continue
        latents = sample_posterior(network, train.take(rows), generator)
        # In float64: covariances are differences of large sums.
        fitted = fit_mixture(latents.double().numpy(), num_components, seed)
        for tensor, values in zip((weights, means, factors), fitted, strict=True):
            tensor[label, : len(values)] = torch.from_numpy(values).float()
    return Mixture(weights, means, factors)


@torch.no_grad()
def sample_posterior(network: Vae, pictures: Images, generator: torch.Generator) -> Tensor:
    """Draw one latent [B,Z] from the posterior of every picture.

    Draws, not means: the decoder was trained on draws, and the mixture must be as wide as what it was trained on.
    """
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
    """Fit one mixture to [B,Z] by EM: weights [M], means [M,Z], lower Cholesky factors [M,Z,Z].

    M is `num_components`, or as many as leave each component two rows in the mean.
    """
    model = GaussianMixture(
        max(min(num_components, len(latents) // 2), 1),
        covariance_type="full",
        # Added to the diagonal: a component that closes in on one latent would end EM with a variance of zero.
        reg_covar=_LEAST_VARIANCE,
        max_iter=_MAX_ITERATIONS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # A prior that could still improve a little is a prior; it is judged by what it draws.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(latents)
    # The lower triangle F with F F^T = covariance: what turns independent noise into the component's.
    return model.weights_, model.means_, np.linalg.cholesky(model.covariances_)
