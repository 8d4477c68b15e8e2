"""Decodes image files to the uint8 tensors that graphs take, or to photos, and encodes images to files.

It handles transparency, orientation and resizing. The service and training share it, so both see the same pixels.
`image_header.py` parses headers, `backgrounds.py` handles light backgrounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models import backgrounds
from models.image_header import Format, Header, ImageError, ImageLimits, read_header, read_rgb_profile
from models.preprocessing import Preprocessing

__all__ = [
    "Format",
    "ImageError",
    "ImageLimits",
    "Invert",
    "Photo",
    "decode",
    "decode_photo",
    "encode_photo",
    "encode_png",
    "fit",
    "prepare",
]

Pixels = NDArray[np.uint8]
Invert = Literal["auto", "true", "false"]

DEFAULT_LIMITS: Final = ImageLimits()
DEFAULT_MARGIN: Final = 1 / 14
"""Between MNIST's 1/7 and Fashion-MNIST's 0."""

# Plug-ins are called directly: `Image.open` would try others, accept multi-picture files, and warn.
_PLUGINS: dict[Format, type[ImageFile.ImageFile]] = {"PNG": PngImageFile, "JPEG": JpegImageFile, "WEBP": WebPImageFile}

_UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# PNG: twice as fast as Pillow's default, and 5 % larger. JPEG: no chroma subsampling from this quality on.
_PNG_LEVEL = 4
_FULL_COLOURS_QUALITY = 90
_STRIP_ROWS = 256
_NEARLY_WHITE = 240.0
_MAX_RESIZED_PIXELS = 2**24  # an image of one row of pixels would become a thousand times larger
_WORKING_SIDES = 8  # objects are searched in an image at most this many times larger than the network's input


class Photo(NamedTuple):
    """An upright photo: colours in mode "RGB", alpha in mode "L" if any, format, and RGB profile (may be empty)."""

    colours: Image.Image
    alpha: Image.Image | None
    format: Format
    profile: bytes


def decode(
    body: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, enough_side: int | None = None, grey: bool = False
) -> Image.Image:
    """Decode a PNG, JPEG or WebP file into an upright, opaque "L" or "RGB" image.

    With `enough_side`, a larger JPEG may be decoded up to 8 times smaller, with sides at least that long; `grey` skips
    its colours. Transparent images are composed on white, or on black if all visible pixels are nearly white.

    Raises: ImageError.
    """
    header = read_header(body, limits)
    with _as_image_errors(header):
        return _opaque(_upright(header, enough_side, grey))


def decode_photo(body: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Photo:
    """Decode a PNG, JPEG or WebP file to upright colours, and alpha if it has transparency.

    Colours are not premultiplied, and stay in the space of the file's RGB profile. Memory: at most 9 bytes per pixel
    beside the file, of which 5 remain, or 4 without alpha.

    Raises: ImageError.
    """
    header = read_header(body, limits)
    with _as_image_errors(header):
        colours, alpha = _split(_upright(header))
        return Photo(colours, alpha, header.format, read_rgb_profile(body))


@contextmanager
def _as_image_errors(header: Header) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(
            "too_large", f"Decoding the {header.format} file needs more memory than it may take."
        ) from error
    except Exception as error:  # decoders raise anything on damaged files, struct.error too
        raise ImageError("undecodable", f"The {header.format} file is damaged or truncated.") from error


def _upright(header: Header, enough_side: int | None = None, grey: bool = False) -> Image.Image:
    image = _eight_bit(_load(header, enough_side, grey))
    transposition = _UPRIGHT.get(header.orientation)
    return image if transposition is None else image.transpose(transposition)


def _load(header: Header, enough_side: int | None, grey: bool) -> Image.Image:
    image = _PLUGINS[header.format](BytesIO(header.essence))
    if image.size != (header.width, header.height):
        raise ImageError("undecodable", f"The {header.format} file is damaged: it has two different sizes.")
    if enough_side and header.format == "JPEG":
        image.draft("L" if grey else None, (enough_side, enough_side))
    image.load()
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale a 16-bit grey image to 8 bits, rounded; decoders scale other images themselves."""
    if not image.mode.startswith("I"):
        return image
    scaled = Image.new("L", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        deep = np.asarray(image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))).astype(np.uint32)
        scaled.paste(Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8)), (0, top))
    return scaled


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
        alpha = image.getchannel("A")
    image = image.convert("RGB") if image.mode != "RGB" else image
    image.info = {}  # Pillow would write some of it to files
    return image, alpha


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if not image.has_transparency_data:
        return image.convert("L" if image.mode == "1" else "RGB")
    image = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
    alpha = image.getchannel("A")
    colours = image.convert(image.mode[:-1])
    ground = Image.new(colours.mode, image.size, _ground_shade(colours, alpha))
    ground.paste(colours, mask=alpha)
    return ground


def _ground_shade(colours: Image.Image, alpha: Image.Image) -> str:
    """White, unless the visible pixels are nearly white on average and would vanish."""
    counts = np.array(colours.convert("L").histogram(alpha))
    num_visible = counts.sum()
    is_white = 0 < num_visible < alpha.width * alpha.height and counts @ np.arange(256) > _NEARLY_WHITE * num_visible
    return "black" if is_white else "white"


