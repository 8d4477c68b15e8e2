"""Pictures that are small as files and large as work."""

from __future__ import annotations

import functools
import io
import struct
import time
import zlib

import numpy as np
from PIL import Image

from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require, require_status

_CLASSIFY = "/v1/models/mnist/classify"
_ANOTHER_CALLER = "127.0.0.2"
_HONEST_SECONDS = 8.0
# As many as are taken of 24 megapixels: a second of work or more.
_MOST_SCANS = 14
_STUFFED, _RESTARTS = b"\0", bytes(range(0xD0, 0xD8))
_START_OF_SCAN, _HUFFMAN_TABLE, _END = 0xDA, 0xC4, 0xD9


def _segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """The segments of a JPEG by their markers, each with all its bytes; a scan has its data too."""
    found, start = [], 2
    while jpeg[start + 1] != _END:
        marker = jpeg[start + 1]
        end = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
        if marker == _START_OF_SCAN:
            while jpeg[end] != 0xFF or jpeg[end + 1 : end + 2] in (_STUFFED, *(bytes([each]) for each in _RESTARTS)):
                end += 1
        found.append((marker, jpeg[start:end]))
        start = end
    return found


@functools.cache
def many_scans(num_scans: int, side: int = 4_900) -> bytes:
    """A progressive JPEG with one of its scans, of nothing, again and again; each is a walk over all coefficients."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (120, 90, 60)).save(buffer, "JPEG", progressive=True, quality=50)
    segments = _segments(buffer.getvalue())
    scans = [index for index, (marker, _) in enumerate(segments) if marker == _START_OF_SCAN]
    # The last scan and the table before it refine what is nought everywhere: few bytes, a walk over all coefficients.
    table, scan = segments[scans[-1] - 1], segments[scans[-1]]
    assert table[0] == _HUFFMAN_TABLE
    beginning = b"".join(content for _, content in segments[: scans[-1] - 1])
    return b"\xff\xd8" + beginning + (table[1] + scan[1]) * num_scans + b"\xff\xd9"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG of grey nothing with further chunks before its pixels."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = zlib.compress(bytes((width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


@functools.cache
def _photograph() -> bytes:
    """An honest photograph of 3 megapixels: large enough to be decoded beside the loop."""
    pixels = np.random.default_rng(0).integers(0, 255, (75, 100, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((2000, 1500)).save(buffer, "JPEG")
    return buffer.getvalue()


def _send(target: Target, image: bytes, source: str = wire.HOST, timeout: float = 30.0) -> wire.Answer:
    headers = {"Content-Type": "image/jpeg", "X-Request-Timeout": f"{timeout:g}"}
    return target.ask("POST", _CLASSIFY, image, headers=headers, source=source, timeout_seconds=95)


@attack("a JPEG of 700 scans", max_growth_mib=250, recovery_seconds=60)
def scans(target: Target) -> str:
    """Scans are counted before they are decoded."""
    return require_status(_send(target, many_scans(700)), 400, 413, 415, 422)


@attack("a JPEG that takes longer than its deadline", max_growth_mib=250, max_cpu_seconds=9, recovery_seconds=60)
def deadline(target: Target) -> str:
    """The deadline covers decoding, and decoding ends with it."""
    answer = _send(target, many_scans(_MOST_SCANS), timeout=0.2)
    require(answer.seconds < 2, f"answered {answer.status} after {answer.seconds:.1f} s")
    require_status(answer, 504)
    return f"{answer.status} after {answer.seconds:.1f} s"


@attack(
    "a photograph beside forty JPEGs of many scans",
    max_growth_mib=250,
    max_cpu_seconds=40,
    recovery_seconds=60,
    is_slow=True,
)
def photograph(target: Target) -> str:
    """Nobody takes all decoders: another caller's photograph is decoded meanwhile."""
    answers: list[wire.Answer] = []

    def flood() -> None:
        statuses.extend(each.status for each in wire.at_once([lambda: _send(target, large, timeout=10)] * 40))

    statuses: list[int] = []
    large = many_scans(_MOST_SCANS)
    with wire.beside(flood):
        time.sleep(1)
        answers.append(_send(target, _photograph(), _ANOTHER_CALLER))
    (answer,) = answers
    require(answer.status == 200, f"the photograph was answered {answer.status} after {answer.seconds:.1f} s")
    require(answer.seconds < _HONEST_SECONDS, f"the photograph waited {answer.seconds:.1f} s")
    require(set(statuses) <= {200, 503, 504}, f"the others were answered {sorted(set(statuses))}: no work for decoders")
    return f"200 after {answer.seconds:.1f} s"


@attack("a PNG of 81 megapixels in 80 kB", max_growth_mib=48)
def large_png(target: Target) -> str:
    """Pixels are counted before they are decoded."""
    return require_status(_send(target, _png(9_000, 9_000)), 413, 422)


@attack("a PNG of 2^31 pixels a side", max_growth_mib=32)
def endless_png(target: Target) -> str:
    """A header may say anything."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0))
    image = b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")
    return require_status(_send(target, image), 413, 415, 422)


@attack("a colour profile of 500 MiB in a PNG", max_growth_mib=96, is_slow=True)
def profile(target: Target) -> str:
    """What surrounds the pixels inflates too."""
    content = zlib.compress(bytes(500 * 2**20), 9)
    image = _png(64, 64, _chunk(b"iCCP", b"profile\0\0" + content))
    return require_status(_send(target, image), 200, 413, 415, 422)


@attack("texts of 500 MiB in a PNG", max_growth_mib=96)
def texts(target: Target) -> str:
    """So do texts, before and after the pixels."""
    content = zlib.compress(bytes(50 * 2**20), 9)
    image = _png(64, 64, *[_chunk(b"zTXt", f"t{index}".encode() + b"\0\0" + content) for index in range(10)])
    return require_status(_send(target, image), 200, 413, 415, 422)


@attack("a PNG of 200,000 empty chunks", max_growth_mib=64, max_cpu_seconds=3)
def chunks(target: Target) -> str:
    """Chunks of nothing are passed over in time that grows with their number."""
    image = _png(64, 64, _chunk(b"teXt", b"") * 200_000)
    return require_status(_send(target, image), 200, 400, 413, 415, 422)


@attack("pictures that break off", max_growth_mib=64)
def truncated(target: Target) -> str:
    """A picture that ends early is refused, wherever it ends."""
    whole = _photograph()
    statuses = {_send(target, whole[: len(whole) * part // 16]).status for part in range(1, 16)}
    require(statuses <= {200, 400, 413, 415, 422}, f"answered {sorted(statuses)}")
    return " ".join(map(str, sorted(statuses)))


@attack("24 megapixels, eight at once", max_growth_mib=420, max_cpu_seconds=30, is_slow=True)
def many_pixels(target: Target) -> str:
    """Decoded pixels count towards the budget: what does not fit now is refused with a time to come back."""
    image = _png(5_000, 4_900)
    answers = wire.at_once([lambda: _send(target, image)] * 8)
    statuses = {answer.status for answer in answers}
    require(statuses <= {200, 503, 504}, f"answered {sorted(statuses)}")
    refused = [answer for answer in answers if answer.status == 503]
    require(all("retry-after" in answer.headers for answer in refused), "503 without Retry-After")
    return f"{len(answers) - len(refused)} of 8 decoded, {len(refused)} refused"
