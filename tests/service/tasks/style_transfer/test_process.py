"""Photos to tiles and stylized tiles to files; the network is replaced by a function."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.images import ImageLimits
from models.stylization import Style, Stylization
from service.decoding.jobs import ToPhoto, photo_of, to_file
from service.errors import InvalidParameter, PictureTooSmall
from service.schema import from_text, read
from service.tasks.style_transfer.process import StylizedPhoto, blended, check_header
from service.tasks.style_transfer.schema import StylizeParameters
from tests.models.samples import encoded, noise, png_chunk, png_header

Pixels = NDArray[np.uint8]
ROOT = Path(__file__).parents[4]
LIMITS = ImageLimits()
SHIPPED = Stylization(
    styles=(Style(name="waves", thumbnail="waves.jpg"),),
    stride=4,
    max_pixels=2**20,
    tile_pixels=768,
    halo_pixels=52,
)
STYLES = Stylization(
    styles=tuple(Style(name=name, thumbnail=f"{name}.jpg") for name in ("waves", "night")),
    stride=4,
    max_pixels=4096,
    tile_pixels=32,
    halo_pixels=4,
)


def parameters_of(**texts: str) -> StylizeParameters:
    return read(StylizeParameters, from_text(StylizeParameters, {"style": "waves"} | texts))


def stylized_photo(body: bytes, stylization: Stylization = STYLES, **texts: str) -> StylizedPhoto:
    parameters = parameters_of(**texts)
    done, parts = ToPhoto(LIMITS.max_pixels).run(body)
    return StylizedPhoto(photo_of(done, b"".join(parts)), stylization, parameters)


def file_of(photo: StylizedPhoto, quality: int = 90) -> bytes:
    job, parts = to_file(photo.result(), quality)
    return bytes(job.run(b"".join(parts))[1][0])


def inverted(photo: StylizedPhoto) -> Pixels:
    """The result if the network inverts its input."""
    for tile in photo.plan.tiles:
        photo.paste_tile(tile, 255 - photo.read_tile(tile))
    return np.asarray(Image.open(BytesIO(file_of(photo))))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 64), (131, 77), (40, 400)])
def test_tiles_join_to_the_whole(size: tuple[int, int]) -> None:
    photo = noise(*size)

    stylized = stylized_photo(encoded(Image.fromarray(photo)))

    assert len(stylized.plan.tiles) > 1 or size[0] * size[1] <= 4096
    assert np.array_equal(inverted(stylized), 255 - photo)


def test_a_photo_is_mirrored_beyond_its_edges() -> None:
    photo = noise(70, 45)
    padded = np.pad(photo, ((0, 26), (0, 19), (0, 0)), mode="reflect")
    stylized = stylized_photo(encoded(Image.fromarray(photo)))

    for tile in stylized.plan.tiles:
        rows, columns = tile
        assert np.array_equal(stylized.read_tile(tile), padded[rows.start : rows.end, columns.start : columns.end])


def test_the_whole_photo_is_downscaled_to_fit_the_network() -> None:
    photo = np.full((200, 300, 3), (10, 200, 90), np.uint8)

    small = stylized_photo(encoded(Image.fromarray(photo))).read_downscaled()

    assert small.shape == (52, 76, 3)
    assert (small == (10, 200, 90)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_colours_and_keeps_its_alpha(mode: str) -> None:
    image = Image.fromarray(noise(40, 40)).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    body = encoded(image, kind)
    shown = Image.open(BytesIO(body)).convert("RGB")

    found = inverted(stylized_photo(body, format="png"))

    assert np.array_equal(found[:, :, :3], 255 - np.asarray(shown))
    assert (found.shape[2] == 4) == (mode in ("LA", "RGBA"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_profile_of_the_colours_is_kept_and_all_else_is_dropped(kind: str) -> None:
    profile = rgb_profile()
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    body = encoded(Image.fromarray(noise(40, 40)), kind, icc_profile=profile, exif=exif.tobytes(), dpi=(300, 300))
    assert b"A camera" in body

    for strength in ("0", "1"):
        photo = stylized_photo(body, strength=strength)
        if strength == "1":
            inverted(photo)
        content = file_of(photo)
        opened = Image.open(BytesIO(content))
        assert opened.info["icc_profile"] == profile
        assert b"A camera" not in content
        assert "dpi" not in opened.info or opened.info["dpi"] != (300, 300)


@pytest.mark.parametrize("damage", ["space", "length", "signature", "size"])
def test_a_profile_that_does_not_fit_is_dropped(damage: str) -> None:
    profile = bytearray(rgb_profile())
    if damage == "space":
        profile[16:20] = b"CMYK"
    elif damage == "length":
        profile[0:4] = (7).to_bytes(4, "big")
    elif damage == "signature":
        profile[36:40] = b"none"
    else:
        profile = profile.ljust(2**20 + 1, b"\0")
        profile[0:4] = len(profile).to_bytes(4, "big")
    body = encoded(Image.fromarray(noise(40, 40)), icc_profile=bytes(profile))

    content = file_of(stylized_photo(body, strength="0"))

    assert "icc_profile" not in Image.open(BytesIO(content)).info


def rgb_profile() -> bytes:
    """An ICC profile of RGB colours: a valid header and some data."""
    profile = bytearray(500)
    profile[0:4] = len(profile).to_bytes(4, "big")
    profile[12:24] = b"mntrRGB XYZ "
    profile[36:40] = b"acsp"
    return bytes(profile)


def test_strength_0_keeps_colours_below_full_transparency() -> None:
    pixels = noise(40, 44, 4)
    pixels[:20, :, 3] = 0
    for kind in ("png", "webp"):
        photo = stylized_photo(encoded(Image.fromarray(pixels)), strength="0", format=kind)
        found = np.asarray(Image.open(BytesIO(file_of(photo, quality=100))))
        assert np.array_equal(found[:, :, 3], pixels[:, :, 3])
        assert kind == "webp" or np.array_equal(found, pixels)


def test_a_blend_of_pixels_is_rounded() -> None:
    below, painted = np.full((1, 1, 3), 10, np.uint8), np.full((1, 1, 3), 13, np.uint8)

    assert blended(below, painted, parameters_of(strength="0.5")).tolist() == [[[12, 12, 12]]]
    assert blended(below, painted, parameters_of(strength="0.1")).tolist() == [[[10, 10, 10]]]
    assert np.array_equal(blended(below, painted, parameters_of()), painted)


def test_preserved_colors_keep_the_differences_of_channels() -> None:
    below = np.array([[[100, 120, 90], [250, 20, 0]]], np.uint8)
    painted = np.array([[[30, 60, 200], [255, 255, 255]]], np.uint8)

    found = blended(below, painted, parameters_of(preserve_color="true"))

    luma = np.array([0.299, 0.587, 0.114])
    assert found[0, 0].tolist() == np.rint(below[0, 0] + (painted[0, 0] - below[0, 0].astype(float)) @ luma).tolist()
    assert found[0, 1].tolist() == [255, 189, 169]  # red was at its end already


def test_a_side_that_webp_cannot_hold_is_refused_before_decoding() -> None:
    header = png_header(16_384, 40)

    check_header_error(header, InvalidParameter, "16384x40.*at most 16383.*jpeg or png", format="webp")
    check_header_error(png_header(31, 4000), PictureTooSmall, "31x4000")
    check_header_error(png_header(4000, 31), PictureTooSmall, "4000x31")


def check_header_error(head: bytes, kind: type[Exception], message: str, **texts: str) -> None:
    with pytest.raises(kind, match=message):
        check_header(head + png_chunk(b"IEND", b""), LIMITS, parameters_of(**texts))


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
from service.decoding.jobs import DecodedPhoto
from service.tasks.style_transfer.process import StylizedPhoto
from tests.models.samples import noise
from tests.service.tasks.style_transfer.test_process import SHIPPED, parameters_of

def resident_bytes(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

decoded = DecodedPhoto(noise(300, 400, 3).repeat(10, axis=0).repeat(10, axis=1), None, "JPEG", b"")
Path("/proc/self/clear_refs").write_text("5")
before = resident_bytes("VmRSS")
photo = StylizedPhoto(decoded, SHIPPED, parameters_of(preserve_color="true"))
photo.read_downscaled()
for tile in photo.plan.tiles:
    photo.paste_tile(tile, 255 - photo.read_tile(tile))
print(resident_bytes("VmHWM") - before)
"""
NUM_TILE_BYTES = 60e6


def test_a_large_image_takes_4_bytes_per_pixel_and_a_tile_beside_its_photo() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )

    assert 3 * 12e6 < int(shown.stdout) < 4 * 12e6 + NUM_TILE_BYTES
