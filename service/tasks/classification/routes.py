"""The routes of image classifiers: `classify` and `embed`."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from models.images import Invert
from service.engine.transport.client import ReadyModel
from service.engine.transport.messages import Arrays, InferTarget, Piece
from service.errors import ServiceError, UnsupportedTask
from service.http.answers import encode_json
from service.http.body import IMAGE_TYPES, RAW_TYPE, Images, media_type_of, read_query
from service.http.direct import Exchange
from service.http.request_context import Scope, request_timeout_seconds
from service.tasks.classification.process import explanation_png, top_predictions
from service.tasks.classification.schema import (
    DEFAULT_TOP_K,
    Classification,
    ClassifyAnswer,
    ClassifyParameters,
    EmbedAnswer,
    Embedding,
    EmbedParameters,
)
from service.tasks.image_decoding import Pixels
from service.tasks.image_files import encode_png
from service.tasks.task import Dependencies, ImagesRoute, TaskRequest
from service.threads import off_loop

NOVELTY = "novelty"  # an output that a classifier may have


class ClassifierRoute(ImagesRoute):
    """Base of both routes: reads images or a raw tensor as rows [H,W,C]."""

    task = "image-classification"
    tensor_graph = "model"

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self._decoder = dependencies.decoder

    def require(self, model: ReadyModel, output: str, what: str) -> None:
        """Check that a model's graph has an output, which imported networks may lack.

        Raises: UnsupportedTask.
        """
        outputs = [spec.name for spec in model.manifest.graphs[self.tensor_graph].outputs]
        if output not in outputs:
            raise UnsupportedTask(f"{model.name!r} gives no {what}: its graph has the outputs {outputs}.")


def _payload(rows: list[Pixels]) -> list[bytes | memoryview]:
    return [row.reshape(-1).data for row in rows]


def _novelty_output(model: ReadyModel) -> tuple[str, ...]:
    outputs = model.manifest.graphs["model"].outputs
    return (NOVELTY,) if any(spec.name == NOVELTY for spec in outputs) else ()


@dataclass(frozen=True, slots=True)
class _HeadFacts:
    is_plain: bool
    is_raw: bool
    top_k: int | None
    invert: Invert
    timeout_seconds: float


def _classification(arrays: Arrays, index: int, labels: Sequence[str], top_k: int) -> Classification:
    result = Classification(predictions=top_predictions(arrays["probabilities"][index], labels, top_k))
    if NOVELTY in arrays:
        result.novelty = float(arrays[NOVELTY][index])
        result.is_novel = result.novelty > 1
    return result


def _reply(model: ReadyModel, top_k: int, exchange: Exchange, arrays: Arrays) -> None:
    result = _classification(arrays, 0, model.manifest.labels or (), top_k)
    content = encode_json(ClassifyAnswer(model=model.name, version=model.version, results=[result]))
    exchange.reply(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(content), content)


class Classify(ClassifierRoute):
    """`POST /v1/models/{model}/classify`."""

    verb = "classify"
    parameters = ClassifyParameters
    answers = (ClassifyAnswer,)
    description = (
        "An explanation overlays the class activation map of the most probable label (Zhou et al. 2016) on the image. "
        "`novelty` says how unlike its training images the model finds the image: 5 % of real images exceed 1, and "
        "`is_novel` is true for those. A model that does not measure it omits both."
    )

    async def answer(self, request: TaskRequest) -> ClassifyAnswer:
        """Classify images; optionally explain each prediction or echo the input of the network."""
        labels = request.model.manifest.labels or ()
        images, parameters = await self.read(request, ClassifyParameters, {"top_k": len(labels)})
        if parameters.explain:
            self.require(request.model, "activation_map", "explanations")
        top_k = min(DEFAULT_TOP_K, len(labels)) if parameters.top_k is None else parameters.top_k
        work = self.work(request)
        rows = await self.rows(request, work, images, parameters.invert)
        outputs = ("probabilities", "activation_map") if parameters.explain else ("probabilities",)
        arrays = await self.infer(request, _payload(rows), outputs + _novelty_output(request.model), work=work)
        results = []
        for index, row in enumerate(rows):
            result = _classification(arrays, index, labels, top_k)
            if parameters.explain:
                activation_map = arrays["activation_map"][index, result.predictions[0].index]
                result.explanation = await self._explanation(row, activation_map)
            if parameters.echo_input:
                result.input = b64encode(encode_png(row)).decode("ascii")
            results.append(result)
        return ClassifyAnswer(model=request.model.name, version=request.model.version, results=results)

    # --- without ASGI ---

    def direct(self, exchange: Exchange, body: memoryview) -> None:
        """Begin to classify one image that is a raw tensor or decoded at once; all others take the usual way.

        Raises: ServiceError.
        """
        head = exchange.head
        if head.derived is None:
            head.derived = self._facts(head.scope)
        reference = head.path_params["model"]
        facts: _HeadFacts = head.derived
        if not facts.is_plain or self.client.has_canary(reference):
            exchange.run(self, bytes(body))
            return
        model = self.resolve(reference)
        num_labels = len(model.manifest.labels or ())
        top_k = min(DEFAULT_TOP_K, num_labels) if facts.top_k is None else facts.top_k
        row = self._row_at_once(model, facts, body) if top_k <= num_labels else None
        if row is None:
            exchange.run(self, bytes(body))
            return
        target = InferTarget(model.name, model.version, self.tensor_graph, ("probabilities", *_novelty_output(model)))
        deadline = asyncio.get_running_loop().time() + facts.timeout_seconds
        exchange.start(self.client, target, 1, (row,), deadline, partial(_reply, model, top_k))

    def _row_at_once(self, model: ReadyModel, facts: _HeadFacts, body: memoryview) -> Piece | None:
        row_shape = self.row_shape(model)
        if facts.is_raw:
            return body if len(body) == prod(row_shape) else None
        pixels = self._decoder.row_at_once(bytes(body), model.manifest, row_shape, facts.invert) if body else None
        return None if pixels is None else pixels.reshape(-1).data

    def _facts(self, scope: Scope) -> _HeadFacts:
        try:
            parameters = read_query(scope, ClassifyParameters)
            timeout_seconds = request_timeout_seconds(scope, self.settings)
        except ServiceError:  # the usual way says what is wrong first
            return _HeadFacts(False, False, None, "auto", 0.0)
        media_type, _ = media_type_of(scope)
        is_raw = media_type == RAW_TYPE
        is_plain = (is_raw or media_type in IMAGE_TYPES) and not parameters.explain and not parameters.echo_input
        return _HeadFacts(is_plain, is_raw, parameters.top_k, parameters.invert, timeout_seconds)

    async def _explanation(self, row: Pixels, activation_map: NDArray[np.float32]) -> str:
        png = await off_loop(explanation_png, row, activation_map)
        return b64encode(png).decode("ascii")


class Embed(ClassifierRoute):
    """`POST /v1/models/{model}/embed`."""

    verb = "embed"
    parameters = EmbedParameters
    answers = (EmbedAnswer,)
    description = "Classifiers: the features before the last layer, scaled to length 1."

    async def answer(self, request: TaskRequest) -> EmbedAnswer:
        """Compute the embedding of each image."""
        self.require_embeddings(request.model)
        images, parameters = await self.read(request, EmbedParameters)
        results = [Embedding(embedding=each) for each in await self.embeddings(request, images, parameters.invert)]
        return EmbedAnswer(model=request.model.name, version=request.model.version, results=results)

    def require_embeddings(self, model: ReadyModel) -> None:
        """Check that a model gives embeddings.

        Raises: UnsupportedTask.
        """
        self.require(model, "embedding", "embeddings")

    async def embeddings(self, request: TaskRequest, images: Images, invert: Invert = "auto") -> list[list[float]]:
        """The embedding of each image."""
        work = self.work(request)
        rows = await self.rows(request, work, images, invert)
        arrays = await self.infer(request, _payload(rows), ("embedding",), work=work)
        vectors: list[list[float]] = arrays["embedding"].tolist()
        return vectors
