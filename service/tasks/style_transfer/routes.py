"""The route of stylizers: `stylize`. Pictures go in, painted pictures come out.

What happens to pixels is said in `tasks/stylization.py`; here it is decided when. Of all requests together, pictures
of at most `max_image_pixels` that fit the network at once are decoded at a time, and as much of larger ones, at 9 bytes
per pixel; and of each large picture at most `TILES_AT_ONCE` tiles are on their way through the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import ceil
from time import perf_counter
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive

from models.images import ImageLimits
from service.engine.transport.client import EngineClient, ReadyModel
from service.errors import PayloadTooLarge, ServiceError
from service.http.body import JsonPictures, Pictures, read_body, read_pictures
from service.http.engine_work import EngineWork, together
from service.http.inference import BinaryAnswer, InferenceRoute, request_timeout_seconds
from service.http.multi_image import ZIP_TYPE, PictureFile, as_multipart, as_zip, safe_names, wants_zip
from service.http.pixel_budget import PixelBudget
from service.http.request_context import RequestContext, Scope
from service.settings import Settings
from service.tasks.parameters import shown, spelled
from service.tasks.style_transfer.parameters import STYLIZE, Wanted, parse_wanted
from service.tasks.style_transfer.process import Checked, Painting, check_header
from service.tasks.style_transfer.styles import stylization_of
from service.tasks.style_transfer.tiling import plan_tiles
from service.telemetry.metrics import Metrics

TILES_AT_ONCE = 4
"""Enough that the next tiles are on their way while the engine computes; each holds some 10 MB here."""
PIXELS_PER_TIMEOUT = 4_000_000
"""Without `X-Request-Timeout`, the usual deadline is granted for each so many pixels begun, up to the largest."""
MAX_PICTURES_PIXELS = 4
"""The pictures of one request have at most so many times `max_image_pixels` together: the reply is kept whole."""

Done = TypeVar("Done")


class _JsonBody(JsonPictures, forbid_unknown_fields=True):
    style: str | None = None
    styles: str | None = None
    strength: float | None = None
    preserve_color: bool | None = None
    format: str | None = None
    quality: int | None = None


_json_decoder: msgspec.json.Decoder[JsonPictures] = msgspec.json.Decoder(_JsonBody)


class Stylize(InferenceRoute):
    """`POST /v1/models/{model}/stylize`."""

    task = "style-transfer"

    def __init__(
        self, client: EngineClient, settings: Settings, metrics: Metrics, decoders: ThreadPoolExecutor
    ) -> None:
        super().__init__(client, settings)
        self._limits = ImageLimits(max_pixels=settings.max_image_pixels)
        self._metrics = metrics
        self._small = _Room(decoders, PixelBudget(settings.max_image_pixels))
        # Threads of their own: what takes seconds must not hold up what takes milliseconds.
        threads = ThreadPoolExecutor(settings.decode_threads, "large")
        self._large = _Room(threads, PixelBudget(settings.max_image_pixels))

    async def answer(self, model: ReadyModel, scope: Scope, receive: Receive, context: RequestContext) -> BinaryAnswer:
        """The pictures in the manner of a style or of a blend of styles, in their own sizes."""
        body = await read_body(scope, receive, self.settings.max_body_bytes)
        context.request_bytes = len(body)
        pictures = await read_pictures(scope, body, _json_decoder, self.settings)
        del body
        wanted = parse_wanted(spelled(pictures.parameters, STYLIZE), stylization_of(model))
        checked = self._checked(pictures, wanted)
        names = pictures.names
        del pictures
        num_pixels = sum(picture.num_pixels for picture in checked)
        work = EngineWork(self.client, model, context, self._timeout_seconds(scope, num_pixels))
        files = await work.run(self._painted(work, context, checked, names, wanted))
        return await self._reply(files, is_zip=wants_zip(scope))

    def _timeout_seconds(self, scope: Scope, num_pixels: int) -> float:
        asked = request_timeout_seconds(scope, self.settings)
        if any(name == b"x-request-timeout" for name, _ in scope["headers"]):
            return asked
        return min(asked * ceil(num_pixels / PIXELS_PER_TIMEOUT), max(asked, self.settings.max_request_timeout_seconds))

    def _checked(self, pictures: Pictures, wanted: Wanted) -> list[Checked]:
        checked = []
        for index, body in enumerate(pictures.encoded):
            with _naming(index, pictures.names):
                checked.append(check_header(body, self._limits, wanted))
        largest = MAX_PICTURES_PIXELS * self.settings.max_image_pixels
        if (num_pixels := sum(picture.num_pixels for picture in checked)) > largest:
            raise PayloadTooLarge(f"The pictures have {num_pixels} pixels together; at most {largest} are accepted.")
        return checked

    async def _painted(
        self, work: EngineWork, context: RequestContext, checked: list[Checked], names: list[str], wanted: Wanted
    ) -> list[PictureFile]:
        """Every picture painted, side by side, so that the engine can batch them."""

        async def one(index: int) -> tuple[bytes, str]:
            with _naming(index, names):
                return await self._one(work, context, checked[index], wanted)

        painted = await together(one(index) for index in range(len(checked)))
        unique = safe_names(names, [kind for _, kind in painted])
        return [PictureFile(name, kind, content) for name, (content, kind) in zip(unique, painted, strict=True)]

    async def _one(
        self, work: EngineWork, context: RequestContext, checked: Checked, wanted: Wanted
    ) -> tuple[bytes, str]:
        stylization = stylization_of(work.model)
        is_large = plan_tiles(checked.height, checked.width, stylization).is_tiled
        room = self._large if is_large else self._small
        async with room.budget.room(checked.num_pixels):
            started = perf_counter()
            painting = await room.in_thread(lambda: Painting(checked, self._limits, stylization, wanted))
            self._metrics.decode_seconds.observe(perf_counter() - started)
            if wanted.needs_network:
                await _paint(work, context, painting, wanted, room)
            started = perf_counter()
            encoded = await room.in_thread(painting.encode)
            self._metrics.encode_seconds.observe(perf_counter() - started)
            return encoded

    async def _reply(self, files: list[PictureFile], *, is_zip: bool) -> BinaryAnswer:
        if is_zip:
            return BinaryAnswer(ZIP_TYPE, [await self._large.in_thread(lambda: as_zip(files))])
        if len(files) == 1:
            return BinaryAnswer(files[0].media_type, [files[0].content])
        return BinaryAnswer(*as_multipart(files))


class _Room:
    """Where pictures of one kind are worked on: the threads, and the room for their pixels."""

    def __init__(self, threads: ThreadPoolExecutor, budget: PixelBudget) -> None:
        self._threads = threads
        self.budget = budget

    async def in_thread(self, function: Callable[[], Done]) -> Done:
        """Await what a function gives, computed beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


