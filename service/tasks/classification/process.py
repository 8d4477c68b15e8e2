"""Postprocessing of classifiers: probabilities to predictions, class activation maps to images. No HTTP, no engine."""

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
    """Return the `top_k` most probable of [K] classes, ties by index.

    Probabilities are the network's own; they are not renormalized over the `top_k`.
    """
    values: list[float] = probabilities.tolist()
    if len(values) <= 64:  # for a short list, sorting is cheaper than NumPy
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
    else:
        least = np.partition(probabilities, -top_k)[-top_k]
        candidates = np.flatnonzero(probabilities >= least)
        order = candidates[np.argsort(-probabilities[candidates], kind="stable")][:top_k].tolist()
    return [Prediction(label=labels[i], index=i, probability=values[i]) for i in order]


Pixels = NDArray[np.uint8]

MIN_LONGEST_SIDE = 224
_IMAGE_SHARE = 0.45  # opacity of the grey image where the map is hottest


def explanation_png(image: Pixels, activation_map: NDArray[Any]) -> bytes:
    """Overlay the positive part of `activation_map` [h,w] on `image` uint8 [H,W,C]; return a PNG file.

    The map is scaled to its own maximum; without a positive value the image stays grey. The result is enlarged by a
    whole factor until its longest side has at least 224 pixels.
    """
    height, width = image.shape[:2]
    factor = max(1, ceil(MIN_LONGEST_SIDE / max(height, width)))
    size = width * factor, height * factor
    shown = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    # A whole factor and nearest neighbour: the pixels shown are exactly the network's input.
    grey = np.asarray(shown.convert("L").resize(size, Image.Resampling.NEAREST), np.float32)[:, :, None]
    heat = _heat(activation_map, size)
    colours = colormap(heat)
    share = heat[:, :, None] ** 0.5 * (1 - _IMAGE_SHARE)
    return encode_png((grey * (1 - share) + colours * share).round().astype(np.uint8))


def _heat(activation_map: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """The map scaled to [0, 1] and resized to [H,W], bicubic."""
    positive = np.nan_to_num(activation_map.astype(np.float32), nan=0, posinf=0, neginf=0).clip(0, None)
    peak = float(positive.max())
    if peak > 0:
        positive = positive / peak
    heat = np.asarray(Image.fromarray(positive).resize(size, Image.Resampling.BICUBIC))
    return heat.clip(0, 1)
