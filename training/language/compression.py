"""How well general compressors do on a text, alone and when they have read the train text before: bits a byte.

It owns the measure and the settings that are tried; it knows no models. PPMd: Shkarin 2002 (variant H, as in 7-Zip).
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterable

import pyppmd

# Room for all contexts of some 20 MB of text: the model is never thrown away and begun anew.
PPMD_MEMORY_BYTES = 1 << 30
PPMD_ORDERS = (6, 10, 16)

Compress = Callable[[Iterable[bytes]], int]


def xz_bytes(parts: Iterable[bytes]) -> int:
    """Count the bytes that `xz -9e` makes of all parts together; its window of 64 MiB spans them."""
    return len(lzma.compress(b"".join(parts), preset=9 | lzma.PRESET_EXTREME))


def ppmd_bytes(parts: Iterable[bytes], order: int) -> int:
    """Count the bytes that PPMd makes of all parts together."""
    encoder = pyppmd.Ppmd7Encoder(order, PPMD_MEMORY_BYTES)
    return sum(len(encoder.encode(part)) for part in parts if part) + len(encoder.flush())


def bits_per_byte(compress: Compress, text: bytes) -> float:
    """Measure a compressor on a text alone."""
    return 8 * compress([text]) / len(text)


def primed_bits_per_byte(compress: Compress, primer: bytes, text: bytes, num_primer_bytes: int | None = None) -> float:
    """Measure what a text adds to the compressed primer; `num_primer_bytes` is its compressed size, if known."""
    before = compress([primer]) if num_primer_bytes is None else num_primer_bytes
    return 8 * (compress([primer, text]) - before) / len(text)
