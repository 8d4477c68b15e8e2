"""The pictures of reports and previews: grids, a row for each label, reconstructions, and a walk over latents.

It owns what is drawn and how it is laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.data.datasets import Images
from training.data.photographs import Painting
from training.losses import to_levels, to_signed
from training.networks.stylizer import Stylizer, paint
from training.networks.vae import Vae
from training.scores.generators import Draw

PREVIEW_FILE, PREVIEW_JPEG = "preview.png", "preview.jpg"
SAMPLES_FILE, PLAIN_SAMPLES_FILE = "samples.png", "samples-standard-normal.png"
RECONSTRUCTIONS_FILE, WALK_FILE = "reconstructions.png", "walk.png"
_GAP_PIXELS = 2
_NUM_COLUMNS = 14
_NUM_RECONSTRUCTED = 3
_WALK_SIDE = 11
_SEED = 0


def write_grid(path: Path, levels: Tensor, num_columns: int, scale: int = 2) -> None:
    """Write uint8 pictures [B,C,H,W], row by row on white, `scale` times their size."""
    batch, channels, height, width = levels.shape
    num_lines = -(-batch // num_columns)
    cell_height, cell_width = height + _GAP_PIXELS, width + _GAP_PIXELS
    sheet = np.full(
        (num_lines * cell_height - _GAP_PIXELS, num_columns * cell_width - _GAP_PIXELS, channels), 255, np.uint8
    )
    for place, picture in enumerate(levels.permute(0, 2, 3, 1).cpu().numpy()):
        top, left = (place // num_columns) * cell_height, (place % num_columns) * cell_width
        sheet[top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    size = (image.width * scale, image.height * scale)
    image.resize(size, Image.Resampling.NEAREST).save(path, quality=92)  # of JPEGs; PNGs have no quality


# Style transfer.


def write_style_grid(path: Path, network: Stylizer, photographs: Tensor, paintings: Sequence[Painting]) -> None:
    """Paint photographs [B,3,H,W] in every style: photographs down, styles across, the paintings on top."""
    height, width = photographs.shape[2:]
    top = [np.asarray(ImageOps.fit(Image.fromarray(painting.picture), (width, height))) for painting in paintings]
    heads = torch.from_numpy(np.stack(top)).permute(0, 3, 1, 2)  # [S,3,H,W]
    blank = torch.full_like(heads[:1], 255)
    columns = [paint(network, photographs, style) for style in range(len(paintings))]
    # [B,1+S,3,H,W]: each photograph, and what becomes of it in each style.
    rows = torch.stack([photographs, *columns], 1).round().clamp(0, 255).byte()
    write_grid(path, torch.cat([blank, heads, rows.flatten(0, 1)]), len(paintings) + 1, scale=1)


# Generators.


def write_samples(path: Path, draw: Draw, num_labels: int) -> None:
    """Draw a row of pictures for each label; nothing is picked."""
    labels = torch.arange(num_labels).repeat_interleave(_NUM_COLUMNS)
    write_grid(path, draw(labels, _SEED), _NUM_COLUMNS)


@torch.no_grad()
def write_reconstructions(path: Path, network: Vae, test: Images) -> None:
    """Draw the first pictures of test, each above its reconstruction from the mean of its latent."""
    lines = []
    # Always the first of the test split: picked ones would show the picker.
    for first in range(0, _NUM_RECONSTRUCTED * _NUM_COLUMNS, _NUM_COLUMNS):
        batch = test.take(torch.arange(first, first + _NUM_COLUMNS) % len(test))
        mean, one_hot = _encode(network, batch)
        lines += [batch.levels, _decode(network, mean, one_hot)]
    write_grid(path, torch.cat(lines), _NUM_COLUMNS)


@torch.no_grad()
def write_walk(path: Path, network: Vae, test: Images) -> None:
    """Draw a plane of latents whose corners are those of four test pictures of different labels, the first of each."""
    labels = torch.from_numpy(np.unique(test.labels.numpy()))
    chosen = labels[torch.linspace(0, len(labels) - 1, 4).round().long()]
    corners = test.take(torch.stack([(test.labels == label).nonzero()[0, 0] for label in chosen]))
    mean, one_hot = _encode(network, corners)
    # [11,11] places on a square; the four products below are bilinear weights, and sum to one at each place.
    down, right = torch.meshgrid(*[torch.linspace(0, 1, _WALK_SIDE)] * 2, indexing="ij")
    shares = torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], -1)
    shares = shares.flatten(0, 1).to(mean.device)
    # Where the network is conditioned, the condition is mixed like the latents.
    conditions = None if one_hot is None else shares @ one_hot
    write_grid(path, _decode(network, shares @ mean, conditions), _WALK_SIDE)


def _encode(network: Vae, pictures: Images) -> tuple[Tensor, Tensor | None]:
    device = next(network.parameters()).device
    one_hot = network.one_hot(pictures.labels.to(device))
    mean, _ = network.encoder(to_signed(pictures.levels.to(device)), one_hot)
    return mean, one_hot


def _decode(network: Vae, latents: Tensor, one_hot: Tensor | None) -> Tensor:
    return to_levels(network.decoder(latents, one_hot)[0]).cpu()