async def _paint(work: EngineWork, context: RequestContext, painting: Painting, wanted: Wanted, room: _Room) -> None:
    """Bring the tiles of a picture through the engine, a few at a time."""
    graph = "model"
    statistics: tuple[NDArray[np.float32], ...] = ()
    if painting.plan.is_tiled:
        whole = await room.in_thread(painting.read_whole)
        found = await work.infer("statistics", (whole, wanted.weights), ("mean", "deviation"))
        del whole
        graph, statistics = "tile", (found["mean"][0], found["deviation"][0])
        context.num_tiles += len(painting.plan.tiles)
    tiles = iter(painting.plan.tiles)

    async def paint_some() -> None:
        for tile in tiles:
            pixels = await room.in_thread(partial(painting.read, tile))
            arrays = await work.infer(graph, (pixels, wanted.weights, *statistics), ("painting",))
            await room.in_thread(partial(painting.lay, tile, arrays["painting"][0]))

    await together(paint_some() for _ in range(min(TILES_AT_ONCE, len(painting.plan.tiles))))


@contextmanager
def _naming(index: int, names: list[str]) -> Iterator[None]:
    """Say of an error of the request which of several pictures it is about."""
    try:
        yield
    except ServiceError as error:
        if len(names) == 1 or error.status >= 499:
            raise
        which = f"Picture {index + 1} of {len(names)}" + (f" ({shown(names[index])})" if names[index] else "")
        raise type(error)(f"{which}: {error.message}", parameter=error.parameter) from error
