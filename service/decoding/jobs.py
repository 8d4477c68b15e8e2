"""What a decoder process is asked for, its answers, and how both cross its socket. It knows no caller and no HTTP.

A message is two little-endian uint32 (header bytes, content bytes), a msgpack header, then the content: a file, or
pixels uint8 [H,W,C] followed by alpha [H,W] if there is any.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import images
from models.image_header import Format, ImageError, ImageLimits, Kind
from models.images import Invert, Photo
from models.preprocessing import Preprocessing
from service import grammar as grammars
from service.grammar import Grammar, GrammarError

Pixels = NDArray[np.uint8]
Buffer = bytes | memoryview
LENGTHS = struct.Struct("<II")


class Done(msgspec.Struct, tag=True, frozen=True):
    """A job is done; its content is pixels of `shape`, or a file where that is empty."""

    shape: tuple[int, ...] = ()
    has_alpha: bool = False
    format: Format = "PNG"
    profile: bytes = b""


class Refused(msgspec.Struct, tag=True, frozen=True):
    """The image, or the grammar, is at fault."""

    kind: Kind | Literal["grammar"]
    message: str

    @property
    def error(self) -> ImageError | GrammarError:
        """What the caller is told."""
        return GrammarError(self.message) if self.kind == "grammar" else ImageError(self.kind, self.message)


class CheckGrammar(msgspec.Struct, tag=True, frozen=True):
    """Compile a grammar; its text is the content."""

    kind: grammars.Kind

    def run(self, content: bytes) -> tuple[Done, Sequence[Buffer]]:
        """The answer.

        Raises: GrammarError.
        """
        grammars.check(Grammar(self.kind, content.decode("utf-8")))
        return Done(), ()


class DecodedPhoto(NamedTuple):
    """An upright photo: colours [H,W,3], alpha [H,W] if any, the file's format and its RGB profile (may be empty)."""

    colours: Pixels
    alpha: Pixels | None
    format: Format
    profile: bytes


class ToRow(msgspec.Struct, tag=True, frozen=True):
    """Decode a file and fit it to a network's input, as `images.prepare` does."""

    row_shape: tuple[int, int, int]
    light_on_dark: bool
    invert: Invert
    max_pixels: int
    margin: float
    preprocess: Preprocessing | None

    def row(self, body: bytes) -> Pixels:
        """The pixels [H,W,C].

        Raises: ImageError.
        """
        limits = ImageLimits(max_pixels=self.max_pixels)
        arguments = (*self.row_shape, self.light_on_dark, self.invert, limits, self.margin, self.preprocess)
        return images.prepare(body, *arguments)

    def run(self, content: bytes) -> tuple[Done, Sequence[Buffer]]:
        """The answer.

        Raises: ImageError.
        """
        pixels = self.row(content)
        return Done(pixels.shape), [_flat(pixels)]


class ToPhoto(msgspec.Struct, tag=True, frozen=True):
    """Decode a file at its own size, as `images.decode_photo` does."""

    max_pixels: int

    def run(self, content: bytes) -> tuple[Done, Sequence[Buffer]]:
        """The answer.

        Raises: ImageError.
        """
        colours, alpha, kind, profile = images.decode_photo(content, ImageLimits(max_pixels=self.max_pixels))
        pixels = np.asarray(colours)
        parts = [_flat(pixels)] if alpha is None else [_flat(pixels), _flat(np.asarray(alpha))]
        return Done(pixels.shape, alpha is not None, kind, profile), parts


class ToFile(msgspec.Struct, tag=True, frozen=True):
    """Encode a photo, as `images.encode_photo` does; the content is as that of `Done`."""

    shape: tuple[int, int, int]
    has_alpha: bool
    format: Format
    profile: bytes
    quality: int

    def run(self, content: bytes) -> tuple[Done, Sequence[Buffer]]:
        """The answer."""
        photo = photo_of(Done(self.shape, self.has_alpha, self.format, self.profile), content)
        alpha = None if photo.alpha is None else Image.fromarray(photo.alpha)
        encoded = images.encode_photo(Photo(Image.fromarray(photo.colours), alpha, *photo[2:]), self.quality)
        return Done(), [encoded]


Job = ToRow | ToPhoto | ToFile | CheckGrammar


def unfinished(job: Job) -> Refused:
    """The answer to a job whose process ended within it."""
    if isinstance(job, CheckGrammar):
        return Refused("grammar", "it takes too long to compile, or too much memory")
    return Refused("undecodable", "Decoding the image takes too long, or cannot be done.")


def to_file(photo: DecodedPhoto, quality: int) -> tuple[ToFile, list[Buffer]]:
    """The job that encodes a photo as a file of its format, and its content."""
    colours, alpha, kind, profile = photo
    height, width, channels = colours.shape
    parts: list[Buffer] = [_flat(pixels) for pixels in (colours, alpha) if pixels is not None]
    return ToFile((height, width, channels), alpha is not None, kind, profile, quality), parts


def photo_of(done: Done, content: bytes | bytearray) -> DecodedPhoto:
    """View an answer as a photo."""
    height, width, channels = done.shape
    flat = np.frombuffer(content, np.uint8)
    num_bytes = height * width * channels
    alpha = flat[num_bytes:].reshape(height, width) if done.has_alpha else None
    return DecodedPhoto(flat[:num_bytes].reshape(done.shape), alpha, done.format, done.profile)


def message(header: Job | Done | Refused, parts: Sequence[Buffer]) -> list[Buffer]:
    """A message, in pieces to be sent one after another."""
    encoded = msgspec.msgpack.encode(header)
    return [LENGTHS.pack(len(encoded), sum(map(len, parts))) + encoded, *parts]


def _flat(pixels: Pixels) -> memoryview:
    return np.ascontiguousarray(pixels).reshape(-1).data
