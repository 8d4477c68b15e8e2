"""Images to tensors: every mode and format, and errors."""

from __future__ import annotations

import re
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from models import images
from models.image_header import read_size
from models.images import (
    ImageError,
    ImageLimits,
    decode,
    decode_photo,
    encode_photo,
    encode_png,
    fit,
    prepare,
)
from tests.models.samples import encoded, noise, png_chunk, sample
from tests.models.test_image_header import exif

SAMPLES = ["ankle_boot.png", "shirt.png", "ship.jpg", "ankle_boot_on_paper.jpg", "running_shoe.webp"]
LIBRARY_WORDS = re.compile(
    r"\b0x[0-9a-f]{4}|BytesIO|PIL|broken|not identified|is truncated \(|truncated (file|png)|libpng|zlib|unpack|cannot",
    re.IGNORECASE,
)


@pytest.mark.parametrize("name", ["ankle_boot.png", "shirt.png", "seven.png"])
def test_an_image_of_the_exact_size_keeps_every_pixel(name: str) -> None:
    original = np.asarray(Image.open(BytesIO(sample(name))))
    prepared = prepare(sample(name), 28, 28, 1, light_on_dark=True)
    assert prepared.shape == (28, 28, 1)
    assert prepared.dtype == np.uint8
    assert np.array_equal(prepared[:, :, 0], original)


def test_a_colour_jpeg_of_the_exact_size_keeps_every_pixel() -> None:
    assert np.array_equal(prepare(sample("ship.jpg"), 32, 32, 3), np.asarray(Image.open(BytesIO(sample("ship.jpg")))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_png_mode_shows_the_same_image(mode: str, channels: int) -> None:
    squares = np.kron(np.eye(4, dtype=np.uint8), np.full((4, 4), 255, np.uint8))
    image = Image.fromarray(squares)
    image = Image.fromarray(squares.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    assert np.array_equal(prepare(encoded(image), 16, 16, channels), np.stack([squares] * channels, axis=-1))


def test_a_cmyk_jpeg_shows_its_colours() -> None:
    body = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(prepare(body, 16, 16, 3).astype(int) - [255, 0, 0]).max() < 12


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    deep = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], np.uint16)
    assert np.asarray(decode(encoded(Image.fromarray(deep)))).tolist() == [[0, 0, 1, 1], [128, 254, 255, 255]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_lies_on_white(kind: str) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:6] = (200, 0, 0, 255)
    prepared = prepare(
        encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})), 8, 8, 3
    )
    assert prepared[0, 0].tolist() == [255, 255, 255]
    assert prepared[3, 3].tolist() == [200, 0, 0]


def test_half_transparent_pixels_blend_with_white() -> None:
    body = encoded(Image.new("LA", (4, 4), (100, 51)))
    assert decode(body).getpixel((0, 0)) == 224  # 100 * 0.2 + 255 * 0.8


def test_a_transparent_palette_entry_lies_on_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 90, 90, 90])
    image.putpixel((0, 0), 0)
    prepared = prepare(encoded(image, transparency=0), 4, 4, 1)
    assert (prepared[0, 0, 0], prepared[1, 1, 0]) == (255, 90)


def test_a_transparent_shade_of_grey_lies_on_white() -> None:
    image = Image.new("L", (4, 4), 7)
    image.putpixel((0, 0), 90)
    prepared = prepare(encoded(image, transparency=7), 4, 4, 1)
    assert (prepared[0, 0, 0], prepared[1, 1, 0]) == (90, 255)


def test_white_strokes_on_a_transparent_canvas_stay_visible() -> None:
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[5:20, 13:16] = 255
    prepared = prepare(encoded(Image.fromarray(pixels)), 28, 28, 1, light_on_dark=True)
    assert prepared[10, 14, 0] == 255
    assert prepared[0, 0, 0] == 0


