"""Grids of small pictures, as PNG files: one row a label, drawn on the way and at the end.

It owns the layout; it knows no network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

PREVIEW_FILE = "preview.png"
_GAP_PIXELS = 2
_SCALE = 2


def write_grid(path: Path, levels: Tensor, num_columns: int) -> None:
    """Write uint8 pictures [B,C,H,W], row by row, at twice their size."""
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
    image.resize((image.width * _SCALE, image.height * _SCALE), Image.Resampling.NEAREST).save(path)
