"""The routes that move among latents: `interpolate` from one picture to another, and `arithmetic`.

Where latents lie between others is said in `tasks/latents.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from starlette.types import Receive

from models.images import Invert
from service.engine.transport.client import EngineClient, ReadyModel
from service.errors import InvalidParameter, ServiceError
from service.http.engine_work import together
from service.http.image_decoding import Pixels
from service.http.inference import BinaryAnswer
from service.http.request_context import RequestContext, Scope
from service.settings import Settings
from service.tasks.image_generation.drawing import (
    Desk,
    Drawing,
    Floats,
    Indices,
    checked_labels,
    knows_labels,
    num_latents_of,
    require_encoder,
    takes_label,
)
from service.tasks.image_generation.latents import difference_added, draw, walk, walk_labels
from service.tasks.image_generation.parameters import (
    ARITHMETIC,
    INTERPOLATE,
    label_indices,
    latent_row,
    picture_bytes,
    two_seeds,
)
from service.tasks.image_generation.rendering import animation, encode_png, labelled_grid
from service.tasks.image_generation.routes import DrawingRoute, chosen_format, in_base64
from service.tasks.parameters import read_parameters
from service.telemetry.metrics import Metrics

_MAX_COLUMNS = 16


class LatentRoute(DrawingRoute):
    """What both routes do: find the latents of pictures."""

    async def encoded(
        self, drawing: Drawing, pictures: Mapping[str, Any], labels: Indices | None, invert: Invert
    ) -> Floats:
        """The latents [B, Z] of base64 texts, each with the name that an error tells; labels where they are needed.

        Raises: InvalidParameter, UnsupportedMedia, PayloadTooLarge, UndecodableImage.
        """
        bodies = {name: picture_bytes(name, text) for name, text in pictures.items()}  # all, before any is decoded
        row_shape = drawing.manifest.graphs["encoder"].inputs[0].row_shape

        async def row(name: str) -> Pixels:
            try:
                return await self.picture_decoder.row(bodies[name], drawing.manifest, row_shape, invert)
            except ServiceError as error:
                raise type(error)(f"{name}: {error.message}") from error

        rows = np.stack(await together(row(name) for name in pictures))

        async def chunk(part: slice) -> Floats:
            async with drawing.room:
                return await drawing.encode(rows[part], None if labels is None else labels[part])

        return np.concatenate(await drawing.by_chunks(len(rows), chunk))


class Interpolate(LatentRoute):
    """`POST /v1/models/{model}/interpolate`."""

    def __init__(self, client: EngineClient, settings: Settings, metrics: Metrics, threads: ThreadPoolExecutor) -> None:
        super().__init__(client, settings, metrics, threads)
        # A thread of its own: an animation may take a second, and must not hold up what takes milliseconds.
        self._animator = Desk(metrics, ThreadPoolExecutor(1, "animate"))

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """The walk from one picture to another: as JSON, side by side, or as an animation."""
        members = read_parameters(await self.read_body(scope, receive, context), INTERPOLATE)
        if (members["seeds"] is None) == (members["images"] is None):
            problem = "seeds is missing" if members["seeds"] is None else "seeds and images are both given"
            raise InvalidParameter(f"{problem}; the walk needs either two seeds or two images.", parameter="seeds")
        labels = label_indices(members["label"], 2, model.manifest.labels or (), "end")
        format_ = chosen_format(scope, members["format"], ("json", "png", "webp", "gif"))
        work = self.work(model, scope, context)
        drawing = Drawing(work)

        async def job() -> Any:
            find = self._found_ends if members["seeds"] is None else _drawn_ends
            (start, end), at = await find(drawing, model, members, labels)
            path = walk(start, end, members["steps"], members["path"])
            along = None if at is None else walk_labels(int(at[0]), int(at[1]), len(path))

            async def chunk(rows: slice) -> Pixels:
                async with drawing.room:
                    return await drawing.decode(path[rows], None if along is None else along[rows])

            pictures = np.concatenate(await drawing.by_chunks(len(path), chunk))
            told = along if takes_label(model.manifest, "decoder") else None
            desk = self._animator if format_ in ("webp", "gif") else self.desk
            return await desk.write(context, lambda: _walked(model, format_, pictures, told))

        return await work.run(job())

    async def _found_ends(
        self, drawing: Drawing, model: ReadyModel, members: Mapping[str, Any], asked: Sequence[int] | None
    ) -> tuple[Floats, Indices | None]:
        """The latents that the encoder finds in both pictures, with the labels that were asked for."""
        require_encoder(model)
        labels = checked_labels(model.manifest, "decoder", asked)
        pictures = {f"images[{index}]": text for index, text in enumerate(members["images"])}
        return await self.encoded(drawing, pictures, labels, members["invert"]), labels


async def _drawn_ends(
    drawing: Drawing, model: ReadyModel, members: Mapping[str, Any], labels: Sequence[int] | None
) -> tuple[Floats, Indices | None]:
    """The latents and the labels that `generate` has for both seeds."""
    if labels is not None and not knows_labels(model.manifest):
        raise InvalidParameter(f"label is given, but {model.name!r} draws without labels.", parameter="label")
    draws = draw(
        two_seeds(members["seeds"]),
        len(model.manifest.labels or ()),
        num_latents_of(model.manifest),
        members["temperature"],
        members["truncation"],
    )
    if labels is not None:
        draws.labels[:] = labels
    return await drawing.latents(draws), draws.labels


def _walked(model: ReadyModel, format_: str, pictures: Pixels, labels: Indices | None) -> Any:
    """The answer of `interpolate`; runs beside the event loop."""
    names = model.manifest.labels or ()
    told = [""] * len(pictures) if labels is None else [names[index] for index in labels]
    if format_ == "png":
        return BinaryAnswer("image/png", [labelled_grid(pictures, told, min(len(pictures), _MAX_COLUMNS))])
    if format_ != "json":
        kind: Literal["webp", "gif"] = "webp" if format_ == "webp" else "gif"
        return BinaryAnswer(f"image/{kind}", [animation(pictures, kind)])
    images = [
        ({"label": label} if label else {}) | {"image": in_base64(encode_png(picture))}
        for label, picture in zip(told, pictures, strict=True)
    ]
    return {"model": model.name, "version": model.version, "images": images}


class Arithmetic(LatentRoute):
    """`POST /v1/models/{model}/arithmetic`."""

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """The picture of a - b + c, reckoned among latents: those given, those of pictures, or means of these."""
        require_encoder(model)
        members = read_parameters(await self.read_body(scope, receive, context), ARITHMETIC)
        label = label_indices(members["label"], 1, model.manifest.labels or ())
        labels = checked_labels(model.manifest, "decoder", label)
        format_ = chosen_format(scope, members["format"], ("json", "png"))
        work = self.work(model, scope, context)
        drawing = Drawing(work)

        async def point(name: str) -> Floats:
            given = members[name]
            if isinstance(given, list) and not isinstance(given[0], str):
                return latent_row(name, given, num_latents_of(model.manifest))[None]
            texts = {name: given} if isinstance(given, str) else {f"{name}[{i}]": text for i, text in enumerate(given)}
            same = None if labels is None else labels.repeat(len(texts))
            return await self.encoded(drawing, texts, same, members["invert"])

        async def job() -> Any:
            latent = difference_added(*await together(point(name) for name in "abc"))
            picture = (await drawing.decode(latent[None], labels))[0]
            return await self.desk.write(context, lambda: _reckoned(model, format_, latent, picture))

        return await work.run(job())


def _reckoned(model: ReadyModel, format_: str, latent: Floats, picture: Pixels) -> Any:
    """The answer of `arithmetic`; runs beside the event loop."""
    if format_ == "png":
        return BinaryAnswer("image/png", [labelled_grid(picture[None], [""])])
    image = in_base64(encode_png(picture))
    return {"model": model.name, "version": model.version, "latent": latent.tolist(), "image": image}
