"""Random changes to a batch of images, vectorised over the batch: shift, warp, flip, erasing, mixing, and DiffAugment.

It owns the geometry and takes its randomness from the generator it is given, which lies on the images' device: nothing
waits for another. It knows neither data sets nor epochs.
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
        pad = settings.crop_padding
        padded = functional.pad(images, (pad,) * 4, mode="reflect" if settings.reflect else "constant")
        images = _random_crop(padded, pad, generator)
    return images


def _random_crop(padded: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Crop images [B,C,H+2*pad,W+2*pad] to [B,C,H,W], each at a place of its own, as one gather."""
    batch, channels, height, width = padded.shape
    top, left = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator, device=generator.device)  # [B] each
    # Four index tensors that broadcast to [B,C,H,W]: a loop over the batch would take longer than the training step.
    index = (
        torch.arange(batch).view(-1, 1, 1, 1),
        torch.arange(channels).view(1, -1, 1, 1),
        top.view(-1, 1, 1, 1) + torch.arange(height - 2 * pad).view(1, 1, -1, 1),
        left.view(-1, 1, 1, 1) + torch.arange(width - 2 * pad).view(1, 1, 1, -1),
    )
    return padded[tuple(part.to(padded.device) for part in index)]


def _warp(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotate and zoom (each axis by itself) around the centre, bilinearly; outside is black."""
    uniform = torch.rand(3, len(images), generator=generator, device=generator.device) * 2 - 1  # [3,B] in -1..1
    angle = uniform[0] * math.radians(settings.rotation_degrees)
    zoom_x, zoom_y = 1 + uniform[1] * settings.zoom, 1 + uniform[2] * settings.zoom
    zero = torch.zeros_like(angle)
    # An affine map for each image, [B,2,3]: from a place in the result to the place in the original that it shows.
    first_row = torch.stack((angle.cos() * zoom_x, -angle.sin() * zoom_x, zero), dim=1)
    second_row = torch.stack((angle.sin() * zoom_y, angle.cos() * zoom_y, zero), dim=1)
    grid = functional.affine_grid(torch.stack((first_row, second_row), dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)  # the grid is [B,H,W,2]


def erase(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Overwrite a rectangle of normalised [B,C,H,W] images with Gaussian noise, in a share of the rows.

    The area is 2 % to `erase_max_area`, the aspect 0.3 to 3.3 (Zhong et al. 2017, arXiv 1708.04896, algorithm 1).
    """
    if not settings.erase_probability:
        return images
    inside = _random_boxes(images, settings.erase_probability, settings.erase_max_area, generator)
    # Normalised pixels have mean 0 and variance 1, so this noise is as bright as an image and shows no shape.
    noise = torch.randn(images.shape, generator=generator, device=generator.device)
    return torch.where(inside, noise, images)


def mix(images: Tensor, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Paste a rectangle (up to half the image) of another row into a share of the rows (CutMix, arXiv 1905.04899).

    Returns the images, the row each one borrows from, and the part of its pixels that is borrowed, [B] each.
    """
    if not settings.mix_probability:
        return images, torch.arange(len(images), device=images.device), torch.zeros(len(images), device=images.device)
    partners = torch.randperm(len(images), generator=generator, device=generator.device)
    inside = _random_boxes(images, settings.mix_probability, 0.5, generator)
    return torch.where(inside, images[partners], images), partners, inside.float().mean((1, 2, 3))


def _random_boxes(images: Tensor, probability: float, max_area: float, generator: torch.Generator) -> Tensor:
    """Mark one rectangle in each of a share of the rows: bool [B,1,H,W]."""
    batch, _, height, width = images.shape
    chosen, area, aspect, place_y, place_x = torch.rand(5, batch, generator=generator, device=generator.device)
    area = (0.02 + area * (max_area - 0.02)) * height * width
    # Uniform in the logarithm: a box twice as wide as high is as likely as one twice as high as wide.
    aspect = torch.exp((aspect * 2 - 1) * math.log(1 / 0.3))
    box_height = (area * aspect).sqrt().clamp(max=height).round()
    box_width = (area / aspect).sqrt().clamp(max=width).round()
    top, left = (place_y * (height - box_height)).round(), (place_x * (width - box_width)).round()
    inside_y = _between(height, top, top + box_height)  # [B,H]
    inside_x = _between(width, left, left + box_width)  # [B,W]
    inside = inside_y.unsqueeze(2) & inside_x.unsqueeze(1) & (chosen < probability).view(-1, 1, 1)  # [B,H,W]
    boxes: Tensor = inside.unsqueeze(1)
    return boxes


def _between(size: int, first: Tensor, end: Tensor) -> Tensor:
    """Mark the places from `first` [B] up to `end` [B] on an axis: bool [B,size]."""
    places = torch.arange(size, device=first.device).view(1, -1)
    return (places >= first.view(-1, 1)) & (places < end.view(-1, 1))


def diff_augment(pictures: Tensor, translation: float, cutout: float, generator: torch.Generator) -> Tensor:
    """Shift pictures [B,C,H,W] in -1..1 and blank a square of each, so that gradients pass through to the pixels.

    A discriminator learns a small data set by heart. Shown changed pictures it cannot; but if only the real ones were
    changed, the generator would learn to draw the changes. So both are changed alike, and what the discriminator says
    of a changed picture must reach the generator (Zhao et al. 2020, arXiv 2006.10738, section 3.2).
    """
    if translation:
        pad = max(round(pictures.shape[2] * translation), 1)
        pictures = _random_crop(functional.pad(pictures, (pad,) * 4, value=-1.0), pad, generator)  # -1 is black
    if cutout:
        pictures = _cut_out(pictures, cutout, generator)
    return pictures


def _cut_out(pictures: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set a square to the middle grey; its centre is anywhere, so that it may lie half outside."""
    batch, _, height, width = pictures.shape
    half = max(round(height * share / 2), 1)
    centre_y = torch.randint(0, height, (batch, 1), generator=generator, device=generator.device)
    centre_x = torch.randint(0, width, (batch, 1), generator=generator, device=generator.device)
    inside_y = (torch.arange(height, device=generator.device)[None] - centre_y).abs() < half  # [B,H]
    inside_x = (torch.arange(width, device=generator.device)[None] - centre_x).abs() < half  # [B,W]
    inside = (inside_y[:, :, None] & inside_x[:, None, :]).unsqueeze(1)  # [B,1,H,W]
    return pictures.masked_fill(inside.to(pictures.device), 0.0)
