"""`POST /v1/embeddings`: images as vectors. Source: OpenAI's API reference, embeddings."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from starlette.types import Receive

from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, UnsupportedTask
from service.http.body import Images, checked_images, decoded_base64, read_json
from service.http.request_context import RequestContext, Scope
from service.protocols.openai.route import OpenAiRoute
from service.protocols.openai.schema import NEUTRAL
from service.schema import Answer, Parameters, custom, listed
from service.security import Key
from service.tasks.classification.routes import Embed
from service.tasks.image_generation.encoding_routes import EmbedLatent
from service.tasks.task import Dependencies, TaskRequest
from service.threads import off_loop

MAX_INPUTS = 2048
_SCHEME = "data:image/"
_ENCODING = ";base64,"


def _inputs(value: Any) -> list[str]:
    inputs = msgspec.convert(value if isinstance(value, list) else [value], list[str])
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise ValueError
    return inputs


_TEXT = {"type": "string"}
_INPUT = custom(
    "Images, as `data:` URLs in base64.",
    _inputs,
    f"a data: URL of an image, or a list of 1 to {MAX_INPUTS}",
    {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_INPUTS}]},
)


class EmbeddingParameters(Parameters):
    """The parameters of embeddings."""

    neutral: ClassVar[Mapping[str, Sequence[Any] | None]] = NEUTRAL

    model: Annotated[
        str,
        Meta(description="`name` or `name@version` of a classifier with embeddings, or a generator with an encoder."),
    ]
    input: Annotated[list[str], _INPUT]
    encoding_format: Annotated[
        Literal["float", "base64"], Meta(description="A list of numbers, or little-endian float32 in base64.")
    ] = "float"
    dimensions: (
        Annotated[int, Meta(ge=1, le=65536, description="Keep so many of the first numbers; all if absent.")] | None
    ) = None


class OpenAiEmbedding(Answer):
    """One vector of length 1: a list of numbers, or float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """OpenAI's count of tokens, of which images have none."""

    prompt_tokens: int
    total_tokens: int


class OpenAiEmbeddings(Answer):
    """OpenAI's list of embeddings."""

    object: Literal["list"]
    data: list[OpenAiEmbedding]
    model: str
    usage: EmbeddingUsage


class Embeddings(OpenAiRoute):
    """`POST /v1/embeddings`."""

    path = "/v1/embeddings"
    parameters = EmbeddingParameters
    answers = (OpenAiEmbeddings,)
    description = (
        "As `embed`, scaled to length 1. Images are `data:` URLs; texts are refused, as no language model here gives "
        "its hidden states."
    )
    example: ClassVar[dict[str, Any]] = {"model": "fashion-mnist", "input": ["data:image/png;base64,iVBORw0KGgo..."]}

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self._by_task: dict[str, Embed | EmbedLatent] = {kind.task: kind(dependencies) for kind in (Embed, EmbedLatent)}

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> OpenAiEmbeddings:
        """Compute the embedding of each image, in OpenAI's wire format."""
        parameters = await read_json(scope, receive, context, EmbeddingParameters, self.settings.max_body_bytes)
        model = self.find(parameters.model, context, "text-generation", *self._by_task)
        embed = self._embedder(model, context.caller)
        images = Images(names=[""] * len(parameters.input))
        checked_images(images, self.settings)
        images.encoded = await off_loop(lambda: [_image(index, url) for index, url in enumerate(parameters.input)])
        vectors = np.array(await embed.embeddings(TaskRequest(model, scope, receive, context), images), np.float32)
        rows = _shortened(vectors, parameters.dimensions, model.name)
        data = [
            OpenAiEmbedding(object="embedding", index=index, embedding=_written(row, parameters.encoding_format))
            for index, row in enumerate(rows)
        ]
        usage = EmbeddingUsage(prompt_tokens=0, total_tokens=0)
        return OpenAiEmbeddings(object="list", data=data, model=parameters.model, usage=usage)

    def _embedder(self, model: ReadyModel, caller: Key) -> Embed | EmbedLatent:
        """What computes the embeddings of a model.

        Raises: UnsupportedTask, which names the models that can.
        """
        try:
            embed = self._by_task[model.manifest.task]
            embed.require_embeddings(model)
        except (KeyError, UnsupportedTask) as error:
            why = error.message.rstrip(".") if isinstance(error, UnsupportedTask) else f"{model.name!r} embeds no texts"
            able = "; ".join(filter(None, [why, self._able(caller)]))
            raise UnsupportedTask(f"{able}.", parameter="model") from error
        return embed

    def _able(self, caller: Key) -> str:
        names = []
        for status in self.client.statuses:
            is_able = status.is_default and status.is_usable and status.manifest.get("task") in self._by_task
            if not is_able or not caller.may_use(status.name):
                continue
            model = self.client.resolve(status.name)
            outputs = {spec.name for graph in model.manifest.graphs.values() for spec in graph.outputs}
            if "embedding" in outputs or "encoder" in model.manifest.graphs:
                names.append(status.name)
        return f"images are embedded by {listed(names)}" if names else ""


def _image(index: int, url: str) -> bytes:
    """The file in a `data:` URL.

    Raises: InvalidParameter.
    """
    head, encoding, text = url.partition(_ENCODING)
    try:
        if not head.startswith(_SCHEME) or not encoding:
            raise ValueError
        return decoded_base64(text)
    except ValueError as error:
        raise InvalidParameter(
            f"input[{index}] is no image; it must be a URL like data:image/png;base64,... with the whole file.",
            parameter="input",
        ) from error


def _shortened(vectors: NDArray[np.float32], dimensions: int | None, name: str) -> NDArray[np.float32]:
    """The first numbers of each vector, scaled to length 1.

    Raises: InvalidParameter for more than there are.
    """
    if dimensions is not None and dimensions > vectors.shape[1]:
        raise InvalidParameter(
            f"dimensions is {dimensions}; embeddings of {name!r} have {vectors.shape[1]}.", parameter="dimensions"
        )
    kept = vectors[:, :dimensions]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (kept / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def _written(row: NDArray[np.float32], encoding: str) -> list[float] | str:
    if encoding == "base64":
        return b64encode(row.astype("<f4").tobytes()).decode("ascii")
    numbers: list[float] = row.tolist()
    return numbers
