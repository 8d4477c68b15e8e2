"""`POST /v1/embeddings`: texts and images as vectors. Source: OpenAI's API reference, embeddings."""

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
from service.http.answers import encode_json
from service.http.body import Images, checked_images, decoded_base64, read_json
from service.http.request_context import RequestContext, Scope, request_timeout_seconds
from service.protocols.openai.route import OpenAiRoute
from service.protocols.openai.schema import NEUTRAL
from service.schema import Answer, Parameters, custom, listed
from service.security import Key
from service.tasks.classification.routes import Embed
from service.tasks.engine_work import EngineWork
from service.tasks.image_generation.encoding_routes import EmbedLatent
from service.tasks.task import Dependencies, TaskRequest
from service.tasks.text_generation.schema import MAX_TEXT_TOKENS
from service.tasks.text_vectors import GRAPHS, Embedded, embed_texts, require_vectors
from service.threads import off_loop

MAX_INPUTS = 2048
_SCHEME = "data:image/"
_ENCODING = ";base64,"


_Token = Annotated[int, Meta(ge=0, lt=2**31)]
_Tokens = Annotated[list[_Token], Meta(min_length=1, max_length=MAX_TEXT_TOKENS)]


def _inputs(value: Any) -> list[str | list[int]]:
    """One input or several, texts or token ids, as a list."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(each) is int for each in value)):
        value = [value]
    inputs: list[str | list[int]] = msgspec.convert(value, list[str | _Tokens])
    if not 1 <= len(inputs) <= MAX_INPUTS or len({type(each) for each in inputs}) > 1:
        raise ValueError
    "".join(each for each in inputs if isinstance(each, str)).encode("utf-8")  # refuses lone surrogates
    return inputs


_TEXT = {"type": "string"}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_INPUT = custom(
    "Texts, or token ids, which are taken as they are; images, as `data:` URLs in base64.",
    _inputs,
    f"a text, a data: URL of an image, a list of token ids, or a list of 1 to {MAX_INPUTS} of one of these",
    {
        "anyOf": [
            _TEXT,
            _IDS,
            *({"type": "array", "items": e, "minItems": 1, "maxItems": MAX_INPUTS} for e in (_TEXT, _IDS)),
        ]
    },
)


class EmbeddingParameters(Parameters):
    """The parameters of embeddings."""

    neutral: ClassVar[Mapping[str, Sequence[Any] | None]] = NEUTRAL

    model: Annotated[
        str,
        Meta(
            description="`name` or `name@version` of an encoder of texts, a language model, a classifier with "
            "embeddings, or a generator with an encoder."
        ),
    ]
    input: Annotated[list[str | list[int]], _INPUT]
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
    """OpenAI's count of tokens, those that begin and end a text included; images have none."""

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
        "As `embed`, scaled to length 1. Texts go to an encoder or a language model; one that is longer than the model "
        "takes is refused, not cut. Images are `data:` URLs, for classifiers and generators."
    )
    example: ClassVar[dict[str, Any]] = {"model": "novelist", "input": ["It was the best of times", "Call me Ishmael."]}

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self._by_task: dict[str, Embed | EmbedLatent] = {kind.task: kind(dependencies) for kind in (Embed, EmbedLatent)}

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> msgspec.Raw:
        """Compute the embedding of each text or image, in OpenAI's wire format."""
        parameters = await read_json(scope, receive, context, EmbeddingParameters, self.settings.max_body_bytes)
        model = self.find(parameters.model, context, *GRAPHS, *self._by_task)
        self._require_embeddings(model, context.caller)
        request = TaskRequest(model, scope, receive, context)
        if model.manifest.task in self._by_task:
            embedded = await self._embedded_images(request, parameters.input)
        else:
            work = EngineWork(self.client, model, context, request_timeout_seconds(scope, self.settings))
            embedded = await embed_texts(self.tokenizers, request, work, parameters.input, "input")
        return await off_loop(_rendered, parameters, embedded, model.name)

    async def _embedded_images(self, request: TaskRequest, inputs: Sequence[str | list[int]]) -> Embedded:
        images = Images(names=[""] * len(inputs))
        checked_images(images, self.settings)
        images.encoded = await off_loop(lambda: [_image(index, url) for index, url in enumerate(inputs)])
        vectors = await self._by_task[request.model.manifest.task].embeddings(request, images)
        return Embedded(np.array(vectors, np.float32), [0])

    def _require_embeddings(self, model: ReadyModel, caller: Key) -> None:
        """Check that a model gives embeddings.

        Raises: UnsupportedTask, which names the models that can.
        """
        try:
            if embed := self._by_task.get(model.manifest.task):
                embed.require_embeddings(model)
            else:
                require_vectors(model)
        except UnsupportedTask as error:
            able = [error.message.rstrip("."), *self._able(caller)]
            raise UnsupportedTask(f"{'; '.join(able)}.", parameter="model") from error

    def _able(self, caller: Key) -> list[str]:
        """Which models that the caller may use embed images, and which texts."""
        names: dict[str, list[str]] = {"images": [], "texts": []}
        for status in self.client.statuses:
            if not (status.is_default and status.is_usable and caller.may_use(status.name)):
                continue
            manifest = self.client.resolve(status.name).manifest
            outputs = {spec.name for graph in manifest.graphs.values() for spec in graph.outputs}
            if GRAPHS.get(manifest.task) in manifest.graphs:
                names["texts"].append(status.name)
            elif manifest.task in self._by_task and ("embedding" in outputs or "encoder" in manifest.graphs):
                names["images"].append(status.name)
        return [f"{kind} are embedded by {listed(able)}" for kind, able in names.items() if able]


def _rendered(parameters: EmbeddingParameters, embedded: Embedded, name: str) -> msgspec.Raw:
    rows = _shortened(embedded.vectors, parameters.dimensions, name)
    data = [
        OpenAiEmbedding(object="embedding", index=index, embedding=_written(row, parameters.encoding_format))
        for index, row in enumerate(rows)
    ]
    num_tokens = sum(embedded.num_tokens)
    usage = EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens)
    return msgspec.Raw(encode_json(OpenAiEmbeddings(object="list", data=data, model=parameters.model, usage=usage)))


def _image(index: int, url: str | list[int]) -> bytes:
    """The file in a `data:` URL.

    Raises: InvalidParameter.
    """
    head, encoding, text = url.partition(_ENCODING) if isinstance(url, str) else ("", "", "")
    try:
        if not head.startswith(_SCHEME) or not encoding:
            raise ValueError
        return decoded_base64(text)
    except ValueError as error:
        raise InvalidParameter(
            f"input[{index}] is no image; it must be a data: URL like data:image/png;base64,... with the whole file.",
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
