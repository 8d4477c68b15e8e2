"""The routes that generate images: `generate` from seeds and `decode` from latents."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import UNSET

from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, UnsupportedTask
from service.http.accept import preferred_type
from service.http.answers import BinaryAnswer
from service.http.documentation import PROBLEMS
from service.http.request_context import Scope
from service.tasks.image_decoding import Pixels
from service.tasks.image_files import ZIP_TYPE, ImageFile, as_zip, encode_png, safe_names
from service.tasks.image_generation.generator import (
    Floats,
    Generator,
    ImageWriter,
    can_blend,
    checked_labels,
    num_latents_of,
    uses_labels,
)
from service.tasks.image_generation.process import NUM_SEEDS, Samples, following_seeds, sample
from service.tasks.image_generation.rendering import labelled_grid
from service.tasks.image_generation.schema import (
    MAX_IMAGES,
    DecodeAnswer,
    DecodedImage,
    DecodeParameters,
    GeneratedImage,
    GenerateImagesAnswer,
    GenerateParameters,
    label_indices,
    latent_rows,
    weight_rows,
)
from service.tasks.task import Dependencies, JsonOrQueryRoute, JsonRoute, QueryRoute, TaskRequest, TaskRoute

_TYPES = {"image/png": "png", "image/webp": "webp", "image/gif": "gif", ZIP_TYPE: "zip", "application/json": "json"}
_MAX_OWN_SEED = NUM_SEEDS - MAX_IMAGES


class GeneratorRoute(TaskRoute):
    """Base of the routes of image generators."""

    task = "image-generation"

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self.writer = ImageWriter(dependencies.metrics)
        self.decoder = dependencies.decoder


_SEED_HEADER = {"X-Seed": {"description": "The first image's seed.", "schema": {"type": "integer"}}}
_GENERATED = {"description": "The answer in the format of `format` or `Accept`.", "headers": _SEED_HEADER}


class _Generate(GeneratorRoute):
    """Base of both `generate` routes."""

    verb = "generate"
    parameters = GenerateParameters
    answers = (GenerateImagesAnswer,)
    files = ("image/png", ZIP_TYPE)
    responses = {**PROBLEMS, 200: _GENERATED}
    default_format = "json"

    async def generate(
        self, request: TaskRequest, parameters: GenerateParameters
    ) -> GenerateImagesAnswer | BinaryAnswer:
        """Generate images as JSON, in a labelled grid, or in a zip file."""
        model = request.model
        labels = label_indices(parameters.label, parameters.count, model.manifest.labels or ())
        if labels is not None and not uses_labels(model.manifest):
            raise InvalidParameter(f"label is given, but {model.name!r} generates without labels.", parameter="label")
        format_ = chosen_format(request.scope, parameters.format, ("json", "png", "zip"), self.default_format)
        images = _SeededImages(parameters, labels, model, format_)
        work = self.work(request)
        generator = Generator(work)

        async def chunk(rows: slice) -> tuple[list[GeneratedImage], list[bytes], Pixels]:
            async with generator.chunk_slots:
                samples = images.samples(rows)
                latents = await generator.latents(samples)
                pixels = await generator.decode(latents, samples.labels)
            if images.format == "png":
                return images.records(rows, samples, latents), [], pixels
            pngs = await self.writer.write(request.context, lambda: _pngs(pixels))
            return images.records(rows, samples, latents), pngs, pixels

        async def job() -> GenerateImagesAnswer | BinaryAnswer:
            chunks = await generator.by_chunks(parameters.count, chunk)
            records = [record for some, _, _ in chunks for record in some]
            pngs = [png for _, some, _ in chunks for png in some]
            pixels = np.concatenate([some for _, _, some in chunks])
            return await self.writer.write(request.context, lambda: images.answer(records, pixels, pngs))

        return await work.run(job())


class GenerateImages(JsonOrQueryRoute, _Generate):
    """`POST /v1/models/{model}/generate` of an image generator."""

    example = {"num_images": 4, "label": "Sneaker", "seed": 7}
    description = (
        "Image generators: each image has its own seed, which reproduces it alone with the same label, temperature and "
        "truncation. If the body is empty, parameters may be in the query."
    )

    async def answer(self, request: TaskRequest) -> GenerateImagesAnswer | BinaryAnswer:
        """Generate images: as JSON, a labelled grid, or a zip file."""
        return await self.generate(request, await self.read(request, GenerateParameters))


class GenerateByUrl(QueryRoute, _Generate):
    """`GET /v1/models/{model}/generate`, for a browser or an `<img>`."""

    default_format = "png"
    description = "For image generators, in a browser or an `<img>`; a labelled grid by default."

    async def answer(self, request: TaskRequest) -> GenerateImagesAnswer | BinaryAnswer:
        """Generate images: as a labelled grid, JSON, or a zip file."""
        return await self.generate(request, await self.read(request, GenerateParameters))

    def resolve(self, reference: str) -> ReadyModel:
        """Find the model and check its task.

        Raises: UnknownModel, ModelNotReady, UnsupportedTask.
        """
        model = self.client.choose(reference)
        if model.manifest.task != self.task:
            raise UnsupportedTask(f"{model.name!r} does {model.manifest.task}; GET is for {self.task} only.")
        return model


class _SeededImages:
    """The images of one `generate` request: seeds, metadata and the answer."""

    def __init__(
        self, parameters: GenerateParameters, labels: list[int] | None, model: ReadyModel, format_: str
    ) -> None:
        self.format = format_
        self._parameters = parameters
        self._labels = labels
        self._model = model
        self._names = model.manifest.labels or ()
        self._seed = secrets.randbelow(_MAX_OWN_SEED) if parameters.seed is None else parameters.seed
        self._seeds = following_seeds(self._seed, parameters.count)

    def samples(self, rows: slice) -> Samples:
        """Sample the random inputs of some images; given labels replace the sampled ones."""
        parameters, num_latents = self._parameters, num_latents_of(self._model.manifest)
        samples = sample(
            self._seeds[rows], len(self._names), num_latents, parameters.temperature, parameters.truncation
        )
        if self._labels is not None:
            samples.labels[:] = self._labels[rows]
        return samples

    def records(self, rows: slice, samples: Samples, latents: Floats) -> list[GeneratedImage]:
        """The metadata of some images, without their files."""
        has_labels, has_latents = uses_labels(self._model.manifest), self._parameters.latents
        return [
            GeneratedImage(
                seed=seed,
                label=self._names[index] if has_labels else UNSET,
                index=index if has_labels else UNSET,
                latent=latent.tolist() if has_latents else UNSET,
                image="",
            )
            for seed, index, latent in zip(self._seeds[rows], samples.labels.tolist(), latents, strict=True)
        ]

    def answer(
        self, records: list[GeneratedImage], images: Pixels, pngs: Sequence[bytes]
    ) -> GenerateImagesAnswer | BinaryAnswer:
        """Build the answer; runs in a thread."""
        seed_header = [(b"x-seed", b"%d" % self._seed)]
        captions = [record.label or "" for record in records]
        if self.format == "png":
            return BinaryAnswer("image/png", [labelled_grid(images, captions)], seed_header)
        if self.format == "zip":
            seeds = [record.seed for record in records]
            return BinaryAnswer(ZIP_TYPE, [zip_of(_stems(seeds, captions), pngs)], seed_header)
        whole = [
            msgspec.structs.replace(record, image=to_base64(png)) for record, png in zip(records, pngs, strict=True)
        ]
        return GenerateImagesAnswer(model=self._model.name, version=self._model.version, seed=self._seed, images=whole)


def checked_weights(model: ReadyModel, parameters: DecodeParameters, count: int) -> Floats | None:
    """The weights of labels [B,K] that a request gives; None where it gives none.

    Raises: InvalidParameter if the model cannot blend, if a label is given too, or if they are not valid.
    """
    if parameters.label_weights is None:
        return None
    if not can_blend(model.manifest):
        message = f"label_weights is given, but {model.name!r} draws no mixes of labels."
        raise InvalidParameter(message, parameter="label_weights")
    if parameters.label is not None:
        raise InvalidParameter("label and label_weights are both given; give either.", parameter="label_weights")
    return weight_rows(parameters.label_weights, count, len(model.manifest.labels or ()))


class Decode(JsonRoute, GeneratorRoute):
    """`POST /v1/models/{model}/decode`."""

    verb = "decode"
    parameters = DecodeParameters
    answers = (DecodeAnswer,)
    files = ("image/png", ZIP_TYPE)
    example = {"latents": [[0.1, -0.4, 1.3, 0.0]], "label": "Sneaker"}
    description = "Latents as returned by `encode`, or by `generate` with `latents`."

    async def answer(self, request: TaskRequest) -> DecodeAnswer | BinaryAnswer:
        """Decode latents to images: as JSON, a grid, or a zip file."""
        parameters = await self.read(request, DecodeParameters)
        model, manifest = request.model, request.model.manifest
        latents = latent_rows("latents", parameters.latents, num_latents_of(manifest))
        names = manifest.labels or ()
        weights = checked_weights(model, parameters, len(latents))
        if weights is None:
            labels = checked_labels(manifest, "decoder", label_indices(parameters.label, len(latents), names))
        else:
            labels = weights.argmax(axis=1)
        format_ = chosen_format(request.scope, parameters.format, ("json", "png", "zip"))
        captions = [""] * len(latents) if labels is None else [names[index] for index in labels]
        work = self.work(request)
        generator = Generator(work)

        async def chunk(rows: slice) -> Pixels:
            async with generator.chunk_slots:
                if weights is not None:
                    return await generator.blend(latents[rows], weights[rows])
                return await generator.decode(latents[rows], None if labels is None else labels[rows])

        async def job() -> DecodeAnswer | BinaryAnswer:
            images = np.concatenate(await generator.by_chunks(len(latents), chunk))
            return await self.writer.write(request.context, lambda: _decoded(model, format_, images, captions))

        return await work.run(job())


def _decoded(model: ReadyModel, format_: str, images: Pixels, labels: Sequence[str]) -> DecodeAnswer | BinaryAnswer:
    """Build the answer of `decode`; labels may be empty."""
    if format_ == "png":
        return BinaryAnswer("image/png", [labelled_grid(images, labels)])
    if format_ == "zip":
        return BinaryAnswer(ZIP_TYPE, [zip_of(_stems(range(len(labels)), labels), _pngs(images))])
    return decoded_images(model, images, labels)


def decoded_images(model: ReadyModel, images: Pixels, labels: Sequence[str]) -> DecodeAnswer:
    """Build the JSON answer of `decode` and `interpolate`; labels may be empty."""
    decoded = [
        DecodedImage(label=label or UNSET, image=to_base64(encode_png(image)))
        for label, image in zip(labels, images, strict=True)
    ]
    return DecodeAnswer(model=model.name, version=model.version, images=decoded)


def chosen_format(scope: Scope, requested: str | None, known: Sequence[str], default: str = "json") -> str:
    """The format of an answer: the parameter `format`, or else `Accept`, or else the default."""
    if requested is not None:
        return requested
    offered = [media_type for media_type, name in _TYPES.items() if name in known]
    preferred = preferred_type(scope, offered)
    return default if preferred is None else _TYPES[preferred]


def to_base64(content: bytes) -> str:
    """Encode a file for JSON."""
    return b64encode(content).decode("ascii")


def zip_of(stems: Sequence[str], pngs: Sequence[bytes]) -> bytes:
    """Pack PNG files, named by stems, into a zip file."""
    names = safe_names([f"{stem.replace('/', '-')}.png" for stem in stems], ["PNG"] * len(pngs))
    return as_zip([ImageFile(name, "PNG", png) for name, png in zip(names, pngs, strict=True)])


def _stems(numbers: Sequence[int], labels: Sequence[str]) -> list[str]:
    return [f"{number}-{label}" if label else f"{number}" for number, label in zip(numbers, labels, strict=True)]


def _pngs(images: Pixels) -> list[bytes]:
    return [encode_png(image) for image in images]
