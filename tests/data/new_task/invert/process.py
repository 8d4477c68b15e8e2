"""Inversion without HTTP or the engine: pixels to pixels."""

from __future__ import annotations

import numpy as np

from service.tasks.image_decoding import Pixels


def blended(below: Pixels, inverted: Pixels, strength: float) -> Pixels:
    """Lay an inverted image [H,W,C] on the image itself."""
    return np.rint(below + (inverted.astype(np.float32) - below) * strength).astype(np.uint8)
