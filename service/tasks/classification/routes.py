"""The routes of image classifiers: `classify` and `embed`.

They turn bodies into rows and outputs into JSON; what happens to pixels is said in `tasks/classification.py`.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive

from models.images import Invert
from service.engine.transport.client import EngineClient, ReadyModel
from service.http.body import JsonPictures, Pictures, read_body, read_pictures
from service.http.image_decoding import PictureDecoder, Pixels
from service.http.inference import InferenceRoute
from service.http.request_context import RequestContext, Scope
from service.settings import Settings
from service.tasks.classification import process as classification
from service.tasks.classification.explanation import explanation_png
from service.tasks.png import encode_png
from service.telemetry.metrics import Metrics


class _JsonBody(JsonPictures, forbid_unknown_fields=True):
    top_k: int | None = None
    explain: bool | None = None
    echo_input: bool | None = None
    invert: str | bool | None = None


_json_decoder: msgspec.json.Decoder[JsonPictures] = msgspec.json.Decoder(_JsonBody)


class ClassifierRoute(InferenceRoute):
    """What both routes do: read pictures or one raw row, and fit them to the network."""

    task = "image-classification"

    def __init__(
        self, client: EngineClient, settings: Settings, metrics: Metrics, decoders: ThreadPoolExecutor
    ) -> None:
        super().__init__(client, settings)
        self._decoder = PictureDecoder(settings, metrics, decoders)
        self._threads = decoders

    async def read(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Pictures:
        """Read the body; its parameters are joined with the query's."""
        body = await read_body(scope, receive, self.settings.max_body_bytes)
        context.request_bytes = len(body)
        raw_bytes = prod(_row_shape(model))
        return await read_pictures(scope, body, _json_decoder, self.settings, raw_bytes=raw_bytes)

    async def rows(self, model: ReadyModel, pictures: Pictures, invert: Invert) -> list[Pixels]:
        """The rows [H,W,C] that the network is fed: the raw one as it came, or every picture decoded and fitted."""
        if pictures.raw is not None:
            return [classification.raw_row(pictures.raw, _row_shape(model))]
        return [await self._decoder.row(body, model.manifest, _row_shape(model), invert) for body in pictures.encoded]


def _row_shape(model: ReadyModel) -> tuple[int, ...]:
    return model.manifest.graphs["model"].inputs[0].row_shape


def _payload(rows: list[Pixels]) -> list[bytes | memoryview]:
    return [row.reshape(-1).data for row in rows]


class Classify(ClassifierRoute):
    """`POST /v1/models/{model}/classify`."""

    async def answer(
        self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext
    ) -> dict[str, Any]:
        """The likeliest labels of each picture; where asked for, an explanation and what the network was fed."""
        pictures = await self.read(model, scope, receive, context)
        labels = model.manifest.labels or ()
        parameters = classification.parse_parameters(pictures.parameters, len(labels))
        rows = await self.rows(model, pictures, parameters.invert)
        outputs = ("probabilities", "activation_map") if parameters.explain else ("probabilities",)
        arrays = await self.infer(model, scope, context, _payload(rows), outputs)
        results: list[dict[str, Any]] = [
            {"predictions": classification.top_predictions(probabilities, labels, parameters.top_k)}
            for probabilities in arrays["probabilities"]
        ]
        if parameters.explain:
            for result, row, maps in zip(results, rows, arrays["activation_map"], strict=True):
                result["explanation"] = await self._explanation(row, maps[result["predictions"][0]["index"]])
        if parameters.echo_input:
            for result, row in zip(results, rows, strict=True):
                result["input"] = b64encode(encode_png(row)).decode("ascii")
        return {"model": model.name, "version": model.version, "results": results}

    async def _explanation(self, row: Pixels, activation_map: NDArray[np.float32]) -> str:
        loop = asyncio.get_running_loop()
        png = await loop.run_in_executor(self._threads, explanation_png, row, activation_map)
        return b64encode(png).decode("ascii")


class Embed(ClassifierRoute):
    """`POST /v1/models/{model}/embed`."""

    async def answer(
        self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext
    ) -> dict[str, Any]:
        """The unit-length feature vector of each picture."""
        pictures = await self.read(model, scope, receive, context)
        invert = classification.parse_embed_parameters(pictures.parameters)
        rows = await self.rows(model, pictures, invert)
        arrays = await self.infer(model, scope, context, _payload(rows), ("embedding",))
        results = [{"embedding": embedding.tolist()} for embedding in arrays["embedding"]]
        return {"model": model.name, "version": model.version, "results": results}
