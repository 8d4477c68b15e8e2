"""`POST /v1/models/{model}/embed` for texts, of language models too."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from service.http.answers import encode_json
from service.schema import Answer, Parameters, custom
from service.tasks.task import JsonRoute, TaskRequest
from service.tasks.text_vectors import Embedded, embed_texts
from service.threads import off_loop

MAX_TEXTS = 2048


def texts_of(value: Any) -> list[str]:
    """One text or several, as a list.

    Raises: ValueError.
    """
    texts = msgspec.convert(value if isinstance(value, list) else [value], list[str])
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise ValueError
    "".join(texts).encode("utf-8")  # refuses lone surrogates
    return texts


TEXTS = custom(
    "The text, or several.",
    texts_of,
    f"a text of Unicode characters, or a list of 1 to {MAX_TEXTS}",
    {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_TEXTS},
        ]
    },
)


class EmbedTextParameters(Parameters):
    """The parameters of `embed` for texts."""

    text: Annotated[list[str], TEXTS]


class TextEmbedding(Answer):
    """The vector of a text, of length 1; `num_tokens` counts those that begin and end it, too."""

    embedding: list[float]
    num_tokens: int


class EmbedTextAnswer(Answer):
    """The answer of `embed` for texts."""

    model: str
    version: str
    results: list[TextEmbedding]


class EmbedTexts(JsonRoute):
    """`POST /v1/models/{model}/embed` of encoders of texts."""

    task = "text-embedding"
    verb = "embed"
    parameters = EmbedTextParameters
    answers = (EmbedTextAnswer,)
    example = {"text": ["It was the best of times", "Call me Ishmael."]}
    description = (
        "Encoders of texts: what they were trained to give. Language models: the mean of the last hidden states of a "
        "text's tokens, without that of the token that begins it. A text that is longer than the model takes is "
        "refused, not cut."
    )

    async def answer(self, request: TaskRequest) -> msgspec.Raw:
        """Compute the vector of each text, of length 1."""
        parameters = await self.read(request, EmbedTextParameters)
        tokenizers = self.dependencies.tokenizers
        embedded = await embed_texts(tokenizers, request, self.work(request), parameters.text)
        return await off_loop(_rendered, request.model.name, request.model.version, embedded)


def _rendered(name: str, version: str, embedded: Embedded) -> msgspec.Raw:
    rows = zip(embedded.vectors.tolist(), embedded.num_tokens, strict=True)
    results = [TextEmbedding(embedding=vector, num_tokens=num_tokens) for vector, num_tokens in rows]
    return msgspec.Raw(encode_json(EmbedTextAnswer(model=name, version=version, results=results)))


class EmbedByLanguageModel(EmbedTexts):
    """`POST /v1/models/{model}/embed` of language models."""

    task = "text-generation"
    description = ""
