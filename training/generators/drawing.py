"""Draws pictures from a trained network by labels and a seed, which is all that scores and reports need of one.

It owns the calls `(labels [B], seed) -> levels uint8 [B,C,H,W]` and the identity of weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.generators.likelihood import to_levels
from training.generators.prior import Mixture
from training.networks.gan import Generator
from training.networks.vae import Vae

Draw = Callable[[Tensor, int], Tensor]
_BATCH_ROWS = 250


def draw_from_gan(generator: Generator) -> Draw:
    """Draw from standard normal latents."""

    @torch.no_grad()
    def draw(labels: Tensor, seed: int) -> Tensor:
        generator.eval()
        latents = torch.randn(len(labels), generator.shape.latent, generator=torch.Generator().manual_seed(seed))
        device = next(generator.parameters()).device
        return to_levels(generator(latents.to(device), labels.to(device))).cpu()

    return draw


def draw_from_vae(network: Vae, prior: Mixture | None) -> Draw:
    """Draw from the fitted prior, or from the standard normal one where there is none; pixels are the locations."""

    @torch.no_grad()
    def draw(labels: Tensor, seed: int) -> Tensor:
        network.eval()
        generator = torch.Generator().manual_seed(seed)
        if prior is None:
            latents = torch.randn(len(labels), network.shape.latent, generator=generator)
        else:
            latents = prior.draw(labels, generator)
        device = next(network.parameters()).device
        location, _ = network.decoder(latents.to(device), network.one_hot(labels.to(device)))
        return to_levels(location).cpu()

    return draw


def draw_many(draw: Draw, labels: Tensor, seed: int, title: str) -> Tensor:
    """Draw one picture for each of many labels, batch after batch with a seed each, counted up from `seed`."""
    batches = torch.split(labels, _BATCH_ROWS)
    with tqdm(total=len(labels), desc=title, unit="picture") as bar:
        drawn = []
        for place, batch in enumerate(batches):
            drawn.append(draw(batch, seed + place))
            bar.update(len(batch))
    return torch.cat(drawn)


def identity_of(*parts: nn.Module | Mixture) -> str:
    """Hash trained weights, and a prior's tensors, with SHA-256.

    Normalisation statistics are left out: where they are computed anew, they differ in the last bit by machine.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Mixture):
            tensors: dict[str, Tensor] = {"weights": part.weights, "means": part.means, "factors": part.factors}
        else:
            tensors = dict(part.named_parameters())
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
