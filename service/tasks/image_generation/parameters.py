"""What a caller may ask of a generator of pictures: the parameters with their ranges, labels and latents by a model.

It knows neither the engine nor how an answer is written.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidParameter
from service.tasks.image_generation.latents import NUM_SEEDS
from service.tasks.parameters import Choice, Flag, Number, Parameter, Whole, read_parameters, shown

MAX_IMAGES = 256
MAX_MEAN_PICTURES = 64
MAX_LATENT = 1000
_MAX_LABELS_SHOWN = 100

Label = str | int
DrawnFormat = Literal["json", "png", "zip"]
WalkFormat = Literal["json", "png", "webp", "gif"]
Path = Literal["spherical", "linear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels(Parameter):
    """A label by its name or index, or a list of 1 to `most`, which becomes a tuple."""

    most: int
    each: str = "picture"

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"the name or the index of a label, or a list of up to {self.most} of them, one for each {self.each}"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        values = value if isinstance(value, list) else [value]
        return 1 <= len(values) <= self.most and all(type(each) in (str, int) for each in values)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        one = [{"type": "string"}, {"type": "integer", "minimum": 0}]
        many = {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": self.most}
        return {"anyOf": [*one, many]}

    def convert(self, value: Any) -> Label | tuple[Label, ...]:
        """A value that fits, as the program wants it."""
        return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Items(Parameter):
    """A list of `least` to `most` values of one kind; what each must be is said by whoever reads them."""

    least: int
    most: int
    kind: str
    items: Mapping[str, Any]

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"a list of {count} {self.kind}"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        return isinstance(value, list) and self.least <= len(value) <= self.most

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        return {"type": "array", "items": dict(self.items), "minItems": self.least, "maxItems": self.most}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(Parameter):
    """A latent, as a list of numbers, or one picture or some to be averaged, as base64 texts."""

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"a picture in base64, a list of up to {MAX_MEAN_PICTURES} pictures, or a latent, a list of numbers"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        if not isinstance(value, list):
            return isinstance(value, str)
        are_pictures = len(value) <= MAX_MEAN_PICTURES and all(isinstance(each, str) for each in value)
        return bool(value) and (are_pictures or not any(isinstance(each, str) for each in value))

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        many = {"type": "array", "items": _PICTURE, "minItems": 1, "maxItems": MAX_MEAN_PICTURES}
        return {"anyOf": [_PICTURE, many, _LATENT]}


_PICTURE = {"type": "string", "format": "byte"}
_LATENT = {"type": "array", "items": {"type": "number", "minimum": -MAX_LATENT, "maximum": MAX_LATENT}}
_SEED = Whole(low=0, high=NUM_SEEDS - 1, about="The first picture's seed; those of the next follow. Random if absent.")
_TEMPERATURE = Number(low=0, high=2, default=1.0, about="Multiplies the noise: less varied pictures below 1.")
_TRUNCATION = Number(low=0.1, high=10, about="Noise of a larger magnitude is drawn again: more typical pictures.")
_INVERT = Choice(words=("auto", "true", "false"), default="auto", about="For pictures, as in `classify`.")
_DRAWN_FORMAT = Choice(
    words=("json", "png", "zip"), about="`png`: a labelled grid. If absent, what `Accept` names, or else JSON."
)
_STILL_FORMAT = Choice(words=("json", "png"), about="If absent, what `Accept` names, or else JSON.")

GENERATE: dict[str, Parameter] = {
    "num_images": Whole(low=1, high=MAX_IMAGES, about="1 if absent, or one for each of a list of labels."),
    "seed": _SEED,
    "label": Labels(most=MAX_IMAGES, about="For all pictures, or a list with one for each; drawn by seed if absent."),
    "temperature": _TEMPERATURE,
    "truncation": _TRUNCATION,
    "latents": Flag(default=False, about="Tell each picture's latent in the JSON answer, for `decode`."),
    "format": _DRAWN_FORMAT,
}
DECODE: dict[str, Parameter] = {
    "latents": Items(
        least=1,
        most=MAX_IMAGES,
        kind="latents",
        items=_LATENT,
        required=True,
        about="As many numbers each as the model's latents have.",
    ),
    "label": Labels(most=MAX_IMAGES, about="For all, or a list with one for each; needed where the decoder takes it."),
    "format": _DRAWN_FORMAT,
}
INTERPOLATE: dict[str, Parameter] = {
    "seeds": Items(
        least=2, most=2, kind="seeds", items=_SEED.schema(), about="Where the walk starts and ends, as in `generate`."
    ),
    "images": Items(
        least=2,
        most=2,
        kind="pictures in base64",
        items=_PICTURE,
        about="The same as pictures, for models with an encoder. Either `seeds` or `images` is needed.",
    ),
    "steps": Whole(low=2, high=64, default=9, about="Pictures of the walk, both ends included."),
    "path": Choice(words=("spherical", "linear"), default="spherical", about="Equal angles, or equal distances."),
    "label": Labels(most=2, each="end", about="For the whole walk, or one for each end, which change halfway."),
    "temperature": _TEMPERATURE,
    "truncation": _TRUNCATION,
    "invert": _INVERT,
    "format": Choice(
        words=("json", "png", "webp", "gif"),
        about="`webp` and `gif`: there and back, for ever. If absent, what `Accept` names, or else JSON.",
    ),
}
ARITHMETIC: dict[str, Parameter] = {
    "a": Point(required=True, about="From this; pictures are encoded, several averaged,"),
    "b": Point(required=True, about="this is subtracted,"),
    "c": Point(required=True, about="and this is added."),
    "label": Labels(most=1, about="Needed where the encoder and the decoder take one."),
    "invert": _INVERT,
    "format": _STILL_FORMAT,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pictures a caller wants: `labels` are indices, None where each seed tells its own."""

    num_images: int
    seed: int | None
    labels: list[int] | None
    temperature: float
    truncation: float | None
    tells_latents: bool
    format: DrawnFormat | None


def parse_generate(values: Mapping[str, Any], known: Sequence[str]) -> Wanted:
    """Check the parameters of `generate`, JSON values by name.

    Raises: InvalidParameter.
    """
    members = read_parameters(values, GENERATE)
    label, num_images = members["label"], members["num_images"]
    if num_images is None:
        num_images = len(label) if isinstance(label, tuple) else 1
    return Wanted(
        num_images=num_images,
        seed=members["seed"],
        labels=label_indices(label, num_images, known),
        temperature=members["temperature"],
        truncation=members["truncation"],
        tells_latents=members["latents"],
        format=members["format"],
    )


def label_indices(
    value: Label | tuple[Label, ...] | None, count: int, known: Sequence[str], each: str = "picture"
) -> list[int] | None:
    """The index of the label of each of `count` pictures; None where no label is asked for.

    Raises: InvalidParameter where a label is unknown, or the list is not as long as it must be.
    """
    if value is None:
        return None
    if not isinstance(value, tuple):
        return [_label_index(value, known)] * count
    if len(value) != count:
        told = f"label is a list of {len(value)}; it must have {count}, one for each {each}."
        raise InvalidParameter(told, parameter="label")
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
    return [_SEED.read(f"seeds[{index}]", value) for index, value in enumerate(values)]


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
        _LATENT_NUMBER.read(f"{name}[{index}]", value)
    return np.array(values, np.float32)


_LATENT_NUMBER = Number(low=-MAX_LATENT, high=MAX_LATENT, about="")


def picture_bytes(name: str, text: Any) -> bytes:
    """The file that a base64 text holds.

    Raises: InvalidParameter.
    """
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidParameter(f"{name} is not valid base64.") from error