def test_black_strokes_on_a_transparent_canvas_become_light_on_dark() -> None:
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[5:20, 13:16, 3] = 255
    prepared = prepare(encoded(Image.fromarray(pixels)), 28, 28, 1, light_on_dark=True)
    assert prepared[10, 14, 0] == 255
    assert prepared[0, 0, 0] == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_orientation_comes_out_upright(kind: str, orientation: int) -> None:
    upright = Image.fromarray(
        np.kron(np.array([[250, 10], [100, 180], [20, 220]], np.uint8), np.ones((8, 8), np.uint8))
    )
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    move = undo.get(orientation, images._UPRIGHT.get(orientation))
    stored = upright if move is None else upright.transpose(move)
    image = decode(encoded(stored, kind, exif=exif(orientation), quality=95)).convert("L")
    assert image.size == (16, 24)
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).max() < 12


def test_a_turned_photograph_is_prepared_upright() -> None:
    assert decode(sample("zero_on_paper_turned.jpg")).size == (400, 300)


def test_a_large_jpeg_is_decoded_smaller_when_that_is_enough() -> None:
    body = encoded(Image.fromarray(noise(400, 640)), "JPEG")
    assert decode(body).size == (640, 400)
    assert decode(body, enough_side=64).size == (160, 100)
    assert decode(body, enough_side=64, grey=True).mode == "L"


def test_a_grey_image_is_padded_whole_and_centred() -> None:
    wide = np.zeros((20, 40), np.uint8)
    wide[:, 15:25] = 200
    fitted = fit(Image.fromarray(wide + 30), 28, 28, 1)[:, :, 0]
    assert (fitted[:7] == 30).all()
    assert (fitted[21:] == 30).all()
    assert (fitted[8:20, 13:15] == 230).all()


