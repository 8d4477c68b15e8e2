"""Parameters and answers of the classification routes."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from service.schema import Answer, Parameters
from service.tasks.image_decoding import InvertParameter

DEFAULT_TOP_K = 5
_MAX_TOP_K = 2**31 - 1


class ClassifyParameters(Parameters):
    """The parameters of `classify`."""

    top_k: (
        Annotated[
            int,
            Meta(ge=1, le=_MAX_TOP_K, description="Number of predictions; 5 by default, or all if there are fewer."),
        ]
        | None
    ) = None
    explain: Annotated[bool, Meta(description="Add a heat map of the pixels that the prediction is based on.")] = False
    invert: InvertParameter = "auto"
    echo_input: Annotated[bool, Meta(description="Add the input of the network as `input`.")] = False


class EmbedParameters(Parameters):
    """The parameters of `embed`."""

    invert: InvertParameter = "auto"


class Prediction(Answer):
    """A label and its probability."""

    label: str
    index: int
    probability: float


class Classification(Answer):
    """The most probable labels of one image; `explanation` and `input` are PNG files in base64.

    `novelty` says how unlike its training images the model finds this one: 5 % of real images exceed 1, and are
    `is_novel`. Models without such an output omit both.
    """

    predictions: list[Prediction]
    novelty: float | UnsetType = UNSET
    is_novel: bool | UnsetType = UNSET
    explanation: str | UnsetType = UNSET
    input: str | UnsetType = UNSET


class ClassifyAnswer(Answer):
    """The answer of `classify`."""

    model: str
    version: str
    results: list[Classification]


class Embedding(Answer):
    """The feature vector of one image."""

    embedding: list[float]


class EmbedAnswer(Answer):
    """The answer of `embed`."""

    model: str
    version: str
    results: list[Embedding]
