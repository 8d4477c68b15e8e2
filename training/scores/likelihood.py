"""Scores a VAE by likelihood: rate, distortion and ELBO on the test split, tighter bounds, and what a line would reach.

It owns the protocol and the baselines: a linear model of pixels, the entropy of grey levels, and the mean picture. All
is in nats a picture, of levels 0..255 (a code length).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from training.data.datasets import Images, Parts
from training.losses import elbo_terms, logistic_log_likelihood, to_signed
from training.networks.vae import Vae
from training.scores.measured import Measured

_BATCH_ROWS, _IWAE_ROWS = 250, 50
# Numbers of components that are tried; the best is chosen on held-out pictures.
_COMPONENTS = (8, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 1024, 1536, 2048, 2560)
_CHUNK_ROWS = 5_000
# The time of a linear model grows with the cube of the values of a picture: beyond 32 x 32 in colour, it is hours.
MAX_LINEAR_VALUES = 3_072


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodPlan:
    """How tight a bound is measured, and on how many pictures; `seed` draws latents and noise."""

    iwae_samples: int = 128
    iwae_pictures: int = 1_000
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The mean over pictures, in nats, and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Average [B]."""
        return cls(mean=float(values.double().mean()), error=float(values.double().std() / len(values) ** 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodScores:
    """Bounds on the log-likelihood of test pictures and their parts; ELBO = -(rate + distortion).

    `iwae` and `elbo_of_iwae_pictures` are of the first `iwae_count` test pictures. `linear` is the bound of
    probabilistic PCA with `linear_components`, chosen on held-out pictures; `linear_at_latent` has as many as the
    latent has numbers; all three are None for pictures of more than `MAX_LINEAR_VALUES`. `cross_entropy*` take grey
    levels as probabilities, whose entropy is the floor below any such "loss": `cross_entropy` is of the pictures
    that the latents' means decode to, in expected levels.
    """

    count: int
    num_values: int
    latent: int
    rate: Estimate
    distortion: Estimate
    elbo: Estimate
    iwae_samples: int
    iwae_count: int
    iwae: Estimate
    elbo_of_iwae_pictures: Estimate
    linear_components: int | None
    linear: Estimate | None
    linear_at_latent: Estimate | None
    cross_entropy_floor: float
    cross_entropy: float
    cross_entropy_of_mean_picture: float

    @property
    def bits_a_value(self) -> float:
        """Code length by the ELBO, in bits for each pixel's channel."""
        return -self.elbo.mean / (self.num_values * math.log(2))

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LikelihoodScores:
        """Read what `to_json` made."""
        parsed: dict[str, Any] = {
            name: Estimate(**value) if isinstance(value, dict) else value for name, value in values.items()
        }
        return cls(**parsed)


def score_likelihood(
    network: Vae, parts: Parts, cache: Path, *, identity: str, plan: LikelihoodPlan | None = None
) -> LikelihoodScores:
    """Score a VAE and its baselines on test; `cache` is a scores file, from which what was measured before is read."""
    plan = plan or LikelihoodPlan()
    # Each piece is measured once and read back, so that a scoring can be interrupted.
    network.eval()
    counts = {"counts": [len(parts.train), len(parts.held_out), len(parts.test)]}
    measured = Measured(cache, "likelihood", dataclasses.asdict(plan) | counts | {"identity": identity})
    values: dict[str, Any] = {
        "count": len(parts.test),
        "num_values": parts.test.levels[0].numel(),
        "latent": network.shape.latent,
        "iwae_samples": plan.iwae_samples,
        "iwae_count": min(plan.iwae_pictures, len(parts.test)),
    }
    values |= measured.piece("elbo", lambda: measure_elbo(network, parts.test, plan))
    values |= measured.piece("linear", lambda: measure_linear_model(parts, network.shape.latent, plan.seed))
    values |= measured.piece("cross_entropy", lambda: measure_cross_entropy(network, parts))
    values |= measured.piece("iwae", lambda: measure_iwae(network, parts.test, plan))
    return LikelihoodScores.from_json(values)


@torch.no_grad()
def measure_elbo(network: Vae, test: Images, plan: LikelihoodPlan) -> dict[str, Any]:
    """Rate, distortion and ELBO of every picture, with one latent each."""
    generator, device = torch.Generator().manual_seed(plan.seed), _device(network)
    rates, distortions = [], []
    for batch in _batches(test, "ELBO"):
        noise = torch.randn(len(batch), network.shape.latent, generator=generator)
        # One latent a picture: over ten thousand pictures its randomness averages out.
        terms = elbo_terms(network, batch.levels.to(device), batch.labels.to(device), noise.to(device))
        rates.append(terms.kl.sum(1).cpu())
        distortions.append(terms.distortion.cpu())
    rate, distortion = torch.cat(rates), torch.cat(distortions)
    # -ELBO = rate + distortion: what it costs to send the latent, then the picture.
    parts = {"rate": rate, "distortion": distortion, "elbo": -(rate + distortion)}
    parts["elbo_of_iwae_pictures"] = parts["elbo"][: plan.iwae_pictures]
    return {name: dataclasses.asdict(Estimate.of(values)) for name, values in parts.items()}


@torch.no_grad()
def measure_iwae(network: Vae, test: Images, plan: LikelihoodPlan) -> dict[str, Any]:
    """The importance-weighted bound of the first pictures."""
    generator = torch.Generator().manual_seed(plan.seed)
    chosen = test.take(torch.arange(min(plan.iwae_pictures, len(test))))
    bounds = []
    for batch in _batches(chosen, f"IWAE-{plan.iwae_samples}", _IWAE_ROWS):
        weights = log_weights(network, batch, plan.iwae_samples, generator)
        # log mean_s exp(w_s), over S samples [S,B]: it lies between the ELBO (S = 1) and the likelihood itself, and
        # rises with S (Burda et al. 2016, theorem 1).
        bounds.append(weights.double().logsumexp(0) - math.log(plan.iwae_samples))
    return {"iwae": dataclasses.asdict(Estimate.of(torch.cat(bounds)))}


def log_weights(network: Vae, pictures: Images, num_samples: int, generator: torch.Generator) -> Tensor:
    """Draw latents of each picture: log p(x|z) + log p(z) - log q(z|x), [samples,B], whose mean is the ELBO."""
    device = _device(network)
    levels, one_hot = pictures.levels.to(device), network.one_hot(pictures.labels.to(device))
    mean, log_variance = network.encoder(to_signed(levels), one_hot)
    weights = []
    # Sample by sample: [B,...] at a time, however many samples there are.
    for _ in range(num_samples):
        noise = torch.randn(mean.shape, generator=generator).to(device)
        latents = mean + noise * (0.5 * log_variance).exp()
        location, log_scale = network.decoder(latents, one_hot)
        # The constants of both Gaussians cancel.
        # log p(z) - log q(z|x), with z = mean + noise * deviation: -z²/2 + noise²/2 + log deviation, summed over the
        # latent [B,Z] -> [B].
        ratio = 0.5 * (noise.square() + log_variance - latents.square()).sum(1)
        weights.append((logistic_log_likelihood(levels.float(), location, log_scale) + ratio).cpu())
    return torch.stack(weights)


def measure_linear_model(parts: Parts, latent: int, seed: int) -> dict[str, Any]:
    """The bound of the best probabilistic PCA, and of the one with as many components as the VAE has latents."""
    if parts.train.levels[0].numel() > MAX_LINEAR_VALUES:
        return {"linear_components": None, "linear": None, "linear_at_latent": None}
    # A network has to beat the best linear one: it is fitted in seconds, has a density in closed form, and uses every
    # pixel.
    model = fit_linear_model(parts.train.levels, seed)
    # The last has every component: a Gaussian of full covariance.
    numbers = [*(number for number in _COMPONENTS if number < len(model.mean) - 1), len(model.mean) - 1]
    generator = torch.Generator().manual_seed(seed + 1)
    held_out = model.log_likelihoods(dequantized(parts.held_out.levels, generator), numbers).mean(0)
    best = numbers[int(held_out.argmax())]
    few = min(latent, len(model.mean) - 1)
    test = model.log_likelihoods(dequantized(parts.test.levels, generator), [best, few])
    chosen, at_latent = (dataclasses.asdict(Estimate.of(column)) for column in test.T)
    return {"linear_components": best, "linear": chosen, "linear_at_latent": at_latent}


@torch.no_grad()
def measure_cross_entropy(network: Vae, parts: Parts) -> dict[str, Any]:
    """Cross entropy of grey levels under reconstructions and under the mean picture, and its floor."""
    test, device = parts.test, _device(network)
    # What many papers print as a VAE's loss takes grey levels for probabilities of white. Its floor is the entropy of
    # the pictures themselves, so a figure means little without the floor beside it.
    entropies = []
    for batch in _batches(test, "reconstructions"):
        one_hot = network.one_hot(batch.labels.to(device))
        mean, _ = network.encoder(to_signed(batch.levels.to(device)), one_hot)
        location, log_scale = network.decoder(mean, one_hot)
        entropies.append(cross_entropy(batch.levels, expected_levels(location.cpu(), log_scale.cpu())))
    of_mean = cross_entropy(test.levels, mean_picture(parts.train.levels).expand(test.levels.shape))
    return {
        "cross_entropy_floor": float(grey_level_entropy(test.levels).mean()),
        "cross_entropy": float(torch.cat(entropies).mean()),
        "cross_entropy_of_mean_picture": float(of_mean.mean()),
    }


def expected_levels(location: Tensor, log_scale: Tensor) -> Tensor:
    """The mean level, in 0..1, of logistic distributions over -1..1 whose tails belong to the ends."""
    location, scale = location.double(), log_scale.double().exp()
    # The mean of a clamped variable is its upper end less the integral of its distribution function.
    below = functional.softplus((1 - location) / scale) - functional.softplus((-1 - location) / scale)
    mean = 1 - scale * below
    return ((mean + 1) / 2).clamp(1e-7, 1 - 1e-7)


def _batches(pictures: Images, title: str, num_rows: int = _BATCH_ROWS) -> tqdm[Images]:
    rows = torch.split(torch.arange(len(pictures)), num_rows)
    return tqdm((pictures.take(chosen) for chosen in rows), total=len(rows), desc=title, unit="batch")


def _device(network: Vae) -> torch.device:
    return next(network.parameters()).device


# The baselines.


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
        # Coordinates in the eigenvectors' system, squared: [B,D].
        squares = ((values.double() - self.mean) @ self.eigenvectors).square()
        explained = functional.pad((squares / self.eigenvalues).cumsum(1), (1, 0))
        left_over = squares.sum(1, keepdim=True) - functional.pad(squares.cumsum(1), (1, 0))
        columns = []
        for number in numbers:
            # What the components leave is spread evenly over the other dimensions (Tipping & Bishop 1999, equation 8).
            noise = self.eigenvalues[number:].mean()
            log_volume = self.eigenvalues[:number].log().sum() + (width - number) * noise.log()
            # Mahalanobis: components by their own variances, the rest by the noise.
            distance = explained[:, number] + left_over[:, number] / noise
            columns.append(-0.5 * (width * math.log(2 * math.pi) + log_volume + distance))
        return torch.stack(columns, dim=1)


def fit_linear_model(levels: Tensor, seed: int) -> LinearModel:
    """Fit to uint8 pictures [B,C,H,W] with uniform noise."""
    generator = torch.Generator().manual_seed(seed)
    width = levels[0].numel()
    # Mean and covariance from sums, chunk by chunk: all train pictures as float64 would be 350 MB.
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
    # A density over real numbers, taken at whole levels, could be made as large as one likes; over levels with uniform
    # noise it bounds the probability of the level (Theis et al. 2016, section 3.1).
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
    # A pixel that is black in all train pictures must not be impossible in a test picture.
    least = 0.5 / (255 * len(levels))
    return (levels.double().mean(0) / 255).clamp(least, 1 - least)
