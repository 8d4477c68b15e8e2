"""Compressors as predictors: bits a byte of texts whose entropy is known."""

from __future__ import annotations

import functools
import lzma

import numpy as np
import pytest

from training.studies.compare_language import Compress, bits_per_byte, ppmd_bytes, primed_bits_per_byte, xz_bytes

PPMD = functools.partial(ppmd_bytes, order=6)
COMPRESSORS = pytest.mark.parametrize("compress", [xz_bytes, PPMD], ids=["xz", "ppmd"])


def noise(num_bytes: int, num_symbols: int, seed: int = 1) -> bytes:
    """Independent bytes, all equally likely."""
    return np.random.default_rng(seed).integers(num_symbols, size=num_bytes).astype(np.uint8).tobytes()


@COMPRESSORS
@pytest.mark.parametrize(("num_symbols", "bits"), [(256, 8.0), (16, 4.0)])
def test_noise_costs_its_entropy(compress: Compress, num_symbols: int, bits: float) -> None:
    found = bits_per_byte(compress, noise(60_000, num_symbols))
    assert bits <= found < 1.13 * bits


@COMPRESSORS
def test_a_text_that_was_read_before_costs_next_to_nothing(compress: Compress) -> None:
    text = noise(20_000, 256)
    assert primed_bits_per_byte(compress, text, text) < 0.6
    assert primed_bits_per_byte(compress, noise(20_000, 256, seed=2), text) > 7.9


@COMPRESSORS
def test_priming_is_the_difference_of_two_sizes(compress: Compress) -> None:
    primer, text = b"to be or not to be " * 40, b"that is the question " * 9
    wanted = 8 * (compress([primer + text]) - compress([primer])) / len(text)
    assert primed_bits_per_byte(compress, primer, text) == pytest.approx(wanted)
    assert primed_bits_per_byte(compress, primer, text, compress([primer])) == pytest.approx(wanted)


def test_xz_counts_what_a_decoder_can_read() -> None:
    text = b"It was the best of times, it was the worst of times. " * 20
    stored = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    assert lzma.decompress(stored) == text
    assert xz_bytes([text[:100], text[100:]]) == len(stored)


def test_no_parts_cost_no_text() -> None:
    assert PPMD([b""]) == PPMD([])
