"""What a caller may ask of a style-transfer network, and what comes back."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.images import Format
from models.stylization import Stylization
from service.errors import InvalidParameter
from service.schema import Answer, Parameters, custom, number_from_text, shown

MAX_WEIGHT = 1000
_MAX_TEXT = 8192
_PART = re.compile(r"\s*([^:,\s]+)\s*:\s*([^:,\s]+)\s*")
_FORMATS: dict[str, Format] = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}


def _blend(value: Any) -> dict[str, float]:
    """The weights by name of `a:0.6,b:0.4`, not yet normalised."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError
    weights: dict[str, float] = {}
    for part in value.split(","):
        if (found := _PART.fullmatch(part)) is None:
            raise ValueError
        weight = number_from_text(found[2])
        if not isinstance(weight, float) or not 0 <= weight <= MAX_WEIGHT or found[1] in weights:
            raise ValueError
        weights[found[1]] = weight
    if math.fsum(weights.values()) <= 0:
        raise ValueError
    return weights


_BLEND = custom(
    "A blend of styles with their weights, which are divided by their sum.",
    _blend,
    f"names with weights from 0 to {MAX_WEIGHT}, as in a:0.6,b:0.4, each name once and not all weights 0; "
    "GET .../styles lists the names",
    {"type": "string", "example": "great_wave:0.6,udnie:0.4", "maxLength": _MAX_TEXT},
)


class StylizeParameters(Parameters):
    """The parameters of `stylize`."""

    style: (
        Annotated[str, Meta(description="The style; `GET .../styles` lists them. Either this or `styles` is needed.")]
        | None
    ) = None
    styles: Annotated[dict[str, float] | None, _BLEND] = None
    strength: Annotated[
        float, Meta(ge=0, le=1, description="From 0, the photograph itself, to 1, the stylized image.")
    ] = 1.0
    preserve_color: Annotated[
        bool, Meta(description="Take only the brightness from the stylized image, the colors from the photograph.")
    ] = False
    format: (
        Annotated[
            Literal["jpeg", "png", "webp"], Meta(description="The format of the answer; that of the image if absent.")
        ]
        | None
    ) = None
    quality: Annotated[int, Meta(ge=1, le=100, description="For JPEG and WebP.")] = 90

    @property
    def file_format(self) -> Format | None:
        """The format as Pillow calls it."""
        return None if self.format is None else _FORMATS[self.format]

    @property
    def needs_network(self) -> bool:
        """Whether any of the stylized image is to be seen."""
        return self.strength > 0

    def weights(self, stylization: Stylization) -> NDArray[np.float32]:
        """The weights [S] of the model's styles, which add up to 1.

        Raises: InvalidParameter for an unknown style, for none, and for both `style` and `styles`.
        """
        known = [each.name for each in stylization.styles]
        if (self.style is None) == (self.styles is None):
            problem = "style is missing" if self.style is None else "style and styles are both given; one is enough"
            raise InvalidParameter(f"{problem}; known styles are {', '.join(known)}.", parameter="style")
        parts = {self.style: 1.0} if self.style is not None else self.styles or {}
        weights = np.zeros(len(known), np.float64)
        for name, weight in parts.items():
            if name not in known:
                raise InvalidParameter(
                    f"There is no style {shown(name)}; known are {', '.join(known)}.", parameter="style"
                )
            weights[known.index(name)] = weight
        normalised: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
        return normalised


class NoParameters(Parameters):
    """`styles` takes none."""


class ListedStyle(Answer):
    """One style; `thumbnail` is an image as a data URL."""

    name: str
    thumbnail: str


class StylesAnswer(Answer):
    """The styles of a model version, in the order of its weights."""

    model: str
    version: str
    styles: list[ListedStyle]
