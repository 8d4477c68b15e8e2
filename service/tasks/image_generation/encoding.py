"""The routes of encoders: `encode` and `embed` to latents, `reconstruct` to pictures and how surprising they are.

Pictures are taken and prepared exactly as a classifier's; what the graphs compute of them is told as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive

from service.engine.transport.client import ReadyModel
from service.engine.transport.messages import Arrays
from service.http.body import JsonDecoder, JsonPictures, Pictures, read_body, read_pictures
from service.http.engine_work import together
from service.http.image_decoding import Pixels
from service.http.inference import BinaryAnswer
from service.http.request_context import RequestContext, Scope
from service.tasks.classification import process as classification
from service.tasks.image_generation.anomaly import anomaly_score
from service.tasks.image_generation.drawing import Drawing, Indices, checked_labels, require_encoder
from service.tasks.image_generation.encoding_parameters import ENCODE, RECONSTRUCT
from service.tasks.image_generation.latents import draw
from service.tasks.image_generation.parameters import label_indices
from service.tasks.image_generation.rendering import encode_png, error_colors, reconstruction_strips
from service.tasks.image_generation.routes import DrawingRoute, chosen_format, in_base64
from service.tasks.parameters import Parameter, read_parameters, spelled


class _EncodeBody(JsonPictures, forbid_unknown_fields=True):
    invert: str | bool | None = None
    label: str | int | None = None


class _ReconstructBody(_EncodeBody, forbid_unknown_fields=True):
    seed: int | None = None
    echo_input: bool | None = None
    format: str | None = None


_encode_decoder: JsonDecoder = msgspec.json.Decoder(_EncodeBody)
_reconstruct_decoder: JsonDecoder = msgspec.json.Decoder(_ReconstructBody)


class EncoderRoute(DrawingRoute):
    """What the routes share: read pictures or one raw row, fit them, and ask a graph that begins with the encoder."""

    parameters: Mapping[str, Parameter] = ENCODE
    decoder: JsonDecoder = _encode_decoder

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """What the graph finds in each picture."""
        require_encoder(model)
        body = await read_body(scope, receive, self.settings.max_body_bytes)
        context.request_bytes = len(body)
        row_bytes = prod(_row_shape(model))
        pictures = await read_pictures(scope, body, self.decoder, self.settings, raw_bytes=row_bytes)
        asked = read_parameters(spelled(pictures.parameters, self.parameters), self.parameters)
        return await self.found(model, pictures, asked, scope, context)

    async def found(
        self, model: ReadyModel, pictures: Pictures, asked: dict[str, Any], scope: Scope, context: RequestContext
    ) -> Any:
        """The answer to checked parameters."""
        arrays, _ = await self.infer_rows(model, pictures, asked, scope, context, "encoder")
        columns = {name: arrays[name].tolist() for name in ("mean", "log_variance")}
        results = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return {"model": model.name, "version": model.version, "results": results}

    async def infer_rows(
        self,
        model: ReadyModel,
        pictures: Pictures,
        asked: Mapping[str, Any],
        scope: Scope,
        context: RequestContext,
        graph: str,
        noise: NDArray[np.float32] | None = None,
    ) -> tuple[Arrays, Pixels]:
        """All outputs of a graph for the pictures, and the rows that it saw; each of them has the same noise."""
        manifest = model.manifest
        count = 1 if pictures.raw is not None else len(pictures.encoded)
        labels = checked_labels(manifest, graph, label_indices(asked["label"], count, manifest.labels or ()))
        outputs = tuple(spec.name for spec in manifest.graphs[graph].outputs)
        work = self.work(model, scope, context)
        drawing = Drawing(work)

        async def job() -> tuple[Arrays, Pixels]:
            rows = await self._rows(model, pictures, asked)

            async def chunk(part: slice) -> Arrays:
                async with drawing.room:
                    inputs = _inputs(rows[part], noise, None if labels is None else labels[part])
                    return await work.infer(graph, inputs, outputs, num_rows=len(inputs[0]))

            chunks = await drawing.by_chunks(count, chunk)
            return {name: np.concatenate([arrays[name] for arrays in chunks]) for name in outputs}, rows

        return await work.run(job())

    async def _rows(self, model: ReadyModel, pictures: Pictures, asked: Mapping[str, Any]) -> Pixels:
        """The rows [B,H,W,C] that the network is fed."""
        if pictures.raw is not None:
            return classification.raw_row(pictures.raw, _row_shape(model))[None]
        row_shape, invert = _row_shape(model), asked["invert"]
        rows = (self.picture_decoder.row(body, model.manifest, row_shape, invert) for body in pictures.encoded)
        return np.stack(await together(rows))


class Encode(EncoderRoute):
    """`POST /v1/models/{model}/encode`."""

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """The mean and the log-variance of each picture's latent."""
        return await super().answer(model, scope, receive, context)


