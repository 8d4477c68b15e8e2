"""Parameters and answers of the style-transfer routes."""

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
    """Parse `a:0.6,b:0.4` to weights by name, not yet normalized."""
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
    "A blend of styles with weights, which are normalized.",
    _blend,
    f"names with weights from 0 to {MAX_WEIGHT}, as in a:0.6,b:0.4, each name once and not all weights 0; "
    "GET .../styles lists the names",
    {"type": "string", "example": "great_wave:0.6,udnie:0.4", "maxLength": _MAX_TEXT},
)


class StylizeParameters(Parameters):
    """The parameters of `stylize`."""

    style: (
        Annotated[str, Meta(description="The style; `GET .../styles` lists them. Either this or `styles` is required.")]
        | None
    ) = None
    styles: Annotated[dict[str, float] | None, _BLEND] = None
    strength: Annotated[
        float, Meta(ge=0, le=1, description="From 0, the original photo, to 1, the stylized image.")
    ] = 1.0
    preserve_color: Annotated[
        bool, Meta(description="Keep the colors of the photo; take only the brightness of the stylized image.")
    ] = False
    format: (
        Annotated[
            Literal["jpeg", "png", "webp"], Meta(description="Format of the answer; that of the image by default.")
        ]
        | None
    ) = None
    quality: Annotated[int, Meta(ge=1, le=100, description="For JPEG and WebP.")] = 90

    @property
    def file_format(self) -> Format | None:
        """The format by Pillow's name."""
        return None if self.format is None else _FORMATS[self.format]

    @property
    def needs_network(self) -> bool:
        """Whether the stylized image is visible at all."""
        return self.strength > 0

    def weights(self, stylization: Stylization) -> NDArray[np.float32]:
        """The weights [S] of the model's styles, normalized to a sum of 1.

        Raises: InvalidParameter for an unknown style, or unless exactly one of `style` and `styles` is given.
        """
        known = [each.name for each in stylization.styles]
        if (self.style is None) == (self.styles is None):
            problem = "style is missing" if self.style is None else "style and styles are both given; give one of them"
            raise InvalidParameter(f"{problem}; known styles are {', '.join(known)}.", parameter="style")
        parts = {self.style: 1.0} if self.style is not None else self.styles or {}
        weights = np.zeros(len(known), np.float64)
        for name, weight in parts.items():
            if name not in known:
                raise InvalidParameter(
                    f"There is no style {shown(name)}; known are {', '.join(known)}.", parameter="style"
                )
            weights[known.index(name)] = weight
        normalized: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
        return normalized


class NoParameters(Parameters):
    """`styles` has no parameters."""


class ListedStyle(Answer):
    """One style; `thumbnail` is a data URL."""

    name: str
    thumbnail: str


class StylesAnswer(Answer):
    """The answer of `styles`, in the order of the weights."""

    model: str
    version: str
    styles: list[ListedStyle]
