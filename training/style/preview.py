"""The grid that shows what a network paints: photographs down, styles across, the paintings on top.

It owns the layout only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.networks.stylizer import Stylizer
from training.style.pictures import Painting, Picture

_GAP = 4


@torch.no_grad()
def paint(network: Stylizer, photographs: Tensor, style: int) -> Tensor:
    """Paint photographs [B,3,H,W] in one style, in float32, on the network's own device."""
    device = network.scale.device
    weights = torch.zeros(len(photographs), network.shape.num_styles, device=device)
    weights[:, style] = 1
    painted: Tensor = network(photographs.to(device), weights)
    return painted.float().cpu()


def to_pixels(pictures: Tensor) -> list[Picture]:
    """Turn pictures [B,3,H,W] of 0 to 255 into arrays [H,W,3]."""
    return list(pictures.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy())


def grid(rows: Sequence[Sequence[Picture]]) -> Image.Image:
    """Lay pictures of one size out in rows, on white."""
    height, width = rows[0][0].shape[:2]
    size = (len(rows[0]) * (width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, "white")
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (column * (width + _GAP), line * (height + _GAP)))
    return sheet


def style_grid(network: Stylizer, photographs: Tensor, paintings: Sequence[Painting]) -> Image.Image:
    """Paint every photograph [B,3,H,W] in every style, under the paintings."""
    side = (photographs.shape[3], photographs.shape[2])
    top = [np.asarray(ImageOps.fit(Image.fromarray(painting.picture), side)) for painting in paintings]
    columns = [to_pixels(paint(network, photographs, style)) for style in range(len(paintings))]
    originals = to_pixels(photographs)
    rows = [[original, *(column[i] for column in columns)] for i, original in enumerate(originals)]
    return grid([[np.full_like(originals[0], 255), *top], *rows])


def write_grid(path: Path, image: Image.Image) -> None:
    """Write a grid as a JPEG of high quality."""
    image.save(path, quality=92)
