"""Parses the headers of PNG, JPEG and WebP files and checks them against limits, without decoding pixels.

It defines the accepted formats, the errors, and which metadata reaches a decoder. Sources: PNG
1.2 chapters 3 and 4, JPEG (T.81) annex B, the WebP container specification, Exif 2.32 section 4.6, ICC.1:2022 section
7.2 and annex B.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Format = Literal["PNG", "JPEG", "WEBP"]
Kind = Literal["unsupported", "too_large", "undecodable"]

MAX_PARTS = 20_000
"""Files with more chunks are refused: parsing them would cost more than decoding."""
MAX_SEGMENTS = 2_000
"""The same for the segments of a JPEG file, which have up to 64 KiB each."""
MAX_SCANS = 256
"""A decoder of JPEG visits every block in each scan, though a scan may have only a few bytes."""
SCANS_OF_THE_LARGEST = 24
"""A JPEG of `max_pixels` may have this many scans, a smaller one more in proportion: usual are up to 10."""
QUICK_BYTES = 64 * 1024
QUICK_PIXELS = 128 * 128
_QUICK_SCANS = 12
_QUICK_PARTS = 64
_BLOCK_SIDE = 32  # pixels; the largest unit that JPEG pads an image to

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))
# Application data and comments, except those for the colour space: APP0 (JFIF) and APP14 (Adobe).
_METADATA_MARKERS = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
_SOS, _EOI, _APP1, _APP2 = 0xDA, 0xD9, 0xE1, 0xE2
# In the data of a scan: what is not a stuffed byte, padding, or a marker without a length.
_NEXT_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_ORIENTATION_TAG = 0x0112
_ICC_LABEL = b"ICC_PROFILE\0"
_MAX_PROFILE_BYTES = 2**20


class ImageError(ValueError):
    """An image is refused; `kind` is the reason for programs, the message for people."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is decoded."""

    max_pixels: int = 25_000_000
    max_side: int = 16_384


class Header(NamedTuple):
    """The header of an image; `essence` is the file without metadata, `orientation` the EXIF value 1 to 8."""

    format: Format
    width: int
    height: int
    orientation: int
    essence: bytes


def _undecodable(message: str) -> ImageError:
    return ImageError("undecodable", message)


def sniff(body: bytes) -> Format:
    """Detect the format from the first bytes.

    Raises: ImageError "undecodable" if the body is empty, "unsupported" for any other format.
    """
    if body.startswith(_PNG_MAGIC):
        return "PNG"
    if body.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "WEBP"
    if not body:
        raise _undecodable("The image is empty; send a PNG, JPEG or WebP file.")
    raise ImageError("unsupported", f"The image begins with bytes {body[:8].hex(' ')}; send a PNG, JPEG or WebP file.")


def read_size(body: bytes) -> tuple[int, int]:
    """Read the width and height before EXIF orientation, from as little of the file as possible.

    Raises: ImageError.
    """
    kind = sniff(body)
    if kind == "PNG":
        return _png_size(body)
    if kind == "WEBP":
        return _webp_size(body)
    return _jpeg_size(body)[:2]


def check_size(body: bytes, limits: ImageLimits) -> tuple[Format, int, int]:
    """Return the format, the width and the height, which are within the limits; the rest of the file is not checked.

    Raises: ImageError.
    """
    width, height = read_size(body)
    _check(width, height, limits)
    return sniff(body), width, height


def is_quick(body: bytes) -> bool:
    """Whether decoding takes a millisecond or two at most: few bytes, pixels, parts and scans.

    Raises: ImageError where the file gives no size.
    """
    kind, (width, height) = sniff(body), read_size(body)
    if len(body) > QUICK_BYTES or width * height > QUICK_PIXELS:
        return False
    if kind == "PNG":
        return sum(1 for _ in _png_chunks(body, _QUICK_PARTS + 1)) <= _QUICK_PARTS
    if kind == "WEBP":
        return True
    num_segments, num_scans = _count_scans(body)
    padded = (width + _BLOCK_SIDE - 1) // _BLOCK_SIDE * ((height + _BLOCK_SIDE - 1) // _BLOCK_SIDE) * _BLOCK_SIDE**2
    return num_segments <= _QUICK_PARTS and padded * num_scans <= QUICK_PIXELS * _QUICK_SCANS


def read_header(body: bytes, limits: ImageLimits) -> Header:
    """Parse the header of an image and strip its metadata.

    Raises: ImageError for another format, an image over the limits, an animation, or a damaged file.
    """
    kind = sniff(body)
    if kind == "JPEG":
        width, height, exif, essence = _read_jpeg(body)
        _check(width, height, limits)
        _check_scans(width, height, _count_scans(essence)[1], limits)
    elif kind == "PNG":
        width, height = _png_size(body)
        _check(width, height, limits)
        exif, essence = _strip_png(body)
    else:
        width, height = _webp_size(body)
        _check(width, height, limits)
        exif, essence = _riff_chunk(body, b"EXIF"), body
    return Header(kind, width, height, _orientation(exif) if exif else 1, essence)


