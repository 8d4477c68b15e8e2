"""Images to post: golden inputs of model versions, and photographs cut to a size as JPEG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from loadtests.servers import ROOT

_GOLDEN_FILE = "golden.npz"
PHOTOGRAPHS = ROOT / "loadtests" / "photos"
_JPEG_QUALITY = 90
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


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


def read_photographs(folder: Path) -> list[Image.Image]:
    """The photographs of a folder, in the order of their names.

    Raises: OSError when there are none.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} holds no photographs; it must hold {', '.join(sorted(_SUFFIXES))}.")
    photographs = []
    for file in files:
        with Image.open(file) as image:
            photographs.append(ImageOps.exif_transpose(image).convert("RGB"))
    return photographs


def resized_jpeg(photograph: Image.Image, width: int, height: int) -> bytes:
    """The middle of a photograph at this size, enlarged where it is smaller, as JPEG."""
    buffer = io.BytesIO()
    fitted = ImageOps.fit(photograph, (width, height), Image.Resampling.LANCZOS)
    fitted.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