class EmbedLatent(EncoderRoute):
    """`POST /v1/models/{model}/embed` of an image generator with an encoder."""

    async def found(
        self, model: ReadyModel, pictures: Pictures, asked: dict[str, Any], scope: Scope, context: RequestContext
    ) -> Any:
        """The mean of each picture's latent, as a classifier's route tells its features."""
        arrays, _ = await self.infer_rows(model, pictures, asked, scope, context, "encoder")
        results = [{"embedding": mean} for mean in arrays["mean"].tolist()]
        return {"model": model.name, "version": model.version, "results": results}


class Reconstruct(EncoderRoute):
    """`POST /v1/models/{model}/reconstruct`."""

    parameters = RECONSTRUCT
    decoder = _reconstruct_decoder

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """Each picture as the model draws it, where it errs, and how surprising the picture is, in nats."""
        return await super().answer(model, scope, receive, context)

    async def found(
        self, model: ReadyModel, pictures: Pictures, asked: dict[str, Any], scope: Scope, context: RequestContext
    ) -> Any:
        """As JSON, or as a PNG with a line for each picture."""
        format_ = chosen_format(scope, asked["format"], ("json", "png"))
        noise = _noise(model, asked["seed"])
        arrays, rows = await self.infer_rows(model, pictures, asked, scope, context, "reconstruction", noise)
        echoes = asked["echo_input"]
        return await self.desk.write(context, lambda: _reconstructed(model, format_, arrays, rows, echoes))


def _reconstructed(model: ReadyModel, format_: str, arrays: Arrays, rows: Pixels, echoes: bool) -> Any:
    """The answer of `reconstruct`; runs beside the event loop."""
    rates, distortions = arrays["rate"].tolist(), arrays["distortion"].tolist()
    scores = [
        {
            "anomaly_score": anomaly_score(rate + distortion, row),
            "negative_elbo": rate + distortion,
            "rate": rate,
            "distortion": distortion,
        }
        for rate, distortion, row in zip(rates, distortions, rows, strict=True)
    ]
    drawn, errors = arrays["reconstruction"], arrays["error_map"]
    if format_ == "png":
        captions = [f"score {score['anomaly_score']:.0f}" for score in scores]
        return BinaryAnswer("image/png", [reconstruction_strips(rows, drawn, errors, captions)])
    heat = error_colors(errors, rows.shape[3])
    results = [
        {"image": in_base64(encode_png(picture)), "error_map": in_base64(encode_png(colours))} | score
        for picture, colours, score in zip(drawn, heat, scores, strict=True)
    ]
    if echoes:
        results = [result | {"input": in_base64(encode_png(row))} for result, row in zip(results, rows, strict=True)]
    return {"model": model.name, "version": model.version, "results": results}


def _row_shape(model: ReadyModel) -> tuple[int, ...]:
    return model.manifest.graphs["encoder"].inputs[0].row_shape


def _noise(model: ReadyModel, seed: int) -> NDArray[np.float32]:
    """The noise [S,Z] of the seed: the same for every picture, so that a picture's score is its own."""
    inputs = model.manifest.graphs["reconstruction"].inputs
    (shape,) = (spec.row_shape for spec in inputs if spec.name == "noise")
    return draw([seed], 1, prod(shape)).noise.reshape(shape)


def _inputs(rows: Pixels, noise: NDArray[np.float32] | None, labels: Indices | None) -> list[NDArray[Any]]:
    """The inputs of a graph in its order."""
    inputs: list[NDArray[Any]] = [rows]
    if noise is not None:
        inputs.append(np.broadcast_to(noise, (len(rows), *noise.shape)))
    if labels is not None:
        inputs.append(labels)
    return inputs
