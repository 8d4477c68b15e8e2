"""Sample files, and builders of unusual ones."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DATA = Path(__file__).parent.parent / "data"


def sample(name: str) -> bytes:
    """A file of tests/data."""
    return (DATA / name).read_bytes()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """A reproducible image in which no two regions look alike."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png_header(width: int, height: int) -> bytes:
    """The signature and header of an 8-bit grey PNG that claims this size."""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def png_with(chunk: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return body[:33] + chunk + body[33:]


def jpeg_with(marker: int, payload: bytes, body: bytes) -> bytes:
    """A JPEG with one more segment at its beginning."""
    return body[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + body[2:]