def test_a_colour_image_is_cropped_to_its_centre() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = (10, 200, 30)
    assert (fit(Image.fromarray(wide), 32, 32, 3) == [10, 200, 30]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (27, 29), (5, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_shape_fits(size: tuple[int, int], channels: int) -> None:
    body = encoded(Image.fromarray(noise(*size)))
    assert prepare(body, 28, 28, channels, light_on_dark=channels == 1).shape == (28, 28, channels)


def test_a_network_need_not_be_square() -> None:
    body = encoded(Image.fromarray(noise(50, 50)))
    assert prepare(body, 16, 40, 3).shape == (16, 40, 3)
    assert prepare(body, 40, 16, 1, light_on_dark=True, invert="true").shape == (40, 16, 1)


def test_more_pixels_than_allowed_are_refused_before_decoding() -> None:
    with pytest.raises(ImageError, match="784 pixels; at most 700") as caught:
        decode(sample("shirt.png"), ImageLimits(max_pixels=700))
    assert caught.value.kind == "too_large"


def test_the_number_of_pixels_comes_from_the_header() -> None:
    assert read_size(sample("shirt.png")[:40]) == (28, 28)
    assert read_size(sample("ankle_boot_on_paper.jpg")) == (400, 300)


@pytest.mark.parametrize("name", ["shirt.png", "ankle_boot_on_paper.jpg", "running_shoe.webp"])
def test_a_file_cut_at_any_point_is_undecodable(name: str) -> None:
    body = sample(name)
    for length in range(16, len(body) - 2, max(1, len(body) // 64)):
        with pytest.raises(ImageError, match="truncated") as caught:
            decode(body[:length])
        assert caught.value.kind == "undecodable"


def test_a_second_header_that_contradicts_the_first_is_refused() -> None:
    body = sample("shirt.png")
    second = png_chunk(b"IHDR", bytes.fromhex("00001000000010000800000000"))
    with pytest.raises(ImageError, match="two different sizes"):
        decode(body[:33] + second + body[33:])


def test_a_photograph_comes_with_its_alpha_and_its_colours_below_it() -> None:
    pixels = noise(9, 7, 4)
    photo = decode_photo(encoded(Image.fromarray(pixels)))
    assert photo.format == "PNG"
    assert np.array_equal(np.asarray(photo.colours), pixels[:, :, :3])
    assert photo.alpha is not None
    assert np.array_equal(np.asarray(photo.alpha), pixels[:, :, 3])
    assert np.array_equal(np.asarray(Image.open(BytesIO(encode_photo(photo, 90)))), pixels)
    assert photo.colours.mode == "RGB"  # writing it left it as it was


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colours_and_alpha_of_a_photograph_are_turned_together(orientation: int) -> None:
    pixels = noise(24, 16, 4)
    tags = Image.Exif()
    tags[0x0112] = orientation
    body = encoded(Image.fromarray(pixels), exif=tags.tobytes())
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(body))))
    photo = decode_photo(body)
    assert photo.alpha is not None
    assert np.array_equal(np.dstack([np.asarray(photo.colours), np.asarray(photo.alpha)]), expected)


def test_an_opaque_photograph_has_no_alpha() -> None:
    assert decode_photo(sample("ankle_boot_on_paper.jpg")).alpha is None
    assert decode_photo(sample("shirt.png")).colours.mode == "RGB"


def test_a_transparent_photograph_lies_on_white_as_a_jpeg() -> None:
    photo = decode_photo(encoded(Image.new("LA", (16, 16), (100, 51))))._replace(format="JPEG")
    assert np.abs(np.asarray(Image.open(BytesIO(encode_photo(photo, 95)))).astype(int) - 224).max() <= 1


@pytest.mark.parametrize(("kind", "cut"), [("JPEG", 300), ("PNG", 60), ("WEBP", 40)])
def test_a_photograph_that_is_cut_short_is_undecodable(kind: str, cut: int) -> None:
    body = encoded(Image.fromarray(noise(64, 64)), kind)
    with pytest.raises(ImageError) as caught:
        decode_photo(body[:-cut])
    assert caught.value.kind == "undecodable"
    assert not LIBRARY_WORDS.search(str(caught.value))


def test_a_large_image_of_16_bits_is_scaled_strip_by_strip() -> None:
    deep = np.random.default_rng(5).integers(0, 65536, (600, 5), np.uint16)
    expected = np.rint(deep / 257).astype(np.uint8)
    assert np.abs(np.asarray(decode(encoded(Image.fromarray(deep)))).astype(int) - expected).max() == 0


def test_a_png_returns_what_it_was_given() -> None:
    for channels in (1, 3):
        pixels = noise(9, 7, channels).reshape(9, 7, channels)
        assert np.array_equal(np.asarray(Image.open(BytesIO(encode_png(pixels)))).reshape(9, 7, channels), pixels)
    assert Image.open(BytesIO(encode_png(noise(9, 7, 1)))).mode == "L"


def try_decoding(body: bytes) -> None:
    words = ""
    try:
        prepared = prepare(body, 28, 28, 1, light_on_dark=True, limits=ImageLimits(max_pixels=1_000_000))
    except ImageError as error:
        words = str(error)
    else:
        assert prepared.shape == (28, 28, 1)
    assert not LIBRARY_WORDS.search(words)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_files_decode_or_raise_an_image_error(data: st.DataObject) -> None:
    body = bytearray(sample(data.draw(st.sampled_from(SAMPLES))))
    # Half of the damage goes where the structure is.
    position = st.one_of(st.integers(0, min(len(body), 700) - 1), st.integers(0, len(body) - 1))
    for at, value in data.draw(st.lists(st.tuples(position, st.integers(0, 255)), min_size=1, max_size=6)):
        body[at] = value
    try_decoding(bytes(body[: data.draw(st.one_of(st.just(len(body)), position))]))


@settings(max_examples=200)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x80\0\0\0WEBPVP8 "]), st.binary(max_size=200)
)
def test_junk_decodes_or_raises_an_image_error(magic: bytes, junk: bytes) -> None:
    try_decoding(magic + junk)
