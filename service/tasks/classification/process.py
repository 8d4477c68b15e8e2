"""Image classification without HTTP or the engine: probabilities to predictions, class activation maps to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import encode_png
from service.tasks.classification.schema import Prediction
from service.tasks.colormap import colormap


def top_predictions(probabilities: NDArray[Any], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """Rank the `top_k` most probable of [K] classes, ties by index.

    The probabilities are those of the network, as Python floats; those of the classes left out are not redistributed.
    """
    values: list[float] = probabilities.tolist()
    if len(values) <= 64:  # sorting a short list costs less than calling NumPy
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
    else:
        least = np.partition(probabilities, -top_k)[-top_k]
        candidates = np.flatnonzero(probabilities >= least)
        order = candidates[np.argsort(-probabilities[candidates], kind="stable")][:top_k].tolist()
    return [Prediction(label=labels[i], index=i, probability=values[i]) for i in order]


Pixels = NDArray[np.uint8]

MIN_LONGEST_SIDE = 224
_IMAGE_SHARE = 0.45  # how much of the grey image shows where the map is hottest


def explanation_png(image: Pixels, activation_map: NDArray[Any]) -> bytes:
    """Draw the positive part of `activation_map` [h,w] over `image` uint8 [H,W,C], as a PNG file.

    The map is scaled to its own maximum; where nothing is positive the image stays grey. The result is enlarged by a
    whole factor until its longest side has at least 224 pixels.
    """
    height, width = image.shape[:2]
    factor = max(1, ceil(MIN_LONGEST_SIDE / max(height, width)))
    size = width * factor, height * factor
    shown = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    # Whole factor, nearest: the caller sees the very pixels that the network saw.
    grey = np.asarray(shown.convert("L").resize(size, Image.Resampling.NEAREST), np.float32)[:, :, None]
    heat = _heat(activation_map, size)
    colours = colormap(heat)
    share = heat[:, :, None] ** 0.5 * (1 - _IMAGE_SHARE)
    return encode_png((grey * (1 - share) + colours * share).round().astype(np.uint8))


def _heat(activation_map: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """The map as [H,W] of 0 to 1, interpolated smoothly."""
    positive = np.nan_to_num(activation_map.astype(np.float32), nan=0, posinf=0, neginf=0).clip(0, None)
    peak = float(positive.max())
    if peak > 0:
        positive = positive / peak
    heat = np.asarray(Image.fromarray(positive).resize(size, Image.Resampling.BICUBIC))
    return heat.clip(0, 1)
