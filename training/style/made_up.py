"""Pictures and a VGG16 that are made up, to try the whole path without data and without a download.

A network trained on them paints nothing worth seeing: they serve dry runs.
"""

from __future__ import annotations

import numpy as np
import torch

from training.networks.vgg import LAYERS, Vgg16
from training.style.pictures import Painting, Photographs, Picture, sha256_of

_NUM_TRAIN = 8


def random_vgg(seed: int = 0) -> Vgg16:
    """Make VGG16 with random weights that keep the size of what passes through them."""
    generator = torch.Generator().manual_seed(seed)
    weights, channels_in = {}, 3
    for group, channels_out in zip(LAYERS, (64, 128, 256, 512), strict=True):
        for name in group:
            kernels = torch.randn(channels_out, channels_in, 3, 3, generator=generator)
            weights[f"{name}.weight"] = kernels * (2 / (9 * channels_in)) ** 0.5
            weights[f"{name}.bias"] = torch.zeros(channels_out)
            channels_in = channels_out
    return Vgg16(weights, torch.full((3,), 127.5))


def made_up_paintings(names: tuple[str, ...] = ("stripes", "dots"), pixels: int = 48) -> list[Painting]:
    """Make a painting a name, of stripes in two colours."""
    place = np.arange(pixels)
    paintings = []
    for index, name in enumerate(names):
        stripes = (place[None] // (3 + index) + place[:, None] // (5 + index)) % 2
        colours = np.random.default_rng(index).integers(0, 256, (2, 3), dtype=np.uint8)
        paintings.append(Painting(name, colours[stripes]))
    return paintings


def made_up_photographs(num_held_out: int, seed: int = 0) -> Photographs:
    """Make photographs of coloured blocks with grain, upright and wide."""
    generator = np.random.default_rng(seed)
    pictures: list[Picture] = []
    for index in range(_NUM_TRAIN + num_held_out):
        blocks = generator.integers(0, 200, (4, 5, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
        fine = blocks + generator.integers(0, 56, blocks.shape, dtype=np.uint8)
        pictures.append(fine if index % 2 else fine.transpose(1, 0, 2))
    return Photographs(pictures[num_held_out:], pictures[:num_held_out], sha256_of(pictures))