def fit(image: Image.Image, height: int, width: int, channels: int) -> Pixels:
    """Resize to uint8 [H,W,C]; an image of the exact size keeps its pixels.

    For grey networks, the whole image is centred and padded with the shade of its corners; for colour networks, it is
    centre-cropped, as in the evaluation of photo classifiers.
    """
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size == (width, height):
        return np.asarray(image).reshape(height, width, channels)
    if channels == 1:
        return _padded(image, height, width)[:, :, None]
    side = min(image.width / width, image.height / height)
    left, top = (image.width - width * side) / 2, (image.height - height * side) / 2
    box = (left, top, left + width * side, top + height * side)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def _centre(image: Image.Image, height: int, width: int, channels: int, preprocessing: Preprocessing) -> Pixels:
    """Resize to uint8 [H,W,C] as torchvision's `Resize` and `CenterCrop` do, to the pixel."""
    mode = "L" if channels == 1 else "RGB"
    image = image.convert(mode) if image.mode != mode else image
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    if not preprocessing.resize:
        return np.asarray(image.resize((width, height), resampling)).reshape(height, width, channels)
    enlarged = preprocessing.resize / min(height, width)
    covered_height, covered_width = round(height * enlarged), round(width * enlarged)
    if image.width * covered_height >= image.height * covered_width:
        size = (covered_height, int(covered_height * image.width / image.height))
    else:
        size = (int(covered_width * image.height / image.width), covered_width)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    if size[0] * size[1] > _MAX_RESIZED_PIXELS:
        # A long image: only what is kept is computed, and may differ by rounding.
        across, down = image.width / size[1], image.height / size[0]
        right, bottom = min(image.width, (left + width) * across), min(image.height, (top + height) * down)
        box = (left * across, top * down, right, bottom)
        kept = image.resize((width, height), resampling, box=box)
    else:
        kept = image.resize(size[::-1], resampling).crop((left, top, left + width, top + height))
    return np.asarray(kept).reshape(height, width, channels)


def _padded(image: Image.Image, height: int, width: int) -> Pixels:
    ground = backgrounds.median_of_corners(np.asarray(image))
    scale = min(height / image.height, width / image.width)
    size = min(width, max(1, round(image.width * scale))), min(height, max(1, round(image.height * scale)))
    tile = np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    canvas = np.full((height, width), ground, np.uint8)
    top, left = (height - tile.shape[0]) // 2, (width - tile.shape[1]) // 2
    canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def prepare(
    body: bytes,
    height: int,
    width: int,
    channels: int,
    light_on_dark: bool = False,
    invert: Invert = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
    margin: float = DEFAULT_MARGIN,
    preprocess: Preprocessing | None = None,
) -> Pixels:
    """Decode and resize an image for a network that takes uint8 [H,W,C].

    `invert` "auto" inverts images with a light background for a grey `light_on_dark` network. For such a network, an
    inverted image that is not of the exact size is also cropped to its object (`backgrounds.cut_out`, which explains
    `margin`). For other networks, `preprocess` says how to resize.

    Raises: ImageError.
    """
    if preprocess is not None and not light_on_dark:
        pixels = _centre(decode(body, limits), height, width, channels, preprocess)
        return 255 - pixels if invert == "true" else pixels
    enough_side = max(height, width) * (_WORKING_SIDES if channels == 1 else 2)
    image = decode(body, limits, enough_side=enough_side, grey=channels == 1)
    if not light_on_dark or channels != 1:
        pixels = fit(image, height, width, channels)
        return 255 - pixels if invert == "true" else pixels
    if image.size == (width, height):
        pixels = fit(image, height, width, channels)
        return 255 - pixels if _is_inverted(pixels[:, :, 0], invert) else pixels
    grey = _working_copy(image, enough_side)
    if not _is_inverted(np.asarray(grey), invert):
        return fit(grey, height, width, channels)
    found = backgrounds.cut_out(np.asarray(grey), height, width, margin)
    return 255 - fit(grey, height, width, channels) if found is None else found[:, :, None]


def _is_inverted(grey: Pixels, invert: Invert) -> bool:
    return invert == "true" or (invert == "auto" and backgrounds.has_light_background(grey))


def _working_copy(image: Image.Image, enough_side: int) -> Image.Image:
    """The image in grey, reduced by a whole factor if it is much larger than needed."""
    if image.mode != "L":
        image = image.convert("L")
    factor = max(image.size) // enough_side
    return image.reduce(min(factor, *image.size)) if factor > 1 else image


def encode_png(pixels: Pixels) -> bytes:
    """Encode uint8 [H,W,1], [H,W,3] or [H,W] as a PNG file."""
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(flat)).save(buffer, "PNG")
    return buffer.getvalue()


def encode_photo(photo: Photo, quality: int) -> bytes:
    """Encode a photo in its format, with its profile and no other metadata.

    JPEG composes transparency on white; WebP keeps alpha exactly. `quality` 1 to 100 is for JPEG and WebP.
    Memory: at most 5 bytes per pixel beside the photo and the file.
    """
    colours, alpha, kind, profile = photo
    if alpha is not None and kind == "JPEG":
        ground = Image.new("RGB", colours.size, "white")
        ground.paste(colours, mask=alpha)
        colours = ground
    elif alpha is not None:
        colours = colours.copy()
        colours.putalpha(alpha)
    options: dict[str, Any] = {"quality": quality, "icc_profile": profile or None}
    if kind == "PNG":
        options = {"compress_level": _PNG_LEVEL, "icc_profile": profile or None}
    elif kind == "JPEG" and quality >= _FULL_COLOURS_QUALITY:
        options["subsampling"] = 0
    buffer = BytesIO()
    colours.save(buffer, kind, **options)
    return buffer.getvalue()
