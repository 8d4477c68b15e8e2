"""Random changes to a batch of images: shift, small affine warp, flip, erasing and mixing, vectorised over the batch.

It owns the geometry and takes its randomness from the generator it is given. It knows neither data sets nor epochs.
Sources: alternating flip, Jordan 2024, arXiv 2404.00498; erasing, arXiv 1708.04896; mixing is CutMix, arXiv 1905.04899.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How much to change each image; zero switches a change off."""

    crop_padding: int = 0
    reflect: bool = False
    flip: bool = False
    erase_probability: float = 0.0
    erase_max_area: float = 0.33
    mix_probability: float = 0.0
    rotation_degrees: float = 0.0
    zoom: float = 0.0


def move(images: Tensor, flips: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Flip, warp and shift float [B,C,H,W] images where zero is black; `flips` says which rows to mirror."""
    if settings.flip:
        images = torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)
    if settings.rotation_degrees or settings.zoom:
        images = _warp(images, settings, generator)
    if settings.crop_padding:
        images = _shift(images, settings, generator)
    return images


def _shift(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Pad and crop back at a random place, as one gather."""
    batch, channels, height, width = images.shape
    pad = settings.crop_padding
    padded = functional.pad(images, (pad,) * 4, mode="reflect" if settings.reflect else "constant")
    top, left = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator)
    rows = top.view(-1, 1, 1, 1) + torch.arange(height).view(1, 1, -1, 1)
    columns = left.view(-1, 1, 1, 1) + torch.arange(width).view(1, 1, 1, -1)
    index = torch.arange(batch).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1), rows, columns
    return padded[index]


def _warp(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotate and zoom (each axis by itself) around the centre, bilinearly; outside is black."""
    uniform = torch.rand(3, len(images), generator=generator) * 2 - 1
    angle = uniform[0] * math.radians(settings.rotation_degrees)
    zoom_x, zoom_y = 1 + uniform[1] * settings.zoom, 1 + uniform[2] * settings.zoom
    zero = torch.zeros_like(angle)
    first_row = torch.stack((angle.cos() * zoom_x, -angle.sin() * zoom_x, zero), dim=1)
    second_row = torch.stack((angle.sin() * zoom_y, angle.cos() * zoom_y, zero), dim=1)
    grid = functional.affine_grid(torch.stack((first_row, second_row), dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def erase(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Overwrite a rectangle of normalised [B,C,H,W] images with Gaussian noise, in a share of the rows.

    The area is 2 % to `erase_max_area`, the aspect 0.3 to 3.3.
    """
    if not settings.erase_probability:
        return images
    inside = _random_boxes(images, settings.erase_probability, settings.erase_max_area, generator)
    noise = torch.randn(images.shape, generator=generator)
    return torch.where(inside, noise, images)


def mix(images: Tensor, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Paste a rectangle (up to half the image) of another row into a share of the rows.

    Returns the images, the row each one borrows from, and the part of its pixels that is borrowed, [B] each.
    """
    if not settings.mix_probability:
        return images, torch.arange(len(images)), torch.zeros(len(images))
    partners = torch.randperm(len(images), generator=generator)
    inside = _random_boxes(images, settings.mix_probability, 0.5, generator)
    return torch.where(inside, images[partners], images), partners, inside.float().mean((1, 2, 3))


def _random_boxes(images: Tensor, probability: float, max_area: float, generator: torch.Generator) -> Tensor:
    """Mark one rectangle in each of a share of the rows: bool [B,1,H,W]."""
    batch, _, height, width = images.shape
    chosen, area, aspect, place_y, place_x = torch.rand(5, batch, generator=generator)
    area = (0.02 + area * (max_area - 0.02)) * height * width
    aspect = torch.exp((aspect * 2 - 1) * math.log(1 / 0.3))
    box_height = (area * aspect).sqrt().clamp(max=height).round()
    box_width = (area / aspect).sqrt().clamp(max=width).round()
    top, left = (place_y * (height - box_height)).round(), (place_x * (width - box_width)).round()
    rows, columns = torch.arange(height).view(1, -1), torch.arange(width).view(1, -1)
    inside_y = (rows >= top.view(-1, 1)) & (rows < (top + box_height).view(-1, 1))
    inside_x = (columns >= left.view(-1, 1)) & (columns < (left + box_width).view(-1, 1))
    inside = inside_y.unsqueeze(2) & inside_x.unsqueeze(1) & (chosen < probability).view(-1, 1, 1)
    boxes: Tensor = inside.unsqueeze(1)
    return boxes
