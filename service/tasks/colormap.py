"""A heat-map colormap, matplotlib's inferno: from black over violet, red and orange to pale yellow.

Its lightness increases uniformly, so it is readable in grey too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ANCHORS = "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4"


def _colour_table() -> NDArray[np.uint8]:
    """The 256 colours [256,3], interpolated linearly between the anchors."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _ANCHORS.split()])
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


COLOURS = _colour_table()
"""uint8 [256,3], from low to high."""


def colormap(heat: NDArray[Any]) -> NDArray[np.uint8]:
    """Map values in [0, 1] of any shape [...] to colours uint8 [...,3]."""
    return COLOURS[(heat * 255).round().astype(np.uint8)]
