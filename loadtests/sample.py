"""Bodies to post: the first golden input of a model version, as raw bytes and as PNG.

It knows the files of a version folder, not what serves them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GOLDEN_FILE = "golden.npz"


def golden_images(folder: Path) -> NDArray[Any]:
    """The golden input images of a version: uint8[B,H,W,C].

    Raises: OSError, ValueError when the version takes no images.
    """
    with np.load(folder / _GOLDEN_FILE, allow_pickle=False) as archive:
        for key in archive.files:
            if key.endswith("/input/image"):
                images: NDArray[Any] = archive[key]
                return images
        raise ValueError(f"{folder / _GOLDEN_FILE} holds {archive.files}; it must hold an input called 'image'.")


def encode_png(image: NDArray[Any]) -> bytes:
    """One image uint8[H,W,C], C 1 or 3, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def write_bodies(folder: Path, output: Path) -> dict[str, Path]:
    """Write the first golden image of a version below `output`: a file a media type."""
    image = golden_images(folder)[0]
    target = output / folder.parent.name
    target.mkdir(parents=True, exist_ok=True)
    bodies = {"application/octet-stream": target / "image.raw", "image/png": target / "image.png"}
    bodies["application/octet-stream"].write_bytes(image.tobytes())
    bodies["image/png"].write_bytes(encode_png(image))
    return bodies
