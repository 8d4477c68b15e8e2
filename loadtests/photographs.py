"""Photographs to post, cut or enlarged to the sizes that a benchmark wants, as JPEG. It knows no service."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from loadtests.servers import ROOT

SAMPLES = ROOT / "loadtests" / "photos"
JPEG_QUALITY = 90
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


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
    fitted.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
