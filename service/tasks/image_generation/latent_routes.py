"""The routes that compute with latents: `interpolate` between images, and `arithmetic`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from models.images import Invert
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, ServiceError
from service.http.answers import BinaryAnswer
from service.tasks.engine_work import run_concurrently
from service.tasks.image_decoding import Pixels
from service.tasks.image_files import encode_png
from service.tasks.image_generation.generator import (
    Floats,
    Generator,
    ImageWriter,
    Indices,
    can_blend,
    checked_labels,
    num_latents_of,
    require_encoder,
    takes_label,
    uses_labels,
)
from service.tasks.image_generation.process import latent_arithmetic, sample, walk, walk_labels, walk_weights
from service.tasks.image_generation.rendering import animation, labelled_grid
from service.tasks.image_generation.routes import GeneratorRoute, chosen_format, decoded_images, to_base64
from service.tasks.image_generation.schema import (
    ArithmeticAnswer,
    ArithmeticParameters,
    DecodeAnswer,
    InterpolateParameters,
    decode_base64,
    label_indices,
    latent_row,
    two_seeds,
)
from service.tasks.task import Dependencies, JsonRoute, TaskRequest

_MAX_COLUMNS = 16


class LatentRoute(JsonRoute, GeneratorRoute):
    """Base of both routes: encodes images to latents."""

    async def encoded(
        self, generator: Generator, texts: Mapping[str, Any], labels: Indices | None, invert: Invert
    ) -> Floats:
        """Encode base64 images to latents [B,Z]; errors name images by key. Labels only if the encoder takes them.

        Raises: InvalidParameter, UnsupportedMedia, PayloadTooLarge, UndecodableImage.
        """
        # All are valid base64 before any is decoded.
        bodies = {name: decode_base64(name, text) for name, text in texts.items()}
        row_shape, caller = generator.manifest.graphs["encoder"].inputs[0].row_shape, generator.caller

        async def row(name: str) -> Pixels:
            try:
                return await self.decoder.row(bodies[name], generator.manifest, row_shape, invert, caller=caller)
            except ServiceError as error:
                if error.status >= 499:
                    raise
                raise type(error)(f"{name}: {error.message}") from error

        rows = np.stack(await run_concurrently(row(name) for name in texts))

        async def chunk(chunk_rows: slice) -> Floats:
            async with generator.chunk_slots:
                return await generator.encode(rows[chunk_rows], None if labels is None else labels[chunk_rows])

        return np.concatenate(await generator.by_chunks(len(rows), chunk))


class Interpolate(LatentRoute):
    """`POST /v1/models/{model}/interpolate`."""

    verb = "interpolate"
    parameters = InterpolateParameters
    answers = (DecodeAnswer,)
    files = ("image/png", "image/webp", "image/gif")
    example = {"seeds": [1, 2], "steps": 9, "label": ["Sneaker", "Bag"], "format": "webp"}
    description = "Between seeds, the first and the last image are those that `generate` returns for them."

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        # A separate thread: an animation may take a second and must not delay work of milliseconds.
        self._animator = ImageWriter(dependencies.metrics, ThreadPoolExecutor(1, "animate"))

    async def answer(self, request: TaskRequest) -> DecodeAnswer | BinaryAnswer:
        """Interpolate between two images: as JSON, a grid, or an animation."""
        parameters = await self.read(request, InterpolateParameters)
        if (parameters.seeds is None) == (parameters.images is None):
            problem = "seeds is missing" if parameters.seeds is None else "seeds and images are both given"
            raise InvalidParameter(f"{problem}; give either two seeds or two images.", parameter="seeds")
        model, manifest = request.model, request.model.manifest
        labels = label_indices(parameters.label, 2, manifest.labels or (), "end")
        format_ = chosen_format(request.scope, parameters.format, ("json", "png", "webp", "gif"))
        work = self.work(request)
        generator = Generator(work)

        async def job() -> DecodeAnswer | BinaryAnswer:
            ends = self._encoded_ends if parameters.seeds is None else _seeded_ends
            (start, end), end_labels = await ends(generator, model, parameters, labels)
            path = walk(start, end, parameters.steps, parameters.path)
            ends_of_labels = () if end_labels is None else (int(end_labels[0]), int(end_labels[1]), len(path))
            along = walk_labels(*ends_of_labels) if ends_of_labels else None
            weights = None
            if ends_of_labels and can_blend(manifest):
                weights = walk_weights(*ends_of_labels, len(manifest.labels or ()))

            async def chunk(rows: slice) -> Pixels:
                async with generator.chunk_slots:
                    if weights is not None:
                        return await generator.blend(path[rows], weights[rows])
                    return await generator.decode(path[rows], None if along is None else along[rows])

            images = np.concatenate(await generator.by_chunks(len(path), chunk))
            shown = along if takes_label(manifest, "decoder") else None
            writer = self._animator if format_ in ("webp", "gif") else self.writer
            return await writer.write(request.context, lambda: _interpolated(model, format_, images, shown))

        return await work.run(job())

    async def _encoded_ends(
        self, generator: Generator, model: ReadyModel, parameters: InterpolateParameters, given: Sequence[int] | None
    ) -> tuple[Floats, Indices | None]:
        """The latents of both images, and the labels given."""
        require_encoder(model)
        labels = checked_labels(model.manifest, "decoder", given)
        texts = {f"images[{index}]": text for index, text in enumerate(parameters.images or ())}
        return await self.encoded(generator, texts, labels, parameters.invert), labels


async def _seeded_ends(
    generator: Generator, model: ReadyModel, parameters: InterpolateParameters, labels: Sequence[int] | None
) -> tuple[Floats, Indices | None]:
    """The latents and the labels of both seeds, as in `generate`."""
    if labels is not None and not uses_labels(model.manifest):
        raise InvalidParameter(f"label is given, but {model.name!r} generates without labels.", parameter="label")
    samples = sample(
        two_seeds(parameters.seeds or ()),
        len(model.manifest.labels or ()),
        num_latents_of(model.manifest),
        parameters.temperature,
        parameters.truncation,
    )
    if labels is not None:
        samples.labels[:] = labels
    return await generator.latents(samples), samples.labels


def _interpolated(
    model: ReadyModel, format_: str, images: Pixels, labels: Indices | None
) -> DecodeAnswer | BinaryAnswer:
    """Build the answer of `interpolate`; runs in a thread."""
    names = model.manifest.labels or ()
    captions = [""] * len(images) if labels is None else [names[index] for index in labels]
    if format_ == "png":
        return BinaryAnswer("image/png", [labelled_grid(images, captions, min(len(images), _MAX_COLUMNS))])
    if format_ == "json":
        return decoded_images(model, images, captions)
    kind: Literal["webp", "gif"] = "webp" if format_ == "webp" else "gif"
    return BinaryAnswer(f"image/{kind}", [animation(images, kind)])


class Arithmetic(LatentRoute):
    """`POST /v1/models/{model}/arithmetic`."""

    verb = "arithmetic"
    parameters = ArithmeticParameters
    answers = (ArithmeticAnswer,)
    files = ("image/png",)
    example = {"a": [1.0, 0.5, 0.0, -1.0], "b": [0.0, 0.5, 0.0, 0.0], "c": [0.0, 0.0, 1.0, 0.0]}
    description = (
        "For models with an encoder. Each of `a`, `b` and `c` is a latent, an image, or a list of images to average."
    )

    async def answer(self, request: TaskRequest) -> ArithmeticAnswer | BinaryAnswer:
        """Compute the latent a - b + c and its image."""
        model, manifest = request.model, request.model.manifest
        require_encoder(model)
        parameters = await self.read(request, ArithmeticParameters)
        label = label_indices(parameters.label, 1, manifest.labels or ())
        labels = checked_labels(manifest, "decoder", label)
        format_ = chosen_format(request.scope, parameters.format, ("json", "png"))
        work = self.work(request)
        generator = Generator(work)

        async def latents_of(name: str, given: str | list[Any]) -> Floats:
            if isinstance(given, list) and not isinstance(given[0], str):
                return latent_row(name, given, num_latents_of(manifest))[None]
            texts = {name: given} if isinstance(given, str) else {f"{name}[{i}]": text for i, text in enumerate(given)}
            same = None if labels is None else labels.repeat(len(texts))
            return await self.encoded(generator, texts, same, parameters.invert)

        async def job() -> ArithmeticAnswer | BinaryAnswer:
            operands = (("a", parameters.a), ("b", parameters.b), ("c", parameters.c))
            latent = latent_arithmetic(*await run_concurrently(latents_of(name, given) for name, given in operands))
            image = (await generator.decode(latent[None], labels))[0]
            return await self.writer.write(request.context, lambda: _computed(model, format_, latent, image))

        return await work.run(job())


def _computed(model: ReadyModel, format_: str, latent: Floats, image: Pixels) -> ArithmeticAnswer | BinaryAnswer:
    """Build the answer of `arithmetic`; runs in a thread."""
    if format_ == "png":
        return BinaryAnswer("image/png", [labelled_grid(image[None], [""])])
    content = to_base64(encode_png(image))
    return ArithmeticAnswer(model=model.name, version=model.version, latent=latent.tolist(), image=content)