def _check(width: int, height: int, limits: ImageLimits) -> None:
    if width == 0 or height == 0:
        raise _undecodable(f"The image is {width}x{height} pixels; each side must be at least 1.")
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_large",
            f"The image is {width}x{height} = {width * height} pixels; at most {limits.max_pixels} are accepted.",
        )
    if max(width, height) > limits.max_side:
        raise ImageError(
            "too_large", f"The image is {width}x{height} pixels; each side may have at most {limits.max_side}."
        )


def _check_scans(width: int, height: int, num_scans: int, limits: ImageLimits) -> None:
    most = min(MAX_SCANS, SCANS_OF_THE_LARGEST * limits.max_pixels // (width * height))
    if num_scans > most:
        raise ImageError(
            "too_large",
            f"The JPEG file of {width}x{height} pixels has over {most} scans; save it again with an image editor.",
        )


def _png_size(body: bytes) -> tuple[int, int]:
    if len(body) < 33:
        raise _undecodable(f"The PNG file is truncated: {len(body)} bytes are less than its header.")
    length, kind, width, height = struct.unpack_from(">I4sII", body, 8)
    if kind != b"IHDR" or length != 13:
        raise _undecodable("The PNG file is damaged: it does not begin with a header.")
    return width, height


def _png_chunks(body: bytes, max_chunks: int) -> Iterator[tuple[bytes, int, int]]:
    """The kind, the start and the end of each chunk up to the end marker, or of `max_chunks`."""
    position, size = 8, len(body)
    for _ in range(max_chunks):
        if position + 12 > size:
            raise _undecodable("The PNG file is truncated: its end marker is missing.")
        length, kind = struct.unpack_from(">I4s", body, position)
        end = position + 12 + length
        if end > size:
            raise _undecodable(f"The PNG file is truncated: {end - size} bytes of its data are missing.")
        yield kind, position, end
        position = end
        if kind == b"IEND":
            return


def _strip_png(body: bytes) -> tuple[bytes, bytes]:
    """Return the Exif block, and the file with only the chunks that pixels need: no text, profile or animation."""
    exif, kept, kind = b"", [_PNG_MAGIC], b""
    for kind, start, end in _png_chunks(body, MAX_PARTS):
        if kind in _PNG_KEPT:
            kept.append(body[start:end])
        elif kind == b"acTL" and body[start + 8 : start + 12] != b"\0\0\0\1":
            raise _undecodable("The PNG file is animated; send an image with a single frame.")
        elif kind == b"eXIf":
            exif = body[start + 8 : end - 4]
    if kind != b"IEND":
        raise _undecodable(f"The PNG file has over {MAX_PARTS} chunks; save it again with an image editor.")
    return exif, b"".join(kept)


class _Segment(NamedTuple):
    marker: int
    start: int  # of the marker
    payload: int
    end: int


def _jpeg_segments(body: bytes) -> Iterator[_Segment]:
    """The segments up to and including the start of the first scan."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        start = body.find(b"\xff", position)
        if start < 0 or start + 4 > len(body):
            raise _undecodable("The JPEG file is truncated: it ends before its pixels begin.")
        marker = body[start + 1]
        if marker in (0x00, 0xFF):  # a stuffed byte, or padding before a marker
            position = start + 1
        elif marker in _BARE_MARKERS:
            position = start + 2
        elif marker == _EOI:
            raise _undecodable("The JPEG file has no pixels.")
        else:
            position = start + 2 + int.from_bytes(body[start + 2 : start + 4], "big")
            yield _Segment(marker, start, start + 4, position)
            if marker == _SOS:
                return
    raise _too_many_segments()


def _too_many_segments() -> ImageError:
    return _undecodable(f"The JPEG file has over {MAX_SEGMENTS} segments; save it again with an image editor.")


def _jpeg_size(body: bytes) -> tuple[int, int, list[_Segment]]:
    """Width and height, and the segments up to the first scan."""
    width = height = 0
    segments, is_framed = list(_jpeg_segments(body)), False
    for segment in segments:
        if segment.marker in _SOF_MARKERS and min(segment.end, len(body)) - segment.payload >= 5:
            height, width = struct.unpack_from(">HH", body, segment.payload + 1)
            is_framed = True
    if not is_framed:
        raise _undecodable("The JPEG file is damaged: it does not give the size of the image.")
    return width, height, segments


def _read_jpeg(body: bytes) -> tuple[int, int, bytes, bytes]:
    """Width, height, the Exif block, and the file without application data and comments."""
    width, height, segments = _jpeg_size(body)
    exif, kept = b"", [b"\xff\xd8"]
    for segment in segments:
        if segment.marker == _APP1 and not exif and body.startswith(b"Exif\0\0", segment.payload):
            exif = body[segment.payload : segment.end]
        if segment.marker == _SOS:
            kept.append(body[segment.start :])
        elif segment.marker not in _METADATA_MARKERS:
            kept.append(body[segment.start : segment.end])
    return width, height, exif, b"".join(kept)


def _count_scans(body: bytes) -> tuple[int, int]:
    """The segments up to the end of the image, and the scans among them; counting ends above `MAX_SCANS`."""
    segments = list(_jpeg_segments(body))
    num_segments, num_scans, position = len(segments), 1, segments[-1].end
    while num_scans <= MAX_SCANS and (found := _NEXT_SEGMENT.search(body, position)):
        marker, position = body[found.end() - 1], found.end()
        if marker == _EOI:
            break
        num_segments += 1
        if num_segments > MAX_SEGMENTS:
            raise _too_many_segments()
        num_scans += marker == _SOS
        position += int.from_bytes(body[position : position + 2], "big")
    return num_segments, num_scans


def _webp_size(body: bytes) -> tuple[int, int]:
    if len(body) < 30 or int.from_bytes(body[4:8], "little") + 8 > len(body):
        raise _undecodable(f"The WebP file is truncated: it has {len(body)} bytes.")
    chunk = body[12:16]
    if chunk == b"VP8X":
        if body[20] & 0x02:
            raise _undecodable("The WebP file is animated; send an image with a single frame.")
        return 1 + int.from_bytes(body[24:27], "little"), 1 + int.from_bytes(body[27:30], "little")
    if chunk == b"VP8L" and body[20] == 0x2F:
        bits = int.from_bytes(body[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 " and body[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise _undecodable("The WebP file is damaged: it does not begin with an image.")


def _riff_chunk(body: bytes, name: bytes) -> bytes:
    position = 12
    for _ in range(MAX_PARTS):
        if position + 8 > len(body):
            break
        kind, length = struct.unpack_from("<4sI", body, position)
        if kind == name:
            return body[position + 8 : position + 8 + length]
        position += 8 + length + (length & 1)
    return b""


def _orientation(exif: bytes) -> int:
    """The orientation in an Exif block, or 1. Slices beyond its end are empty, so damaged blocks are harmless."""
    tiff = exif.removeprefix(b"Exif\0\0")
    if tiff[:2] not in (b"II", b"MM"):
        return 1
    order: Literal["little", "big"] = "little" if tiff.startswith(b"II") else "big"
    directory = int.from_bytes(tiff[4:8], order)
    num_entries = int.from_bytes(tiff[directory : directory + 2], order)
    for entry in range(directory + 2, directory + 2 + 12 * num_entries, 12):
        if int.from_bytes(tiff[entry : entry + 2], order) == _ORIENTATION_TAG:
            value = int.from_bytes(tiff[entry + 8 : entry + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def read_rgb_profile(body: bytes) -> bytes:
    """Read the RGB ICC profile of a file, up to 1 MiB; empty if it has none.

    Only the header of the profile is checked.
    """
    kind = sniff(body)
    if kind == "JPEG":
        found = _jpeg_profile(body)
    else:
        found = _png_profile(body) if kind == "PNG" else _riff_chunk(body, b"ICCP")
    is_valid = 132 <= len(found) <= _MAX_PROFILE_BYTES and int.from_bytes(found[:4], "big") == len(found)
    return found if is_valid and found[16:20] == b"RGB " and found[36:40] == b"acsp" else b""


def _jpeg_profile(body: bytes) -> bytes:
    parts = {}
    for segment in _jpeg_segments(body):
        payload = body[segment.payload : segment.end]
        if segment.marker == _APP2 and payload.startswith(_ICC_LABEL) and len(payload) > 14:
            parts[payload[12]] = payload[14:]  # byte 12 is the number of the part, from 1
    return b"".join(parts[number] for number in sorted(parts))


def _png_profile(body: bytes) -> bytes:
    position = 33
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", body, position) if position + 8 <= len(body) else (0, b"IDAT")
        if kind == b"iCCP":
            _name, _, packed = body[position + 8 : position + 8 + length].partition(b"\0")
            try:
                return zlib.decompressobj().decompress(packed[1:], _MAX_PROFILE_BYTES + 1)
            except zlib.error:
                break
        if kind == b"IDAT":  # a profile comes before the pixels
            break
        position += 12 + length
    return b""
