"""The routes that draw pictures: `generate` from seeds, `decode` from latents.

What is drawn is said in `tasks/latents.py` and by the graphs; here it is read from a request and written as an answer.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.types import Receive

from service.engine.transport.client import EngineClient, ReadyModel
from service.errors import InvalidParameter, UnsupportedTask
from service.http.accept import preferred_type
from service.http.body import query_parameters
from service.http.engine_work import EngineWork
from service.http.image_decoding import PictureDecoder, Pixels
from service.http.inference import BinaryAnswer, InferenceRoute, request_timeout_seconds
from service.http.json_body import read_json_object, read_object_or_query
from service.http.multi_image import ZIP_TYPE, PictureFile, as_zip, safe_names
from service.http.request_context import RequestContext, Scope
from service.settings import Settings
from service.tasks.image_generation.drawing import Desk, Drawing, Floats, checked_labels, knows_labels, num_latents_of
from service.tasks.image_generation.latents import NUM_SEEDS, Draws, draw, following_seeds
from service.tasks.image_generation.parameters import (
    DECODE,
    GENERATE,
    MAX_IMAGES,
    Wanted,
    label_indices,
    latent_rows,
    parse_generate,
)
from service.tasks.image_generation.rendering import encode_png, labelled_grid
from service.tasks.parameters import read_parameters, spelled
from service.telemetry.metrics import Metrics

_TYPES = {"image/png": "png", "image/webp": "webp", "image/gif": "gif", ZIP_TYPE: "zip", "application/json": "json"}
_MAX_OWN_SEED = NUM_SEEDS - MAX_IMAGES


class DrawingRoute(InferenceRoute):
    """What the routes that draw share."""

    task = "image-generation"

    def __init__(self, client: EngineClient, settings: Settings, metrics: Metrics, threads: ThreadPoolExecutor) -> None:
        super().__init__(client, settings)
        self.desk = Desk(metrics, threads)
        self.picture_decoder = PictureDecoder(settings, metrics, threads)

    def work(self, model: ReadyModel, scope: Scope, context: RequestContext) -> EngineWork:
        """The engine calls of a request, which begin now."""
        return EngineWork(self.client, model, context, request_timeout_seconds(scope, self.settings))

    async def read_body(self, scope: Scope, receive: Receive, context: RequestContext) -> dict[str, Any]:
        """The JSON object that is the body."""
        return await read_json_object(scope, receive, context, self.settings.max_body_bytes)


class GeneratePictures(DrawingRoute):
    """`POST /v1/models/{model}/generate` of an image generator."""

    default_format = "json"

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """Pictures drawn from seeds: as JSON, in a labelled grid, or in a zip file."""
        wanted = parse_generate(await self.read(scope, receive, context), model.manifest.labels or ())
        if wanted.labels is not None and not knows_labels(model.manifest):
            raise InvalidParameter(f"label is given, but {model.name!r} draws without labels.", parameter="label")
        sheet = _Sheet(wanted, model, chosen_format(scope, wanted.format, ("json", "png", "zip"), self.default_format))
        work = self.work(model, scope, context)
        drawing = Drawing(work)

        async def chunk(rows: slice) -> tuple[list[dict[str, Any]], Pixels, list[bytes]]:
            async with drawing.room:
                draws = sheet.draws(rows)
                latents = await drawing.latents(draws)
                pictures = await drawing.decode(latents, draws.labels)
            records = sheet.records(rows, draws, latents)
            if sheet.format == "png":
                return records, pictures, []
            return records, pictures, await self.desk.write(context, lambda: _pngs(pictures))

        async def job() -> Any:
            chunks = await drawing.by_chunks(wanted.num_images, chunk)
            records = [record for some, _, _ in chunks for record in some]
            pngs = [png for _, _, some in chunks for png in some]
            pictures = np.concatenate([some for _, some, _ in chunks])
            return await self.desk.write(context, lambda: sheet.answer(records, pictures, pngs))

        return await work.run(job())

    async def read(self, scope: Scope, receive: Receive, context: RequestContext) -> dict[str, Any]:
        """The parameters, in the body or in the query."""
        return await read_object_or_query(scope, receive, context, self.settings.max_body_bytes, GENERATE)


class GenerateByAddress(GeneratePictures):
    """`GET /v1/models/{model}/generate`: for the address bar of a browser, and for `<img>`."""

    default_format = "png"

    def resolve(self, reference: str) -> ReadyModel:
        """The model, if it draws.

        Raises: UnknownModel, ModelNotReady, UnsupportedTask.
        """
        model = self.client.resolve(reference)
        if model.manifest.task != self.task:
            raise UnsupportedTask(f"{model.name!r} does {model.manifest.task}; GET generates with {self.task} only.")
        return model

    async def read(self, scope: Scope, receive: Receive, context: RequestContext) -> dict[str, Any]:
        """The parameters in the query; a body means nothing here."""
        return spelled(query_parameters(scope), GENERATE)


class _Sheet:
    """What one request to generate wants of a model, and how it is told what came of it."""

    def __init__(self, wanted: Wanted, model: ReadyModel, format_: str) -> None:
        self.format = format_
        self._wanted = wanted
        self._model = model
        self._labels = model.manifest.labels or ()
        self._seed = secrets.randbelow(_MAX_OWN_SEED) if wanted.seed is None else wanted.seed
        self._seeds = following_seeds(self._seed, wanted.num_images)

    def draws(self, rows: slice) -> Draws:
        """What the seeds of some pictures say, with the labels that were asked for."""
        wanted, num_latents = self._wanted, num_latents_of(self._model.manifest)
        draws = draw(self._seeds[rows], len(self._labels), num_latents, wanted.temperature, wanted.truncation)
        if wanted.labels is not None:
            draws.labels[:] = wanted.labels[rows]
        return draws

    def records(self, rows: slice, draws: Draws, latents: Floats) -> list[dict[str, Any]]:
        """What is told of some pictures, but the pictures themselves."""
        records: list[dict[str, Any]] = [{"seed": seed} for seed in self._seeds[rows]]
        if knows_labels(self._model.manifest):
            for record, index in zip(records, draws.labels.tolist(), strict=True):
                record |= {"label": self._labels[index], "index": index}
        if self._wanted.tells_latents:
            for record, latent in zip(records, latents.tolist(), strict=True):
                record["latent"] = latent
        return records

    def answer(self, records: list[dict[str, Any]], pictures: Pixels, pngs: Sequence[bytes]) -> Any:
        """The whole answer; runs beside the event loop."""
        seed_header = [(b"x-seed", b"%d" % self._seed)]
        captions = [record.get("label", "") for record in records]
        if self.format == "png":
            return BinaryAnswer("image/png", [labelled_grid(pictures, captions)], seed_header)
        if self.format == "zip":
            seeds = [record["seed"] for record in records]
            return BinaryAnswer(ZIP_TYPE, [zip_of(_stems(seeds, captions), pngs)], seed_header)
        images = [record | {"image": in_base64(png)} for record, png in zip(records, pngs, strict=True)]
        return {"model": self._model.name, "version": self._model.version, "seed": self._seed, "images": images}


class Decode(DrawingRoute):
    """`POST /v1/models/{model}/decode`."""

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """The pictures of latents: as JSON, in a grid, or in a zip file."""
        members = read_parameters(await self.read_body(scope, receive, context), DECODE)
        manifest = model.manifest
        latents = latent_rows("latents", members["latents"], num_latents_of(manifest))
        names = manifest.labels or ()
        labels = checked_labels(manifest, "decoder", label_indices(members["label"], len(latents), names))
        format_ = chosen_format(scope, members["format"], ("json", "png", "zip"))
        told = [""] * len(latents) if labels is None else [names[index] for index in labels]
        work = self.work(model, scope, context)
        drawing = Drawing(work)

        async def chunk(rows: slice) -> Pixels:
            async with drawing.room:
                return await drawing.decode(latents[rows], None if labels is None else labels[rows])

        async def job() -> Any:
            pictures = np.concatenate(await drawing.by_chunks(len(latents), chunk))
            return await self.desk.write(context, lambda: _decoded(model, format_, pictures, told))

        return await work.run(job())


def _decoded(model: ReadyModel, format_: str, pictures: Pixels, labels: Sequence[str]) -> Any:
    """The answer of `decode`; labels are empty where there are none."""
    if format_ == "png":
        return BinaryAnswer("image/png", [labelled_grid(pictures, labels)])
    pngs = _pngs(pictures)
    if format_ == "zip":
        return BinaryAnswer(ZIP_TYPE, [zip_of(_stems(range(len(labels)), labels), pngs)])
    images: list[Mapping[str, Any]] = [
        ({"label": label} if label else {}) | {"image": in_base64(png)} for label, png in zip(labels, pngs, strict=True)
    ]
    return {"model": model.name, "version": model.version, "images": images}


def chosen_format(scope: Scope, asked: str | None, known: Sequence[str], default: str = "json") -> str:
    """The format of an answer: the one asked for, or else what the caller names in `Accept`, or else the default."""
    if asked is not None:
        return asked
    offered = [media_type for media_type, name in _TYPES.items() if name in known]
    preferred = preferred_type(scope, offered)
    return default if preferred is None else _TYPES[preferred]


def in_base64(content: bytes) -> str:
    """A file as JSON carries it."""
    return b64encode(content).decode("ascii")


def zip_of(stems: Sequence[str], pngs: Sequence[bytes]) -> bytes:
    """PNG files of these names, without their suffix, as one zip file."""
    names = safe_names([f"{stem.replace('/', '-')}.png" for stem in stems], ["PNG"] * len(pngs))
    return as_zip([PictureFile(name, "PNG", png) for name, png in zip(names, pngs, strict=True)])


def _stems(numbers: Sequence[int], labels: Sequence[str]) -> list[str]:
    return [f"{number}-{label}" if label else f"{number}" for number, label in zip(numbers, labels, strict=True)]


def _pngs(pictures: Pixels) -> list[bytes]:
    return [encode_png(picture) for picture in pictures]
