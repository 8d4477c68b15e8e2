"""The pictures of a report: a row for each label, reconstructions, and a walk over a plane of latents, as PNG files.

It owns what is drawn; the layout is `preview.py`'s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.generators.drawing import Draw
from training.generators.likelihood import to_levels, to_signed
from training.generators.parts import Pictures
from training.generators.preview import write_grid
from training.networks.vae import Vae

SAMPLES_FILE, PLAIN_SAMPLES_FILE = "samples.png", "samples-standard-normal.png"
RECONSTRUCTIONS_FILE, WALK_FILE = "reconstructions.png", "walk.png"
_NUM_COLUMNS = 14
_NUM_RECONSTRUCTED = 3
_WALK_SIDE = 11
_SEED = 0


def write_samples(path: Path, draw: Draw, num_labels: int) -> None:
    """Draw a row of pictures for each label; nothing is picked."""
    labels = torch.arange(num_labels).repeat_interleave(_NUM_COLUMNS)
    write_grid(path, draw(labels, _SEED), _NUM_COLUMNS)


@torch.no_grad()
def write_reconstructions(path: Path, network: Vae, test: Pictures) -> None:
    """Draw the first pictures of test, each above its reconstruction from the mean of its latent."""
    lines = []
    for first in range(0, _NUM_RECONSTRUCTED * _NUM_COLUMNS, _NUM_COLUMNS):
        batch = test.take(torch.arange(first, first + _NUM_COLUMNS) % len(test))
        mean, one_hot = _encode(network, batch)
        lines += [batch.levels, _decode(network, mean, one_hot)]
    write_grid(path, torch.cat(lines), _NUM_COLUMNS)


@torch.no_grad()
def write_walk(path: Path, network: Vae, test: Pictures) -> None:
    """Draw a plane of latents whose corners are those of four test pictures of different labels, the first of each."""
    labels = torch.from_numpy(np.unique(test.labels.numpy()))
    chosen = labels[torch.linspace(0, len(labels) - 1, 4).round().long()]
    corners = test.take(torch.stack([(test.labels == label).nonzero()[0, 0] for label in chosen]))
    mean, one_hot = _encode(network, corners)
    down, right = torch.meshgrid(*[torch.linspace(0, 1, _WALK_SIDE)] * 2, indexing="ij")
    shares = torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], -1)
    shares = shares.flatten(0, 1).to(mean.device)
    # Where the network is conditioned, the condition is mixed like the latents.
    conditions = None if one_hot is None else shares @ one_hot
    write_grid(path, _decode(network, shares @ mean, conditions), _WALK_SIDE)


def _encode(network: Vae, pictures: Pictures) -> tuple[Tensor, Tensor | None]:
    device = next(network.parameters()).device
    one_hot = network.one_hot(pictures.labels.to(device))
    mean, _ = network.encoder(to_signed(pictures.levels.to(device)), one_hot)
    return mean, one_hot


def _decode(network: Vae, latents: Tensor, one_hot: Tensor | None) -> Tensor:
    return to_levels(network.decoder(latents, one_hot)[0]).cpu()
