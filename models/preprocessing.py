"""Preprocessing of photographs: what a user may ask for, the presets, and what a manifest records.

The service resizes (`images.py`); the graph scales, normalises and lays out what it gets (`importing/surgery.py`).
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Literal

from models import strict

Layout = Literal["nchw", "nhwc"]
Channels = Literal["rgb", "bgr"]
Interpolation = Literal["bilinear", "bicubic"]
Preset = Literal["imagenet", "clip", "inception", "0-1", "0-255"]

_CROP = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")
MAX_SIDE = 8192


class Preprocessing(strict.Strict, frozen=True, kw_only=True):
    """How an encoded image becomes what a network takes.

    The service scales an image so that it covers the network's input with the shorter side of the whole at `resize`
    pixels, and takes the centre; where `resize` is 0, it stretches the whole image. The graph then puts the colours in
    the order of `channels` and computes (pixel / `divisor` - `mean`) / `std`, in that order, and lays the result out as
    `layout` says. With `is_guessed`, nobody said so: it is what most networks of this kind take.
    """

    preset: str
    resize: int
    interpolation: Interpolation
    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Layout
    channels: Channels
    is_guessed: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.resize <= MAX_SIDE:
            raise ValueError(f"resize is {self.resize}; it must be at least 0 and at most {MAX_SIDE}.")
        _check_numbers(self.mean, self.std)
        if not (isfinite(self.divisor) and self.divisor > 0):
            raise ValueError(f"divisor is {self.divisor}; it must be above 0.")


class PreprocessingOptions(strict.Strict, frozen=True, kw_only=True):
    """What a user says about a network's preprocessing; all is optional.

    `mean` and `std` are in the network's order of channels, of pixels from 0 to 1, or from 0 to 255 if one exceeds 1.
    `size` is the length to which the shorter side is resized; `crop` is the side of the centre that is taken, such as
    224 or "192x256" (height, width), or "none" to stretch the whole image.
    """

    preset: Preset | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: int = 0
    crop: int | str = ""
    layout: Layout | None = None
    channels: Channels = "rgb"
    interpolation: Interpolation | None = None

    def __post_init__(self) -> None:
        _check_numbers(self.mean, self.std)
        if not 0 <= self.size <= MAX_SIDE:
            raise ValueError(f"size is {self.size}; it must be at least 1 and at most {MAX_SIDE}.")
        if self.crop not in ("", "none") and not all(0 < side <= MAX_SIDE for side in self.crop_sides or (0,)):
            raise ValueError(f"crop is {self.crop!r}; it must be a side such as 224, a size such as 192x256, or none.")

    @property
    def crop_sides(self) -> tuple[int, int] | None:
        """The height and width of the crop, where they are given."""
        match = _CROP.fullmatch(str(self.crop))
        return (int(match[1]), int(match[2] or match[1])) if match else None

    @property
    def states_normalisation(self) -> bool:
        """Whether this says what becomes of the pixels."""
        return bool(self.preset or self.mean or self.std)


def _check_numbers(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (0, 1, 3) or not all(isfinite(value) for value in values):
            raise ValueError(f"{name} is {list(values)}; it must be one number, or one for each of 3 channels.")
    if any(value <= 0 for value in std):
        raise ValueError(f"std is {list(std)}; every deviation must be above 0.")


# Mean, deviation, divisor, interpolation, and the part of the shorter side that the centre crop takes.
# imagenet, inception: torchvision's IMAGENET1K_V1 (256 to 224, 342 to 299); clip: OpenAI's CLIP.
_PRESETS: dict[Preset, tuple[tuple[float, ...], tuple[float, ...], float, Interpolation, float]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0, "bilinear", 0.875),
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        255.0,
        "bicubic",
        1.0,
    ),
    "inception": ((0.5,), (0.5,), 255.0, "bilinear", 0.875),
    "0-1": ((), (), 255.0, "bilinear", 1.0),
    "0-255": ((), (), 1.0, "bilinear", 1.0),
}
USUAL_SIDES: dict[Preset, int] = {"imagenet": 224, "clip": 224, "inception": 299}
"""The side of the images that networks of a preset take, where neither graph nor user says."""


def resolve(
    options: PreprocessingOptions, guess: Preset, layout: Layout, side: int, num_channels: int, *, is_guessed: bool
) -> Preprocessing:
    """Turn what a user said into preprocessing for a network that takes images of which `side` is the shorter side.

    `guess` stands in where nothing is said about the pixels.

    Raises: ValueError where the numbers do not fit the channels.
    """
    preset: Preset = options.preset or ("0-1" if options.states_normalisation else guess)
    mean, std, divisor, interpolation, share = _PRESETS[preset]
    if options.mean or options.std:
        mean, std = options.mean, options.std
        if not options.preset and max(map(abs, (*mean, *std))) > 1:
            divisor = 1.0
    for name, values in (("mean", mean), ("std", std)):
        if len(values) > num_channels:
            raise ValueError(f"{name} has {len(values)} numbers; the network takes images of one channel.")
    if 0 < options.size < side:
        raise ValueError(f"size is {options.size}; the network takes {side} pixels, so it must be at least that.")
    if options.channels == "bgr" and not options.mean:
        mean, std = mean[::-1], std[::-1]
    return Preprocessing(
        preset=preset if (mean, std) == _PRESETS[preset][:2] else "",
        resize=0 if options.crop == "none" else options.size or round(side / share),
        interpolation=options.interpolation or interpolation,
        divisor=divisor,
        mean=mean,
        std=std,
        layout=layout,
        channels=options.channels,
        is_guessed=is_guessed,
    )
