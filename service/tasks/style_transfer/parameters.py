"""What a caller may ask of a stylizer: the parameters with their ranges, and the style or the blend that they name.

It knows neither pictures nor the engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from models.images import Format
from models.stylization import Stylization
from service.errors import InvalidParameter
from service.tasks.parameters import Choice, Flag, Number, Parameter, Text, Whole, read_parameters, shown

MAX_WEIGHT = 1000
_MAX_TEXT = 8192
_WEIGHT = Number(low=0, high=MAX_WEIGHT, about="")
_PART = re.compile(r"\s*([^:,\s]+)\s*:\s*([^:,\s]+)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend(Parameter):
    """Styles with their weights, `a:0.6,b:0.4`; they become a mapping whose weights are not yet normalised."""

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return (
            f"names with weights from 0 to {MAX_WEIGHT}, as in a:0.6,b:0.4, each name once and not all weights 0; "
            "GET .../styles lists the names"
        )

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        return isinstance(value, str) and len(value) <= _MAX_TEXT and _blend(value) is not None

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        return {"type": "string", "example": "great_wave:0.6,udnie:0.4", "maxLength": _MAX_TEXT}

    def convert(self, value: Any) -> dict[str, float]:
        """A value that fits, as the program wants it."""
        return _blend(value) or {}


def _blend(text: str) -> dict[str, float] | None:
    """The weights by name; None where the text is no blend."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        if (found := _PART.fullmatch(part)) is None:
            return None
        weight = _WEIGHT.from_text(found[2])
        if not _WEIGHT.accepts(weight) or found[1] in weights:
            return None
        weights[found[1]] = _WEIGHT.convert(weight)
    return weights if sum(weights.values()) > 0 else None


STYLIZE: dict[str, Parameter] = {
    "style": Text(about="The style; `GET .../styles` lists them. Either this or `styles` is needed."),
    "styles": Blend(about="A blend of styles with their weights, which are divided by their sum."),
    "strength": Number(low=0, high=1, default=1.0, about="From 0, the photograph itself, to 1, the painting."),
    "preserve_color": Flag(default=False, about="Take only the brightness from the painting, the colours from below."),
    "format": Choice(words=("jpeg", "png", "webp"), about="The format of the answer; that of the picture if absent."),
    "quality": Whole(low=1, high=100, default=90, about="For JPEG and WebP."),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of each picture: the weights of the styles float32 [S], and how the painting is laid on it."""

    weights: NDArray[np.float32]
    strength: float
    preserve_color: bool
    format: Format | None
    quality: int

    @property
    def needs_network(self) -> bool:
        """Whether any of the painting is to be seen."""
        return self.strength > 0


def parse_wanted(values: Mapping[str, Any], stylization: Stylization) -> Wanted:
    """Check the parameters of a request, JSON values by name.

    Raises: InvalidParameter.
    """
    members = read_parameters(values, STYLIZE)
    return Wanted(
        weights=_weights(members["style"], members["styles"], stylization),
        strength=members["strength"],
        preserve_color=members["preserve_color"],
        format=cast(Format, members["format"].upper()) if members["format"] else None,
        quality=members["quality"],
    )


def _weights(style: str | None, styles: dict[str, float] | None, stylization: Stylization) -> NDArray[np.float32]:
    known = [each.name for each in stylization.styles]
    if (style is None) == (styles is None):
        problem = "style is missing" if style is None else "style and styles are both given; one is enough"
        raise InvalidParameter(f"{problem}; known styles are {', '.join(known)}.", parameter="style")
    parts = {style: 1.0} if style is not None else styles or {}
    weights = np.zeros(len(known), np.float64)
    for name, weight in parts.items():
        if name not in known:
            raise InvalidParameter(f"There is no style {shown(name)}; known are {', '.join(known)}.", parameter="style")
        weights[known.index(name)] = weight
    normalised: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return normalised
