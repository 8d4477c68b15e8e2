"""How strange a picture is to a model: the nats that the model needs for it, less what any picture so complex needs.

The likelihood alone ranks plain pictures of anything above detailed ones of what was learnt: handwritten digits need
fewer nats than garments. What a general compressor needs tells how detailed a picture is. Source: Serrà et al. 2020,
arXiv 1909.11480.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_EMPTY_PNG_BYTES = 57
"""What a PNG file of any size has around its compressed pixels: the signature and the frames of three chunks."""


def complexity_nats(pixels: NDArray[np.uint8]) -> float:
    """The size of a picture [H,W,C] as an optimised PNG file, in nats."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return (file.tell() - _EMPTY_PNG_BYTES) * 8 * math.log(2)


def anomaly_score(negative_elbo: float, pixels: NDArray[np.uint8]) -> float:
    """The nats that a model needs for a picture [H,W,C] beyond those of a PNG file: the higher, the stranger."""
    return negative_elbo - complexity_nats(pixels)
