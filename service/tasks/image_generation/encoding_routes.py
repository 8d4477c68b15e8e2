"""The routes of encoders: `encode` and `embed` return latents, `reconstruct` returns images with anomaly scores.

Images are read and resized exactly as by `classify`.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from service.engine.transport.client import ReadyModel
from service.engine.transport.messages import Arrays
from service.http.answers import BinaryAnswer
from service.http.body import Images
from service.tasks.classification.schema import EmbedAnswer, Embedding
from service.tasks.engine_work import run_concurrently
from service.tasks.image_decoding import Pixels, raw_row
from service.tasks.image_files import encode_png
from service.tasks.image_generation.generator import Generator, Indices, checked_labels, require_encoder
from service.tasks.image_generation.process import anomaly_score, sample
from service.tasks.image_generation.rendering import error_colors, reconstruction_strips
from service.tasks.image_generation.routes import GeneratorRoute, chosen_format, to_base64
from service.tasks.image_generation.schema import (
    EncodeAnswer,
    EncodedImage,
    EncodeParameters,
    ReconstructAnswer,
    ReconstructedImage,
    ReconstructParameters,
    label_indices,
)
from service.tasks.task import ImagesRoute, TaskRequest


class EncoderRoute(ImagesRoute, GeneratorRoute):
    """Base of the routes: reads images or a raw tensor, and runs them through the encoder."""

    tensor_graph = "encoder"
    parameters = EncodeParameters

    def resolve(self, reference: str) -> ReadyModel:
        """Find the model and check that it has an encoder.

        Raises: UnknownModel, ModelNotReady, UnsupportedTask.
        """
        model = super().resolve(reference)
        require_encoder(model)
        return model

    async def infer_rows(
        self,
        request: TaskRequest,
        images: Images,
        parameters: EncodeParameters,
        graph: str,
        noise: NDArray[np.float32] | None = None,
    ) -> tuple[Arrays, Pixels]:
        """Run a graph on the images; return all its outputs and its input rows. All rows have the same noise."""
        manifest = request.model.manifest
        count = 1 if images.raw is not None else len(images.encoded)
        labels = checked_labels(manifest, graph, label_indices(parameters.label, count, manifest.labels or ()))
        outputs = tuple(spec.name for spec in manifest.graphs[graph].outputs)
        work = self.work(request)
        generator = Generator(work)

        async def job() -> tuple[Arrays, Pixels]:
            rows = await self._rows(request, images, parameters)

            async def chunk(chunk_rows: slice) -> Arrays:
                async with generator.chunk_slots:
                    inputs = _inputs(rows[chunk_rows], noise, None if labels is None else labels[chunk_rows])
                    return await work.infer(graph, inputs, outputs, num_rows=len(inputs[0]))

            chunks = await generator.by_chunks(count, chunk)
            return {name: np.concatenate([arrays[name] for arrays in chunks]) for name in outputs}, rows

        return await work.run(job())

    async def _rows(self, request: TaskRequest, images: Images, parameters: EncodeParameters) -> Pixels:
        """Read the images as rows [B,H,W,C]."""
        row_shape, caller = self.row_shape(request.model), request.context.origin
        if images.raw is not None:
            return raw_row(images.raw, row_shape)[None]
        manifest, invert = request.model.manifest, parameters.invert
        rows = (self.decoder.row(body, manifest, row_shape, invert, caller=caller) for body in images.encoded)
        return np.stack(await run_concurrently(rows))


class Encode(EncoderRoute):
    """`POST /v1/models/{model}/encode`."""

    verb = "encode"
    answers = (EncodeAnswer,)
    description = "For image generators with an encoder; images are read and resized as by `classify`."

    async def answer(self, request: TaskRequest) -> EncodeAnswer:
        """Encode images: the mean and the log-variance of each latent."""
        images, parameters = await self.read(request, EncodeParameters)
        arrays, _ = await self.infer_rows(request, images, parameters, "encoder")
        means, log_variances = arrays["mean"].tolist(), arrays["log_variance"].tolist()
        results = [
            EncodedImage(mean=mean, log_variance=log_variance)
            for mean, log_variance in zip(means, log_variances, strict=True)
        ]
        return EncodeAnswer(model=request.model.name, version=request.model.version, results=results)


class EmbedLatent(EncoderRoute):
    """`POST /v1/models/{model}/embed` of an image generator with an encoder."""

    verb = "embed"
    answers = (EmbedAnswer,)
    description = "Image generators with an encoder: the mean of the latent."

    async def answer(self, request: TaskRequest) -> EmbedAnswer:
        """Compute the embedding of each image."""
        images, parameters = await self.read(request, EncodeParameters)
        results = [Embedding(embedding=mean) for mean in await self.embeddings(request, images, parameters)]
        return EmbedAnswer(model=request.model.name, version=request.model.version, results=results)

    def require_embeddings(self, model: ReadyModel) -> None:
        """Check that a model gives embeddings.

        Raises: UnsupportedTask.
        """
        require_encoder(model)

    async def embeddings(
        self, request: TaskRequest, images: Images, parameters: EncodeParameters | None = None
    ) -> list[list[float]]:
        """The embedding of each image."""
        arrays, _ = await self.infer_rows(request, images, parameters or EncodeParameters(), "encoder")
        vectors: list[list[float]] = arrays["mean"].tolist()
        return vectors


class Reconstruct(EncoderRoute):
    """`POST /v1/models/{model}/reconstruct`."""

    verb = "reconstruct"
    parameters = ReconstructParameters
    answers = (ReconstructAnswer,)
    files = ("image/png",)
    description = (
        "For image generators with an encoder; images are read and resized as by `classify`. Error maps show nats per "
        "pixel, averaged over samples of the latent, from black for 0 to the brightest color for a uniform guess."
    )

    async def answer(self, request: TaskRequest) -> ReconstructAnswer | BinaryAnswer:
        """Reconstruct images, with error maps and anomaly scores in nats."""
        images, parameters = await self.read(request, ReconstructParameters)
        format_ = chosen_format(request.scope, parameters.format, ("json", "png"))
        noise = _noise(request.model, parameters.seed)
        arrays, rows = await self.infer_rows(request, images, parameters, "reconstruction", noise)
        write = _strips if format_ == "png" else _reconstructed
        echo = parameters.echo_input
        return await self.writer.write(request.context, lambda: write(request.model, arrays, rows, echo))


def _scores(arrays: Arrays, rows: Pixels) -> list[dict[str, float]]:
    rates, distortions = arrays["rate"].tolist(), arrays["distortion"].tolist()
    return [
        {
            "anomaly_score": anomaly_score(rate + distortion, row),
            "negative_elbo": rate + distortion,
            "rate": rate,
            "distortion": distortion,
        }
        for rate, distortion, row in zip(rates, distortions, rows, strict=True)
    ]


def _strips(_model: ReadyModel, arrays: Arrays, rows: Pixels, _echo: bool) -> BinaryAnswer:
    """The answer as a PNG file with a row for each image."""
    captions = [f"score {score['anomaly_score']:.0f}" for score in _scores(arrays, rows)]
    strips = reconstruction_strips(rows, arrays["reconstruction"], arrays["error_map"], captions)
    return BinaryAnswer("image/png", [strips])


def _reconstructed(model: ReadyModel, arrays: Arrays, rows: Pixels, echo: bool) -> ReconstructAnswer:
    """The answer as JSON."""
    colors = error_colors(arrays["error_map"], rows.shape[3])
    results = [
        ReconstructedImage(
            image=to_base64(encode_png(image)),
            error_map=to_base64(encode_png(errors)),
            input=to_base64(encode_png(row)) if echo else UNSET,
            **score,
        )
        for image, errors, row, score in zip(arrays["reconstruction"], colors, rows, _scores(arrays, rows), strict=True)
    ]
    return ReconstructAnswer(model=model.name, version=model.version, results=results)


def _noise(model: ReadyModel, seed: int) -> NDArray[np.float32]:
    """The noise [S,Z] of a seed, the same for every image, so that scores do not depend on the other images."""
    inputs = model.manifest.graphs["reconstruction"].inputs
    (shape,) = (spec.row_shape for spec in inputs if spec.name == "noise")
    return sample([seed], 1, prod(shape)).noise.reshape(shape)


def _inputs(rows: Pixels, noise: NDArray[np.float32] | None, labels: Indices | None) -> list[NDArray[Any]]:
    """The inputs of a graph, in order."""
    inputs: list[NDArray[Any]] = [rows]
    if noise is not None:
        inputs.append(np.broadcast_to(noise, (len(rows), *noise.shape)))
    if labels is not None:
        inputs.append(labels)
    return inputs
