"""What a caller may ask of `invert`, and what comes back."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from service.schema import Answer, Parameters


class InvertParameters(Parameters):
    """The parameters of `invert`."""

    strength: Annotated[float, Meta(ge=0, le=1, description="From 0, the image itself, to 1, its negative.")] = 1.0


class InvertAnswer(Answer):
    """The answer of `invert`: each image as a PNG in base64."""

    model: str
    version: str
    images: list[str]
