"""Headers: sizes, limits, orientation and metadata, without decoding."""

from __future__ import annotations

import contextlib
import struct
import zlib
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.image_header import (
    MAX_PARTS,
    MAX_SEGMENTS,
    ImageError,
    ImageLimits,
    is_quick,
    read_header,
    read_rgb_profile,
    read_size,
    sniff,
)
from models.images import decode
from tests.models.samples import encoded, jpeg_with, jpeg_with_scans, noise, png_chunk, png_header, png_with, sample

LIMITS = ImageLimits()


def exif(orientation: int, order: str = "II") -> bytes:
    mark = "<" if order == "II" else ">"
    entries = struct.pack(f"{mark}HHIHHHHIHH", 0x0100, 3, 1, 9, 0, 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + order.encode() + struct.pack(f"{mark}HIH", 42, 8, 2) + entries


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_the_size_is_read_from_every_format(kind: str, options: dict[str, bool]) -> None:
    body = encoded(Image.fromarray(noise(21, 34)), kind, **options)
    assert read_size(body) == (34, 21)
    assert read_header(body, LIMITS)[:4] == (kind, 34, 21, 1)


def test_an_extended_webp_has_the_size_of_its_canvas() -> None:
    body = encoded(Image.fromarray(noise(21, 34, 4)), "WEBP", exif=exif(1))
    assert body[12:16] == b"VP8X"
    assert read_size(body) == (34, 21)


@pytest.mark.parametrize("body", [b"GIF89a" + bytes(40), b"%!PS-Adobe-3.0", b"II*\0" + bytes(40), b"\0", b"<svg/>"])
def test_other_formats_are_unsupported(body: bytes) -> None:
    with pytest.raises(ImageError, match=r"send a PNG, JPEG or WebP file\.") as caught:
        sniff(body)
    assert caught.value.kind == "unsupported"


def test_an_empty_body_is_undecodable() -> None:
    with pytest.raises(ImageError, match="The image is empty") as caught:
        sniff(b"")
    assert caught.value.kind == "undecodable"


def test_a_header_that_claims_too_many_pixels_is_enough_to_refuse() -> None:
    with pytest.raises(ImageError, match="81000000 pixels; at most 25000000 are accepted") as caught:
        read_header(png_header(9000, 9000), LIMITS)
    assert caught.value.kind == "too_large"


def test_a_side_that_is_too_long_is_refused() -> None:
    with pytest.raises(ImageError, match="16385x1 pixels; each side may have at most 16384") as caught:
        read_header(png_header(16385, 1), LIMITS)
    assert caught.value.kind == "too_large"


def test_the_limits_themselves_are_allowed() -> None:
    body = encoded(Image.new("L", (20, 10)))
    assert read_header(body, ImageLimits(max_pixels=200, max_side=20)).width == 20


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_undecodable(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="each side must be at least 1") as caught:
        read_header(png_header(*size), LIMITS)
    assert caught.value.kind == "undecodable"


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_orientation_is_found_in_both_byte_orders(kind: str, order: str) -> None:
    body = encoded(Image.fromarray(noise(8, 8)), kind, exif=exif(6, order))
    assert read_header(body, LIMITS).orientation == 6


@pytest.mark.parametrize(
    "junk", [exif(0), exif(9), b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0XX", exif(6)[:24]]
)
def test_a_senseless_orientation_counts_as_upright(junk: bytes) -> None:
    body = jpeg_with(0xE1, junk, encoded(Image.fromarray(noise(8, 8)), "JPEG"))
    assert read_header(body, LIMITS).orientation == 1


def test_metadata_never_reaches_a_decoder() -> None:
    png = encoded(Image.fromarray(noise(8, 8)))
    text = png_chunk(b"tEXt", b"Comment\0secret")
    assert read_header(png_with(text, png), LIMITS).essence == png
    jpeg = encoded(Image.fromarray(noise(8, 8)), "JPEG")
    for marker in (0xE1, 0xE2, 0xED, 0xFE):
        assert read_header(jpeg_with(marker, b"secret", jpeg), LIMITS).essence == jpeg


def test_a_single_frame_animation_chunk_is_harmless_and_dropped() -> None:
    png = encoded(Image.fromarray(noise(8, 8)))
    assert read_header(png_with(png_chunk(b"acTL", b"\0\0\0\1\0\0\0\0"), png), LIMITS).essence == png


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("red", "blue", "green")]
    body = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    with pytest.raises(ImageError, match="is animated; send an image with a single frame") as caught:
        read_header(body, LIMITS)
    assert caught.value.kind == "undecodable"


@pytest.mark.parametrize("name", ["shirt.png", "running_shoe.webp"])
def test_a_truncated_file_is_called_truncated(name: str) -> None:
    body = sample(name)
    for length in range(16, len(body), max(1, len(body) // 200)):
        with pytest.raises(ImageError, match="truncated"):
            read_header(body[:length], LIMITS)


def test_a_jpeg_that_ends_before_its_pixels_is_called_truncated() -> None:
    body = sample("ship.jpg")
    for length in range(3, body.index(b"\xff\xda") + 3):
        with pytest.raises(ImageError, match="truncated"):
            read_size(body[:length])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IDAT", bytes(30)), "does not begin with a header"),
        (b"\xff\xd8\xff\xd9" + bytes(8), "has no pixels"),
        (b"\xff\xd8\xff\xda\x00\x08" + bytes(8), "does not give the size"),
        (b"RIFF" + struct.pack("<I", 40) + b"WEBPVP9 " + bytes(40), "does not begin with an image"),
    ],
)
def test_a_damaged_container_is_undecodable(body: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_size(body)
    assert caught.value.kind == "undecodable"


def test_stray_bytes_between_jpeg_segments_are_skipped() -> None:
    body = sample("ship.jpg")
    assert read_size(body[:2] + b"\xff\xff\x00junk\xff\xd0\xff" + body[2:]) == (32, 32)


def test_a_file_of_countless_parts_is_refused_quickly() -> None:
    png = encoded(Image.new("L", (4, 4)))
    with pytest.raises(ImageError, match=f"over {MAX_PARTS} chunks"):
        read_header(png_with(png_chunk(b"tEXt", b"") * MAX_PARTS, png), LIMITS)
    with pytest.raises(ImageError, match=f"over {MAX_SEGMENTS} segments"):
        read_size(b"\xff\xd8" + b"\xff\xfe\x00\x02" * (MAX_SEGMENTS + 1) + bytes(8))


def test_a_webp_of_countless_parts_is_taken_without_its_exif() -> None:
    body = sample("running_shoe.webp") + (b"JUNK" + bytes(4)) * (MAX_PARTS + 1) + b"EXIF\x20\0\0\0" + exif(6)
    assert read_header(body, LIMITS).orientation == 1


def rgb_profile(num_bytes: int = 500) -> bytes:
    """An ICC profile with a valid header only."""
    profile = bytearray(np.random.default_rng(2).integers(0, 256, num_bytes, np.uint8).tobytes())
    profile[0:4] = num_bytes.to_bytes(4, "big")
    profile[16:20], profile[36:40] = b"RGB ", b"acsp"
    return bytes(profile)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("num_bytes", [132, 500, 200_000])  # the last in several segments of a JPEG
def test_the_profile_of_rgb_colours_is_found(kind: str, num_bytes: int) -> None:
    profile = rgb_profile(num_bytes)
    body = encoded(Image.new("RGB", (8, 8)), kind, icc_profile=profile)

    assert read_rgb_profile(body) == profile
    assert read_rgb_profile(encoded(Image.new("RGB", (8, 8)), kind)) == b""


def test_a_profile_that_unpacks_to_more_than_it_may_is_not_unpacked_whole() -> None:
    body = encoded(Image.new("RGB", (8, 8)))
    bomb = png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(50_000_000)))

    assert read_rgb_profile(png_with(bomb, body)) == b""
    assert read_rgb_profile(png_with(png_chunk(b"iCCP", b"name\0\0junk"), body)) == b""


