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


def jpeg_with_scans(width: int, height: int, num_scans: int) -> bytes:
    """A progressive JPEG in colours whose scans, after the first, refine nothing, in a few bytes."""
    tables = b"".join(
        struct.pack(">BBHB17B", 0xFF, 0xC4, 20, kind, 1, *bytes(15), 0xE0 & kind << 4) for kind in (0, 16)
    )
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"".join(bytes([index, 0x11, 0]) for index in (1, 2, 3))
    first = struct.pack(">BBHB", 0xFF, 0xDA, 12, 3) + b"\1\0\2\0\3\0\0\0\0"
    run = int("0" + "1" * 14 + "1", 2).to_bytes(2, "big").replace(b"\xff", b"\xff\0")  # of 32767 blocks without any
    data = run * -(-width * height // 64 // 32767)
    others = [struct.pack(">BBHBBB3B", 0xFF, 0xDA, 8, 1, 1 + n % 3, 0, 1, 63, 16) + data for n in range(num_scans - 1)]
    quantisation = struct.pack(">BBHB", 0xFF, 0xDB, 67, 0) + bytes([1] * 64)
    return b"".join(
        (b"\xff\xd8", quantisation, struct.pack(">BBH", 0xFF, 0xC2, 17), frame, tables, first, *others, b"\xff\xd9")
    )


def png_with(chunk: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return body[:33] + chunk + body[33:]


def jpeg_with(marker: int, payload: bytes, body: bytes) -> bytes:
    """A JPEG with one more segment at its beginning."""
    return body[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + body[2:]
