"""Parameters and answers of the image-generation routes.

Labels and latents depend on the model: `label_indices` and `latent_rows` validate them.
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
    """A label by name or index, or a list of up to `most`, parsed to a tuple."""

    def parse(value: Any) -> Label | tuple[Label, ...]:
        values = value if isinstance(value, list) else [value]
        if not 1 <= len(values) <= most or any(type(label) not in (str, int) for label in values):
            raise ValueError
        return tuple(value) if isinstance(value, list) else value

    one: list[dict[str, Any]] = [{"type": "string"}, {"type": "integer", "minimum": 0}]
    many = {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": most}
    valid = f"the name or index of a label, or a list of up to {most}, one for each {each}"
    return custom(description, parse, valid, {"anyOf": [*one, many]})


def _list_of(least: int, most: int, kind: str, items: dict[str, Any], description: str) -> Meta:
    """A list of `least` to `most` values, which are checked later."""

    def parse(value: Any) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError
        return value

    count = f"{least}" if least == most else f"{least} to {most}"
    schema = {"type": "array", "items": items, "minItems": least, "maxItems": most}
    return custom(description, parse, f"a list of {count} {kind}", schema)


def _operand(description: str) -> Meta:
    """A latent, or one or more images in base64, which are averaged."""

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
    Meta(ge=0, le=NUM_SEEDS - 1, description="Seed of the first image; the others count up. Random by default."),
]
_Temperature = Annotated[float, Meta(ge=0, le=2, description="Scales the noise; below 1, images are less varied.")]
_Truncation = Annotated[
    float, Meta(ge=0.1, le=10, description="Noise of a larger magnitude is resampled: more typical images.")
]
_FilesFormat = Annotated[
    Literal["json", "png", "zip"],
    Meta(description="`png` is a labelled grid. By default as `Accept` says, or JSON."),
]
_GridFormat = Annotated[Literal["json", "png"], Meta(description="By default as `Accept` says, or JSON.")]


class GenerateParameters(Parameters):
    """The parameters of `generate` for image generators."""

    num_images: (
        Annotated[int, Meta(ge=1, le=MAX_IMAGES, description="Number of images; 1 by default, or one for each label.")]
        | None
    ) = None
    seed: _Seed | None = None
    label: Annotated[
        Label | tuple[Label, ...] | None,
        _labels(MAX_IMAGES, "One label for all images, or a list; by default, the seed decides."),
    ] = None
    temperature: _Temperature = 1.0
    truncation: _Truncation | None = None
    latents: Annotated[bool, Meta(description="Add the latent of each image to a JSON answer.")] = False
    format: _FilesFormat | None = None

    @property
    def count(self) -> int:
        """The number of images requested."""
        if self.num_images is None:
            return len(self.label) if isinstance(self.label, tuple) else 1
        return self.num_images


class DecodeParameters(Parameters):
    """The parameters of `decode`."""

    latents: Annotated[
        list[Any], _list_of(1, MAX_IMAGES, "latents", _LATENT, "Latents, each of the model's latent dimension.")
    ]
    label: Annotated[
        Label | tuple[Label, ...] | None,
        _labels(MAX_IMAGES, "One label for all latents, or a list; required if the decoder takes a label."),
    ] = None
    label_weights: Annotated[
        list[Any] | None,
        _list_of(
            1,
            MAX_IMAGES,
            "lists of weights",
            {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
            "In place of `label`, a mix: for each latent every label's weight, from 0 to 1. For models that blend.",
        ),
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
            "Seeds of the first and the last image, as in `generate`.",
        ),
    ] = None
    images: Annotated[
        list[Any] | None,
        _list_of(
            2,
            2,
            "images in base64",
            _BASE64,
            "The first and the last image, for models with an encoder. Either `seeds` or `images` is required.",
        ),
    ] = None
    steps: Annotated[int, Meta(ge=2, le=64, description="Number of images, both ends included.")] = 9
    path: Annotated[Literal["spherical", "linear"], Meta(description="Equal angles or equal distances.")] = "spherical"
    label: Annotated[
        Label | tuple[Label, ...] | None,
        _labels(2, "One label, or one for each end, between which it passes over where the model can blend.", "end"),
    ] = None
    temperature: _Temperature = 1.0
    truncation: _Truncation | None = None
    invert: InvertParameter = "auto"
    format: (
        Annotated[
            Literal["json", "png", "webp", "gif"],
            Meta(description="`webp` and `gif` loop back and forth. By default as `Accept` says, or JSON."),
        ]
        | None
    ) = None


class ArithmeticParameters(Parameters):
    """The parameters of `arithmetic`."""

    a: Annotated[str | list[Any], _operand("The operand to start from; images are encoded, several are averaged.")]
    b: Annotated[str | list[Any], _operand("The operand to subtract.")]
    c: Annotated[str | list[Any], _operand("The operand to add.")]
    label: Annotated[
        Label | tuple[Label, ...] | None, _labels(1, "Required if the encoder and the decoder take a label.")
    ] = None
    invert: InvertParameter = "auto"
    format: _GridFormat | None = None


class EncodeParameters(Parameters):
    """The parameters of `encode`, and of `embed` for image generators."""

    invert: InvertParameter = "auto"
    label: Annotated[
        Label | tuple[Label, ...] | None,
        _labels(1, "The label of all images; required if the encoder takes one, and accepted only then."),
    ] = None


class ReconstructParameters(EncodeParameters):
    """The parameters of `reconstruct`."""

    seed: Annotated[
        int,
        Meta(
            ge=0,
            le=NUM_SEEDS - 1,
            description="Seed of the latent samples that errors are averaged over; the same for every image.",
        ),
    ] = 0
    echo_input: Annotated[bool, Meta(description="Add the input of the network as `input`.")] = False
    format: (
        Annotated[
            Literal["json", "png"],
            Meta(
                description="`png` has a row for each image, with its reconstruction and error map. "
                "By default as `Accept` says, or JSON."
            ),
        ]
        | None
    ) = None


class GeneratedImage(Answer, kw_only=True):
    """One generated image, a PNG file in base64, and the seed that reproduces it; `latent` if requested."""

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
    """One image, a PNG file in base64; `label` if the decoder takes one."""

    label: str | UnsetType = UNSET
    image: str


class DecodeAnswer(Answer):
    """The answer of `decode` and `interpolate`."""

    model: str
    version: str
    images: list[DecodedImage]


class ArithmeticAnswer(Answer):
    """The answer of `arithmetic`: the latent a - b + c and its image, a PNG file in base64."""

    model: str
    version: str
    latent: list[float]
    image: str


class EncodedImage(Answer):
    """The latent of one image, a diagonal normal distribution."""

    mean: list[float]
    log_variance: list[float]


class EncodeAnswer(Answer):
    """The answer of `encode`."""

    model: str
    version: str
    results: list[EncodedImage]


class ReconstructedImage(Answer):
    """One reconstruction and its error map, PNG files in base64, with scores in nats; `input` if requested.

    `negative_elbo` is `rate` plus `distortion`. `anomaly_score` is `negative_elbo` minus the size of the image as an
    optimized PNG file: the higher, the less the image resembles the training data.
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
    """The label indices of `count` images; None if no label is given.

    Raises: InvalidParameter for an unknown label, or a list of the wrong length.
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
    """Look up a label by name, case-insensitively, or by index, which may be a string in a query."""
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
    """Validate the two seeds of a walk.

    Raises: InvalidParameter.
    """
    seed = fields_of(GenerateParameters)["seed"]
    return [parse_value(seed, value, f"seeds[{index}]") for index, value in enumerate(values)]


def latent_rows(name: str, values: Sequence[Any], num_latents: int) -> NDArray[np.float32]:
    """Validate latents [B,Z].

    Raises: InvalidParameter for a wrong length or a number out of range.
    """
    return np.stack([latent_row(f"{name}[{index}]", value, num_latents) for index, value in enumerate(values)])


def latent_row(name: str, values: Any, num_latents: int) -> NDArray[np.float32]:
    """Validate one latent [Z].

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


def weight_rows(values: Sequence[Any], count: int, num_labels: int) -> NDArray[np.float32]:
    """Validate the weights of labels [B,K], and scale each row to a sum of one.

    Raises: InvalidParameter for a wrong length, a number out of range or a row of zeros.
    """
    if len(values) != count:
        message = f"label_weights has {len(values)} lists; it must have {count}, one for each latent."
        raise InvalidParameter(message, parameter="label_weights")
    return np.stack([_weight_row(f"label_weights[{index}]", row, num_labels) for index, row in enumerate(values)])


def _weight_row(name: str, values: Any, num_labels: int) -> NDArray[np.float32]:
    if not isinstance(values, list) or len(values) != num_labels:
        raise refusal(name, values, f"a list of {num_labels} weights, one for each label")
    for index, value in enumerate(values):
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise refusal(f"{name}[{index}]", value, "a number from 0 to 1")
    total = sum(values)
    if total == 0:
        raise InvalidParameter(f"{name} has no weight above 0.", parameter="label_weights")
    return np.array([value / total for value in values], np.float32)


def decode_base64(name: str, text: Any) -> bytes:
    """Decode a file in base64.

    Raises: InvalidParameter.
    """
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidParameter(f"{name} is not valid base64.") from error
