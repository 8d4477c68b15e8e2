"""Structural similarity of two pictures, for tests that compare what a viewer would see.

Wang et al. 2004: Gaussian windows of 11 pixels and deviation 1.5, on luminance of 0 to 255.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_OFFSETS = np.arange(-5, 6)
_WINDOW = np.exp(-(_OFFSETS**2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def structural_similarity(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The mean structural similarity of two RGB pictures [H,W,3]; 1 for equal ones."""
    a, b = (picture.astype(np.float64) @ (0.299, 0.587, 0.114) for picture in (one, other))
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a = _blurred(a * a) - mean_a**2
    variance_b = _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return float((luminance * structure).mean())


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The window's weighted mean at each place where it fits."""
    height, width = (size - len(_WINDOW) + 1 for size in values.shape)
    rows = np.sum([w * values[i : i + height] for i, w in enumerate(_WINDOW)], axis=0)
    blurred: NDArray[np.float64] = np.sum([w * rows[:, i : i + width] for i, w in enumerate(_WINDOW)], axis=0)
    return blurred
