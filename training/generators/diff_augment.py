"""Random shifts and blanked squares that gradients pass through, the same for real and drawn pictures.

It takes its randomness from the generator it is given. Source: Zhao et al. 2020, arXiv 2006.10738 (the policies
`translation` and `cutout`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def diff_augment(pictures: Tensor, translation: float, cutout: float, generator: torch.Generator) -> Tensor:
    """Change each picture of [B,C,H,W] in -1..1 by itself; what comes in from outside is black (-1)."""
    if translation:
        pictures = _translate(pictures, translation, generator)
    if cutout:
        pictures = _cut_out(pictures, cutout, generator)
    return pictures


def _translate(pictures: Tensor, share: float, generator: torch.Generator) -> Tensor:
    batch, channels, height, width = pictures.shape
    reach = max(round(height * share), 1)
    padded = functional.pad(pictures, (reach,) * 4, value=-1.0)
    top, left = torch.randint(0, 2 * reach + 1, (2, batch), generator=generator)
    rows = top.view(-1, 1, 1, 1) + torch.arange(height).view(1, 1, -1, 1)
    columns = left.view(-1, 1, 1, 1) + torch.arange(width).view(1, 1, 1, -1)
    index = torch.arange(batch).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1), rows, columns
    return padded[tuple(part.to(pictures.device) for part in index)]


def _cut_out(pictures: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set a square to the middle grey; its centre is anywhere, so that it may lie half outside."""
    batch, _, height, width = pictures.shape
    half = max(round(height * share / 2), 1)
    centre_y = torch.randint(0, height, (batch, 1), generator=generator)
    centre_x = torch.randint(0, width, (batch, 1), generator=generator)
    inside_y = (torch.arange(height)[None] - centre_y).abs() < half
    inside_x = (torch.arange(width)[None] - centre_x).abs() < half
    inside = (inside_y[:, :, None] & inside_x[:, None, :]).unsqueeze(1)
    return pictures.masked_fill(inside.to(pictures.device), 0.0)