@settings(max_examples=200)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
def test_a_damaged_profile_is_dropped_or_the_file_refused(kind: str, data: st.DataObject) -> None:
    body = bytearray(encoded(Image.new("RGB", (8, 8)), kind, icc_profile=rgb_profile()))
    for at, value in data.draw(st.lists(st.tuples(st.integers(12, 600), st.integers(0, 255)), max_size=6)):
        body[min(at, len(body) - 1)] = value
    with contextlib.suppress(ImageError):
        found = read_rgb_profile(bytes(body))
        assert found == b"" or len(found) == int.from_bytes(found[:4], "big")


@pytest.mark.parametrize("num_scans", [1, 10, 256])
def test_a_small_jpeg_may_have_256_scans(num_scans: int) -> None:
    body = jpeg_with_scans(100, 100, num_scans)
    assert read_header(body, LIMITS).width == 100
    assert decode(body).size == (100, 100)


@pytest.mark.parametrize(("size", "num_scans", "most"), [((100, 100), 257, 256), ((5000, 5000), 25, 24)])
def test_more_scans_than_are_worth_their_time_are_refused(size: tuple[int, int], num_scans: int, most: int) -> None:
    read_header(jpeg_with_scans(*size, num_scans - 1), LIMITS)
    with pytest.raises(ImageError, match=f"has over {most} scans") as caught:
        read_header(jpeg_with_scans(*size, num_scans), LIMITS)
    assert caught.value.kind == "too_large"


