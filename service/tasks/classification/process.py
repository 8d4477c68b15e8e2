"""Image classification, HTTP-free: pictures and parameters to tensors, and probabilities to predictions.

It knows neither routes nor the engine. The picture of an explanation is drawn in `explanation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from models import images
from service.errors import InvalidParameter
from service.tasks.image_errors import service_errors

DEFAULT_TOP_K = 5

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_INVERTS: dict[str, images.Invert] = {"auto": "auto", "true": "true", "false": "false"}


class Prediction(TypedDict):
    """One class and how probable it is."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class ClassifyParameters:
    """What a caller may ask of a classification."""

    top_k: int
    explain: bool = False
    invert: images.Invert = "auto"
    echo_input: bool = False


def parse_parameters(query: Mapping[str, str], num_classes: int) -> ClassifyParameters:
    """Read `top_k`, `explain`, `invert` and `echo_input` from query values.

    Without `top_k` it is 5, or all classes where there are fewer.

    Raises: InvalidParameter, also for a name that is none of the four.
    """
    if not query:
        return ClassifyParameters(min(DEFAULT_TOP_K, num_classes))
    for name in query:
        if name not in ("top_k", "explain", "invert", "echo_input"):
            raise InvalidParameter(
                f"Unknown parameter {_quoted(name)}; known are top_k, explain, invert and echo_input."
            )
    return ClassifyParameters(
        top_k=_parse_top_k(query.get("top_k"), num_classes),
        explain=_parse_flag("explain", query.get("explain", "false")),
        invert=parse_invert(query.get("invert", "auto")),
        echo_input=_parse_flag("echo_input", query.get("echo_input", "false")),
    )


def parse_embed_parameters(query: Mapping[str, str]) -> images.Invert:
    """Read `invert`, the one parameter of an embedding.

    Raises: InvalidParameter, also for any other name.
    """
    for name in query:
        if name != "invert":
            raise InvalidParameter(f"Unknown parameter {_quoted(name)}; known is invert.")
    return parse_invert(query.get("invert", "auto"))


def _parse_top_k(value: str | None, num_classes: int) -> int:
    if value is None:
        return min(DEFAULT_TOP_K, num_classes)
    # Short ASCII digits only: int() would also take '1_0', ' 3 ' and Arabic digits.
    top_k = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if not 1 <= top_k <= num_classes:
        raise InvalidParameter(f"top_k is {_quoted(value)}; it must be a whole number from 1 to {num_classes}.")
    return top_k


def _parse_flag(name: str, value: str) -> bool:
    if (flag := _BOOLEANS.get(value)) is None:
        raise InvalidParameter(f"{name} is {_quoted(value)}; it must be true or false.")
    return flag


def parse_invert(value: str) -> images.Invert:
    """Read `invert`.

    Raises: InvalidParameter.
    """
    if (invert := _INVERTS.get(value)) is None:
        raise InvalidParameter(f"invert is {_quoted(value)}; it must be auto, true or false.")
    return invert


def _quoted(value: str) -> str:
    """The value for a message: escaped, so that a lone surrogate or a line break cannot reach the reply, and short."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}...'"


def image_row(
    body: bytes,
    row_shape: tuple[int, ...],
    light_on_dark: bool,
    invert: images.Invert,
    limits: images.ImageLimits,
    margin: float = images.DEFAULT_MARGIN,
) -> NDArray[np.uint8]:
    """Decode one picture to the row [H,W,C] that the network takes.

    Raises: UnsupportedMedia, PayloadTooLarge, UndecodableImage.
    """
    height, width, channels = row_shape
    with service_errors():
        return images.prepare(body, height, width, channels, light_on_dark, invert, limits, margin)


def num_pixels(body: bytes) -> int:
    """Count a picture's pixels by its header alone: small ones are decoded at once, large ones in a thread.

    Raises: UnsupportedMedia, UndecodableImage.
    """
    with service_errors():
        return images.pixels_of(body)


def raw_row(body: bytes, row_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """View a body of exactly H*W*C uint8 bytes as the row [H,W,C]; nothing is copied.

    Raises: InvalidParameter.
    """
    num_bytes = prod(row_shape)
    if len(body) != num_bytes:
        raise InvalidParameter(
            f"The body has {len(body)} bytes; a raw tensor has exactly {num_bytes}: "
            f"{'x'.join(map(str, row_shape))} uint8 values, row by row."
        )
    return np.frombuffer(body, np.uint8).reshape(row_shape)


def top_predictions(probabilities: NDArray[Any], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """Rank the `top_k` most probable of [K] classes, ties by index.

    The probabilities are those of the network, as Python floats; those of the classes left out are not redistributed.
    """
    values: list[float] = probabilities.tolist()
    if len(values) <= 64:  # sorting a short list costs less than calling NumPy
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
    else:
        least = np.partition(probabilities, -top_k)[-top_k]
        candidates = np.flatnonzero(probabilities >= least)
        order = candidates[np.argsort(-probabilities[candidates], kind="stable")][:top_k].tolist()
    return [{"label": labels[i], "index": i, "probability": values[i]} for i in order]
