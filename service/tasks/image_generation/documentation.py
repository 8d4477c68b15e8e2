"""What the OpenAPI document says of the routes that draw pictures: answers, bodies and an example of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from service.http.documentation import BINARY, PROBLEMS, TIMEOUT_HEADER
from service.http.multi_image import ZIP_TYPE
from service.tasks.image_generation.parameters import GENERATE
from service.tasks.parameters import Parameter
from service.tasks.text_generation import parameters as text_parameters
from service.tasks.text_generation.documentation import GENERATE_EXAMPLE as TEXT_EXAMPLE
from service.tasks.text_generation.documentation import GENERATE_RESPONSES, Generated, json_request


class DrawnImage(BaseModel):
    """One drawn picture, a PNG in base64, with the seed that draws it again; `latent` where it is asked for."""

    seed: int
    label: str | None = None
    index: int | None = None
    latent: list[float] | None = None
    image: str


class Drawn(BaseModel):
    """The answer of `generate` for image generators."""

    model: str
    version: str
    seed: int
    images: list[DrawnImage]


class DecodedImage(BaseModel):
    """One picture, a PNG in base64; `label` where the decoder takes one."""

    label: str | None = None
    image: str


class DecodedImages(BaseModel):
    """The answer of `decode`; that of `interpolate` too, from one end to the other."""

    model: str
    version: str
    images: list[DecodedImage]


class Reckoned(BaseModel):
    """The answer of `arithmetic`: a - b + c, and its picture, a PNG in base64."""

    model: str
    version: str
    latent: list[float]
    image: str


GENERATED: Any = Generated | Drawn
GENERATE_EXAMPLE = {"num_images": 4, "label": "Sneaker", "seed": 7}
DECODE_EXAMPLE = {"latents": [[0.1, -0.4, 1.3, 0.0]], "label": "Sneaker"}
INTERPOLATE_EXAMPLE = {"seeds": [1, 2], "steps": 9, "label": ["Sneaker", "Bag"], "format": "webp"}
ARITHMETIC_EXAMPLE = {"a": [1.0, 0.5, 0.0, -1.0], "b": [0.0, 0.5, 0.0, 0.0], "c": [0.0, 0.0, 1.0, 0.0]}

_SEED_HEADER = {"X-Seed": {"description": "The first picture's seed.", "schema": {"type": "integer"}}}


def drawn_responses(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that gives pictures as JSON or in files of these types."""
    answer = {"description": "The pictures, as `format` or else `Accept` says.", "content": _files(media_types)}
    return PROBLEMS | {200: answer}


def generate_request() -> dict[str, Any]:
    """The body that `generate` takes: of a text or of pictures; the latter may be told in the query."""
    texts, pictures = (
        json_request(known, example)["requestBody"]["content"]["application/json"]
        for known, example in (
            (text_parameters.GENERATE, TEXT_EXAMPLE),
            (GENERATE, GENERATE_EXAMPLE),
        )
    )
    content = {
        "schema": {"anyOf": [texts["schema"], pictures["schema"]]},
        "examples": {"text": {"value": texts["example"]}, "pictures": {"value": pictures["example"]}},
    }
    return query_request(GENERATE) | {"requestBody": {"content": {"application/json": content}}}


def query_request(parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The query that a route takes, from the parameters that it checks."""
    return {
        "parameters": [
            *({"name": name, "in": "query", "schema": parameter.described()} for name, parameter in parameters.items()),
            TIMEOUT_HEADER,
        ]
    }


def _files(media_types: Sequence[str]) -> dict[str, Any]:
    return dict.fromkeys(media_types, BINARY)


GENERATE_BOTH_RESPONSES: dict[int | str, dict[str, Any]] = GENERATE_RESPONSES | {
    200: {
        "description": "The text, as events with `stream`; or the pictures, as `format` or else `Accept` says.",
        "headers": _SEED_HEADER,
        "content": GENERATE_RESPONSES[200]["content"] | _files(("image/png", ZIP_TYPE)),
    }
}
ADDRESS_RESPONSES: dict[int | str, dict[str, Any]] = PROBLEMS | {
    200: drawn_responses("image/png", ZIP_TYPE)[200] | {"headers": _SEED_HEADER}
}
