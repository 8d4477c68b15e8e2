"""What a caller may ask of an image generator, and what comes back.

Labels and latents depend on the model: `label_indices` and `latent_rows` check them against it.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from service.errors import InvalidParameter
from service.schema import Answer, Parameters, custom, fields_of, parse_value, refusal, shown
from service.tasks.image_decoding import InvertParameter
from service.tasks.image_generation.process import NUM_SEEDS

MAX_IMAGES = 256
MAX_AVERAGED_IMAGES = 64
MAX_LATENT = 1000
_MAX_LABELS_SHOWN = 100

Label = str | int
_LATENT_NUMBER = Annotated[float, Meta(ge=-MAX_LATENT, le=MAX_LATENT)]
_LATENT = {"type": "array", "items": {"type": "number", "minimum": -MAX_LATENT, "maximum": MAX_LATENT}}
_BASE64 = {"type": "string", "format": "byte"}


def _labels(most: int, description: str, each: str = "image") -> Meta:
    """A label by its name or index, or a list of 1 to `most`, which becomes a tuple."""

    def parse(value: Any) -> Label | tuple[Label, ...]:
        values = value if isinstance(value, list) else [value]
        if not 1 <= len(values) <= most or any(type(label) not in (str, int) for label in values):
            raise ValueError
        return tuple(value) if isinstance(value, list) else value

    one: list[dict[str, Any]] = [{"type": "string"}, {"type": "integer", "minimum": 0}]
    many = {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": most}
    valid = f"the name or the index of a label, or a list of up to {most} of them, one for each {each}"
    return custom(description, parse, valid, {"anyOf": [*one, many]})


def _list_of(least: int, most: int, kind: str, items: dict[str, Any], description: str) -> Meta:
    """A list of `least` to `most` values, each of which is checked later."""

    def parse(value: Any) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError
        return value

    count = f"{least}" if least == most else f"{least} to {most}"
    schema = {"type": "array", "items": items, "minItems": least, "maxItems": most}
    return custom(description, parse, f"a list of {count} {kind}", schema)


def _point(description: str) -> Meta:
    """A latent as a list of numbers, or one image or several to be averaged, in base64."""

    def parse(value: Any) -> str | list[Any]:
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not value:
            raise ValueError
        num_texts = sum(isinstance(each, str) for each in value)
        if num_texts and (num_texts < len(value) or num_texts > MAX_AVERAGED_IMAGES):
            raise ValueError
        return value

    many = {"type": "array", "items": _BASE64, "minItems": 1, "maxItems": MAX_AVERAGED_IMAGES}
    valid = f"an image in base64, a list of up to {MAX_AVERAGED_IMAGES} images, or a latent, a list of numbers"
    return custom(description, parse, valid, {"anyOf": [_BASE64, many, _LATENT]})


_Seed = Annotated[
    int,
    Meta(ge=0, le=NUM_SEEDS - 1, description="The first image's seed; those of the next follow. Random if absent."),
]
_Temperature = Annotated[float, Meta(ge=0, le=2, description="Multiplies the noise: less varied images below 1.")]
_Truncation = Annotated[
    float, Meta(ge=0.1, le=10, description="Noise of a larger magnitude is drawn again: more typical images.")
]
_FilesFormat = Annotated[
    Literal["json", "png", "zip"],
    Meta(description="`png`: a labelled grid. If absent, what `Accept` names, or else JSON."),
]
_GridFormat = Annotated[Literal["json", "png"], Meta(description="If absent, what `Accept` names, or else JSON.")]


class GenerateParameters(Parameters):
    """The parameters of `generate` for image generators."""

    num_images: (
        Annotated[int, Meta(ge=1, le=MAX_IMAGES, description="1 if absent, or one for each of a list of labels.")]
        | None
    ) = None
    seed: _Seed | None = None
    label: Annotated[
        Label | tuple[Label, ...] | None,
        _labels(MAX_IMAGES, "For all images, or a list with one for each; chosen by the seed if absent."),
    ] = None
    temperature: _Temperature = 1.0
    truncation: _Truncation | None = None
    latents: Annotated[bool, Meta(description="Add each image's latent to the JSON answer, for `decode`.")] = False
    format: _FilesFormat | None = None

    @property
    def count(self) -> int:
        """How many images are asked for."""
        if self.num_images is None:
            return len(self.label) if isinstance(self.label, tuple) else 1
        return self.num_images


class DecodeParameters(Parameters):
    """The parameters of `decode`."""

    latents: Annotated[
        list[Any], _list_of(1, MAX_IMAGES, "latents", _LATENT, "As many numbers each as the model's latents have.")
    ]
    label: Annotated[
        Label | tuple[Label, ...] | None,
        _labels(MAX_IMAGES, "For all, or a list with one for each; needed where the decoder takes it."),
    ] = None
    format: _FilesFormat | None = None


class InterpolateParameters(Parameters):
    """The parameters of `interpolate`."""

    seeds: Annotated[
        list[Any] | None,
        _list_of(
            2,
            2,
            "seeds",
            {"type": "integer", "minimum": 0, "maximum": NUM_SEEDS - 1},
            "Where the walk starts and ends, as in `generate`.",
        ),
    ] = None
    images: Annotated[
        list[Any] | None,
        _list_of(
            2,
            2,
            "images in base64",
            _BASE64,
            "The same as images, for models with an encoder. Either `seeds` or `images` is needed.",
        ),
    ] = None
    steps: Annotated[int, Meta(ge=2, le=64, description="Images of the walk, both ends included.")] = 9
    path: Annotated[Literal["spherical", "linear"], Meta(description="Equal angles, or equal distances.")] = "spherical"
    label: Annotated[
        Label | tuple[Label, ...] | None,
        _labels(2, "For the whole walk, or one for each end, which change halfway.", "end"),
    ] = None
    temperature: _Temperature = 1.0
    truncation: _Truncation | None = None
    invert: InvertParameter = "auto"
    format: (
        Annotated[
            Literal["json", "png", "webp", "gif"],
            Meta(
                description="`webp` and `gif`: there and back, for ever. If absent, what `Accept` names, or else JSON."
            ),
        ]
        | None
    ) = None


class ArithmeticParameters(Parameters):
    """The parameters of `arithmetic`."""

    a: Annotated[str | list[Any], _point("From this; images are encoded, several averaged,")]
    b: Annotated[str | list[Any], _point("this is subtracted,")]
    c: Annotated[str | list[Any], _point("and this is added.")]
    label: Annotated[
        Label | tuple[Label, ...] | None, _labels(1, "Needed where the encoder and the decoder take one.")
    ] = None
    invert: InvertParameter = "auto"
    format: _GridFormat | None = None


class EncodeParameters(Parameters):
    """The parameters of `encode`, and of `embed` for image generators."""

    invert: InvertParameter = "auto"
    label: Annotated[
        Label | tuple[Label, ...] | None,
        _labels(1, "Of all images of the request; needed where the encoder takes one, and only there."),
    ] = None


class ReconstructParameters(EncodeParameters):
    """The parameters of `reconstruct`."""

    seed: Annotated[
        int,
        Meta(
            ge=0,
            le=NUM_SEEDS - 1,
            description="Of the noise that errors are averaged over; it is the same for every image.",
        ),
    ] = 0
    echo_input: Annotated[bool, Meta(description="Add the pixels that the network was given, as `input`.")] = False
    format: (
        Annotated[
            Literal["json", "png"],
            Meta(
                description="`png`: a line for each image, with its reconstruction and its errors. "
                "If absent, what `Accept` names, or else JSON."
            ),
        ]
        | None
    ) = None


class GeneratedImage(Answer, kw_only=True):
    """One generated image, a PNG in base64, with the seed that gives it again; `latent` where it is asked for."""

    seed: int
    label: str | UnsetType = UNSET
    index: int | UnsetType = UNSET
    latent: list[float] | UnsetType = UNSET
    image: str


class GenerateImagesAnswer(Answer):
    """The answer of `generate` for image generators."""

    model: str
    version: str
    seed: int
    images: list[GeneratedImage]


class DecodedImage(Answer, kw_only=True):
    """One image, a PNG in base64; `label` where the decoder takes one."""

    label: str | UnsetType = UNSET
    image: str


class DecodeAnswer(Answer):
    """The answer of `decode`; that of `interpolate` too, from one end to the other."""

    model: str
    version: str
    images: list[DecodedImage]


class ArithmeticAnswer(Answer):
    """The answer of `arithmetic`: a - b + c, and its image, a PNG in base64."""

    model: str
    version: str
    latent: list[float]
    image: str


class EncodedImage(Answer):
    """The latent of one image: a normal distribution, number by number."""

    mean: list[float]
    log_variance: list[float]


class EncodeAnswer(Answer):
    """The answer of `encode`."""

    model: str
    version: str
    results: list[EncodedImage]


class ReconstructedImage(Answer):
    """One image as the model reconstructs it and the colormap of its errors, PNGs in base64; and its scores in nats.

    `input`, where it is asked for, holds the very pixels that the network was given.

    `negative_elbo`, `rate` and `distortion` together, is what the model needs for the image; `anomaly_score` is that
    less what an optimised PNG file needs: the higher, the less the image is like those that the model was trained on.
    """

    image: str
    error_map: str
    anomaly_score: float
    negative_elbo: float
    rate: float
    distortion: float
    input: str | UnsetType = UNSET


class ReconstructAnswer(Answer):
    """The answer of `reconstruct`."""

    model: str
    version: str
    results: list[ReconstructedImage]


def label_indices(
    value: Label | tuple[Label, ...] | None, count: int, known: Sequence[str], each: str = "image"
) -> list[int] | None:
    """The index of the label of each of `count` images; None where none is asked for.

    Raises: InvalidParameter where a label is unknown, or the list is not as long as it must be.
    """
    if value is None:
        return None
    if not isinstance(value, tuple):
        return [_label_index(value, known)] * count
    if len(value) != count:
        message = f"label is a list of {len(value)}; it must have {count}, one for each {each}."
        raise InvalidParameter(message, parameter="label")
    return [_label_index(one, known) for one in value]


def _label_index(value: Label, known: Sequence[str]) -> int:
    """By name, in any case; or by index, which a query spells as text."""
    if isinstance(value, str):
        folded = value.casefold()
        for index, name in enumerate(known):
            if name.casefold() == folded:
                return index
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
    if isinstance(value, int) and 0 <= value < len(known):
        return value
    names = ", ".join(f"{name} ({index})" for index, name in enumerate(known[:_MAX_LABELS_SHOWN]))
    more = f" and {len(known) - _MAX_LABELS_SHOWN} more" if len(known) > _MAX_LABELS_SHOWN else ""
    raise InvalidParameter(f"There is no label {shown(value)}; known are {names}{more}.", parameter="label")


def two_seeds(values: Sequence[Any]) -> list[int]:
    """The seeds of both ends of a walk.

    Raises: InvalidParameter.
    """
    seed = fields_of(GenerateParameters)["seed"]
    return [parse_value(seed, value, f"seeds[{index}]") for index, value in enumerate(values)]


def latent_rows(name: str, values: Sequence[Any], num_latents: int) -> NDArray[np.float32]:
    """Latents [B, Z] of a list of lists.

    Raises: InvalidParameter where one has another length, or holds what is no moderate number.
    """
    return np.stack([latent_row(f"{name}[{index}]", value, num_latents) for index, value in enumerate(values)])


def latent_row(name: str, values: Any, num_latents: int) -> NDArray[np.float32]:
    """One latent [Z].

    Raises: InvalidParameter.
    """
    if not isinstance(values, list):
        raise InvalidParameter(f"{name} is {shown(values)}; it must be a list of {num_latents} numbers.")
    if len(values) != num_latents:
        raise InvalidParameter(f"{name} has {len(values)} numbers; a latent of this model has {num_latents}.")
    for index, value in enumerate(values):
        try:
            msgspec.convert(value, _LATENT_NUMBER)
        except msgspec.ValidationError as error:
            raise refusal(f"{name}[{index}]", value, f"a number from {-MAX_LATENT} to {MAX_LATENT}") from error
    return np.array(values, np.float32)


def image_bytes(name: str, text: Any) -> bytes:
    """The file that a base64 text holds.

    Raises: InvalidParameter.
    """
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidParameter(f"{name} is not valid base64.") from error
