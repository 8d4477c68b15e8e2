"""The routes that move among latents: `interpolate` from one image to another, and `arithmetic`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from models.images import Invert
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, ServiceError
from service.http.answers import BinaryAnswer
from service.tasks.engine_work import together
from service.tasks.image_decoding import Pixels
from service.tasks.image_files import encode_png
from service.tasks.image_generation.generator import (
    Floats,
    Generator,
    ImageWriter,
    Indices,
    checked_labels,
    knows_labels,
    num_latents_of,
    require_encoder,
    takes_label,
)
from service.tasks.image_generation.process import difference_added, draw, walk, walk_labels
from service.tasks.image_generation.rendering import animation, labelled_grid
from service.tasks.image_generation.routes import GeneratorRoute, chosen_format, decoded_images, in_base64
from service.tasks.image_generation.schema import (
    ArithmeticAnswer,
    ArithmeticParameters,
    DecodeAnswer,
    InterpolateParameters,
    image_bytes,
    label_indices,
    latent_row,
    two_seeds,
)
from service.tasks.task import Dependencies, JsonRoute, TaskRequest

_MAX_COLUMNS = 16


class LatentRoute(JsonRoute, GeneratorRoute):
    """Base of both routes: find the latents of images."""

    async def encoded(
        self, generator: Generator, texts: Mapping[str, Any], labels: Indices | None, invert: Invert
    ) -> Floats:
        """The latents [B, Z] of base64 texts by the name that an error mentions; labels where the encoder takes them.

        Raises: InvalidParameter, UnsupportedMedia, PayloadTooLarge, UndecodableImage.
        """
        bodies = {name: image_bytes(name, text) for name, text in texts.items()}  # all, before any is decoded
        row_shape = generator.manifest.graphs["encoder"].inputs[0].row_shape

        async def row(name: str) -> Pixels:
            try:
                return await self.decoder.row(bodies[name], generator.manifest, row_shape, invert)
            except ServiceError as error:
                raise type(error)(f"{name}: {error.message}") from error

        rows = np.stack(await together(row(name) for name in texts))

        async def chunk(part: slice) -> Floats:
            async with generator.room:
                return await generator.encode(rows[part], None if labels is None else labels[part])

        return np.concatenate(await generator.by_chunks(len(rows), chunk))


class Interpolate(LatentRoute):
    """`POST /v1/models/{model}/interpolate`."""

    verb = "interpolate"
    parameters = InterpolateParameters
    answers = (DecodeAnswer,)
    files = ("image/png", "image/webp", "image/gif")
    example = {"seeds": [1, 2], "steps": 9, "label": ["Sneaker", "Bag"], "format": "webp"}
    description = "The ends of a walk between seeds are the images that `generate` gives for them."

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        # A thread of its own: an animation may take a second, and must not hold up what takes milliseconds.
        self._animator = ImageWriter(dependencies.metrics, ThreadPoolExecutor(1, "animate"))

    async def answer(self, request: TaskRequest) -> DecodeAnswer | BinaryAnswer:
        """The walk from one image to another: as JSON, side by side, or as an animation."""
        parameters = await self.read(request, InterpolateParameters)
        if (parameters.seeds is None) == (parameters.images is None):
            problem = "seeds is missing" if parameters.seeds is None else "seeds and images are both given"
            raise InvalidParameter(f"{problem}; the walk needs either two seeds or two images.", parameter="seeds")
        model, manifest = request.model, request.model.manifest
        labels = label_indices(parameters.label, 2, manifest.labels or (), "end")
        format_ = chosen_format(request.scope, parameters.format, ("json", "png", "webp", "gif"))
        work = self.work(request)
        generator = Generator(work)

        async def job() -> DecodeAnswer | BinaryAnswer:
            ends = self._encoded_ends if parameters.seeds is None else _seeded_ends
            (start, end), end_labels = await ends(generator, model, parameters, labels)
            path = walk(start, end, parameters.steps, parameters.path)
            along = None if end_labels is None else walk_labels(int(end_labels[0]), int(end_labels[1]), len(path))

            async def chunk(rows: slice) -> Pixels:
                async with generator.room:
                    return await generator.decode(path[rows], None if along is None else along[rows])

            images = np.concatenate(await generator.by_chunks(len(path), chunk))
            shown = along if takes_label(manifest, "decoder") else None
            writer = self._animator if format_ in ("webp", "gif") else self.writer
            return await writer.write(request.context, lambda: _walked(model, format_, images, shown))

        return await work.run(job())

    async def _encoded_ends(
        self, generator: Generator, model: ReadyModel, parameters: InterpolateParameters, asked: Sequence[int] | None
    ) -> tuple[Floats, Indices | None]:
        """The latents that the encoder finds in both images, with the labels that were asked for."""
        require_encoder(model)
        labels = checked_labels(model.manifest, "decoder", asked)
        texts = {f"images[{index}]": text for index, text in enumerate(parameters.images or ())}
        return await self.encoded(generator, texts, labels, parameters.invert), labels


async def _seeded_ends(
    generator: Generator, model: ReadyModel, parameters: InterpolateParameters, labels: Sequence[int] | None
) -> tuple[Floats, Indices | None]:
    """The latents and the labels that `generate` has for both seeds."""
    if labels is not None and not knows_labels(model.manifest):
        raise InvalidParameter(f"label is given, but {model.name!r} generates without labels.", parameter="label")
    draws = draw(
        two_seeds(parameters.seeds or ()),
        len(model.manifest.labels or ()),
        num_latents_of(model.manifest),
        parameters.temperature,
        parameters.truncation,
    )
    if labels is not None:
        draws.labels[:] = labels
    return await generator.latents(draws), draws.labels


def _walked(model: ReadyModel, format_: str, images: Pixels, labels: Indices | None) -> DecodeAnswer | BinaryAnswer:
    """The answer of `interpolate`; runs beside the event loop."""
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
        "For models with an encoder. Each of `a`, `b` and `c` may be a latent, an image, or images to be averaged."
    )

    async def answer(self, request: TaskRequest) -> ArithmeticAnswer | BinaryAnswer:
        """The image of a - b + c, computed on latents: those given, those of images, or means of these."""
        model, manifest = request.model, request.model.manifest
        require_encoder(model)
        parameters = await self.read(request, ArithmeticParameters)
        label = label_indices(parameters.label, 1, manifest.labels or ())
        labels = checked_labels(manifest, "decoder", label)
        format_ = chosen_format(request.scope, parameters.format, ("json", "png"))
        work = self.work(request)
        generator = Generator(work)

        async def point(name: str, given: str | list[Any]) -> Floats:
            if isinstance(given, list) and not isinstance(given[0], str):
                return latent_row(name, given, num_latents_of(manifest))[None]
            texts = {name: given} if isinstance(given, str) else {f"{name}[{i}]": text for i, text in enumerate(given)}
            same = None if labels is None else labels.repeat(len(texts))
            return await self.encoded(generator, texts, same, parameters.invert)

        async def job() -> ArithmeticAnswer | BinaryAnswer:
            points = (("a", parameters.a), ("b", parameters.b), ("c", parameters.c))
            latent = difference_added(*await together(point(name, given) for name, given in points))
            image = (await generator.decode(latent[None], labels))[0]
            return await self.writer.write(request.context, lambda: _computed(model, format_, latent, image))

        return await work.run(job())


def _computed(model: ReadyModel, format_: str, latent: Floats, image: Pixels) -> ArithmeticAnswer | BinaryAnswer:
    """The answer of `arithmetic`; runs beside the event loop."""
    if format_ == "png":
        return BinaryAnswer("image/png", [labelled_grid(image[None], [""])])
    content = in_base64(encode_png(image))
    return ArithmeticAnswer(model=model.name, version=model.version, latent=latent.tolist(), image=content)
