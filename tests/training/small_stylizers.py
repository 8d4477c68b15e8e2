"""Small stylizers with loud tables, a perceptual loss over random features, and pictures for both."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.data.photographs import Picture, centre, made_up_paintings, made_up_photographs, to_tensor
from training.losses import PerceptualLoss
from training.networks.stylizer import Stylizer, StylizerShape
from training.networks.vgg import Vgg16, random_vgg


def small_stylizer(num_styles: int = 3, num_blocks: int = 1, seed: int = 0) -> Stylizer:
    """Make a stylizer whose styles differ."""
    torch.manual_seed(seed)
    network = Stylizer(StylizerShape(num_styles=num_styles, num_blocks=num_blocks))
    with torch.no_grad():
        network.scale.normal_(1, 0.3)
        network.shift.normal_(0, 0.3)
    return network.eval()


@functools.cache
def small_vgg() -> Vgg16:
    """VGG16 with random weights, made once."""
    return random_vgg()


def small_photographs(num_pictures: int = 4, side: int = 32) -> torch.Tensor:
    """Photographs [B,3,H,W]."""
    return torch.stack([centre(picture, side) for picture in photographs(num_pictures)])


def photographs(num_pictures: int = 4) -> list[Picture]:
    """Photographs as arrays."""
    return made_up_photographs(num_pictures).held_out


def small_loss(num_styles: int = 2, style_weight: float = 5.0) -> PerceptualLoss:
    """A loss towards made-up paintings."""
    names = tuple(f"style_{index}" for index in range(num_styles))
    paintings = [to_tensor(painting.picture) for painting in made_up_paintings(names)]
    return PerceptualLoss(
        small_vgg(), paintings, small_photographs(), content_layer="conv3_3", style_weight=style_weight
    )


def write_pictures(folder: Path, pictures: dict[str, Picture]) -> Path:
    """Write PNG files into a new folder."""
    folder.mkdir()
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def write_vgg(path: Path) -> Path:
    """Write the random VGG16 as a file of the Caffe edition."""
    arrays = {
        name: small_vgg().get_buffer(name.replace(".", "_")).numpy()
        for name in (key.replace("_weight", ".weight").replace("_bias", ".bias") for key in small_vgg().state_dict())
        if name != "mean"
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path