def test_what_looks_like_a_scan_in_metadata_or_after_the_end_is_none() -> None:
    jpeg, marks = encoded(Image.fromarray(noise(8, 8)), "JPEG"), b"\xff\xda\0\x08" * 300
    head, _, pixels = jpeg.partition(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(marks)) + marks
    for body in (jpeg + marks, jpeg_with(0xE2, marks, jpeg), head + comment + b"\xff\xda" + pixels):
        assert read_header(body, LIMITS).width == 8


@pytest.mark.parametrize("hidden_behind", [b"\xff\xff", b"\xff\0", b"\xff\xd3", b"\xff\x01"])
def test_padding_stuffing_and_restarts_do_not_hide_a_scan(hidden_behind: bytes) -> None:
    body = jpeg_with_scans(100, 100, 300).replace(b"\xff\xda", hidden_behind + b"\xff\xda")
    with pytest.raises(ImageError, match="has over 256 scans"):
        read_header(body, LIMITS)


def test_counting_scans_takes_linear_time() -> None:
    jpeg = jpeg_with_scans(100, 100, 5)[:-2]

    def seconds(num_bytes: int) -> float:
        body = jpeg + b"\xff\0" * (num_bytes // 2)
        started = process_time()
        read_header(body, LIMITS)
        return process_time() - started

    assert min(seconds(4_000_000) for _ in range(3)) < 3 * min(seconds(2_000_000) for _ in range(3)) + 0.01


@pytest.mark.parametrize(
    ("body", "quick"),
    [
        (encoded(Image.fromarray(noise(128, 128))), True),
        (encoded(Image.fromarray(noise(129, 128))), False),
        (encoded(Image.fromarray(noise(128, 128)), "JPEG", progressive=True), True),
        (encoded(Image.fromarray(noise(128, 128)), "WEBP"), True),
        (jpeg_with_scans(128, 128, 12), True),
        (jpeg_with_scans(128, 128, 13), False),
        (jpeg_with_scans(16384, 1, 1), False),  # it is padded to 32 rows
        (png_with(png_chunk(b"IDAT", b"") * 70, encoded(Image.fromarray(noise(8, 8)))), False),
        (png_with(png_chunk(b"tEXt", bytes(70_000)), encoded(Image.fromarray(noise(8, 8)))), False),
        (jpeg_with(0xE1, bytes(60_000), encoded(Image.fromarray(noise(8, 8)), "JPEG")), True),
    ],
)
def test_only_what_costs_little_is_quick(body: bytes, quick: bool) -> None:
    assert is_quick(body) is quick


@pytest.mark.parametrize(
    "body",
    [
        jpeg_with_scans(128, 128, 12),
        encoded(Image.fromarray(noise(128, 128)), "JPEG", quality=95, progressive=True),
        encoded(Image.fromarray(noise(100, 128, 4)), compress_level=0),
        encoded(Image.fromarray(noise(120, 128, 4)), "WEBP", lossless=True),
    ],
)
def test_what_is_quick_is_decoded_in_little_time(body: bytes) -> None:
    assert is_quick(body)
    decode(body)
    started = process_time()
    for _ in range(5):
        decode(body)
    assert (process_time() - started) / 5 < 0.02  # a few milliseconds on a calm machine
