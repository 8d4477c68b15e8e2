"""The routes of style transfer: `stylize`, and `styles`, which lists the styles.

To bound memory, at any time images of at most `max_image_pixels` in total are decoded, at 8 bytes per pixel; callers
take turns. Images that need tiles have a separate budget of the same size, and at most `TILES_AT_ONCE` tiles each in
the engine.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from models.image_header import ImageError, sniff
from models.images import ImageLimits
from models.stylization import Stylization
from service.decoding.turns import Turns
from service.engine.transport.client import ReadyModel
from service.errors import ModelFailed, PayloadTooLarge, ServiceError
from service.http.answers import BinaryAnswer
from service.http.body import Images
from service.http.request_context import RequestContext
from service.schema import shown
from service.tasks.engine_work import EngineWork, run_concurrently
from service.tasks.image_files import ZIP_TYPE, ImageFile, accepts_zip, as_multipart, as_zip, safe_names
from service.tasks.style_transfer.process import CheckedImage, StylizedPhoto, check_header
from service.tasks.style_transfer.schema import ListedStyle, NoParameters, StylesAnswer, StylizeParameters
from service.tasks.style_transfer.tiling import plan_tiles
from service.tasks.task import Dependencies, ImagesRoute, QueryRoute, TaskRequest
from service.threads import off_loop

TILES_AT_ONCE = 4
"""Enough to keep the engine busy; each takes about 10 MB in this process."""
BYTES_PER_PIXEL = 8
PIXELS_PER_TIMEOUT = 4_000_000
"""Without `X-Request-Timeout`, the default timeout applies to each this many pixels, up to the maximum."""
MAX_IMAGES_PIXELS = 4
"""The limit on all images of a request, as a multiple of `max_image_pixels`: answers are held in memory."""

Result = TypeVar("Result")
Weights = NDArray[np.float32]


class Stylize(ImagesRoute):
    """`POST /v1/models/{model}/stylize`."""

    task = "style-transfer"
    verb = "stylize"
    parameters = StylizeParameters
    files = ("image/jpeg", "image/png", "image/webp", "multipart/mixed", ZIP_TYPE)
    description = (
        "Images must have at least 32x32 pixels. EXIF orientation is applied; alpha (on white in a JPEG) and the ICC "
        "profile are kept, other metadata is dropped. One image is answered as an image file, several as "
        "multipart/mixed, or as a zip file if `Accept` lists it. Without `X-Request-Timeout`, the default timeout "
        "applies to each 4 megapixels or part of them."
    )

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        settings = dependencies.settings
        self._limits = ImageLimits(max_pixels=settings.max_image_pixels)
        self._decoder = dependencies.decoder
        # Images that take seconds must not delay those that take milliseconds.
        self._small, self._large = Turns(settings.max_image_pixels), Turns(settings.max_image_pixels)

    async def answer(self, request: TaskRequest) -> BinaryAnswer:
        """Render images in a style or a blend of styles, at their original sizes."""
        images, parameters = await self.read(request, StylizeParameters)
        files = await self.stylize(request, images, parameters)
        if accepts_zip(request.scope):
            return BinaryAnswer(ZIP_TYPE, [await off_loop(lambda: as_zip(files))])
        if len(files) == 1:
            return BinaryAnswer(files[0].media_type, [files[0].content])
        return BinaryAnswer(*as_multipart(files))

    async def stylize(self, request: TaskRequest, images: Images, parameters: StylizeParameters) -> list[ImageFile]:
        """Render images, each as a file."""
        weights = parameters.weights(stylization_of(request.model))
        checked = self._checked(images, parameters)
        names = images.names
        del images
        num_pixels = sum(image.num_pixels for image in checked)
        work = self.work(request, ceil(num_pixels / PIXELS_PER_TIMEOUT))
        return await work.run(self._stylized(work, request.context, checked, names, weights, parameters))

    def _checked(self, images: Images, parameters: StylizeParameters) -> list[CheckedImage]:
        checked = []
        for index, body in enumerate(images.encoded):
            with _naming(index, images.names):
                checked.append(check_header(body, self._limits, parameters))
        largest = MAX_IMAGES_PIXELS * self.settings.max_image_pixels
        if (num_pixels := sum(image.num_pixels for image in checked)) > largest:
            raise PayloadTooLarge(f"The images have {num_pixels} pixels in total; at most {largest} are accepted.")
        return checked

    async def _stylized(
        self,
        work: EngineWork,
        context: RequestContext,
        checked: list[CheckedImage],
        names: list[str],
        weights: Weights,
        parameters: StylizeParameters,
    ) -> list[ImageFile]:
        """Stylize all images concurrently, so that the engine can batch them."""

        async def one(index: int) -> tuple[bytes, str]:
            with _naming(index, names):
                return await self._one(work, context, checked[index], weights, parameters)

        stylized = await run_concurrently(one(index) for index in range(len(checked)))
        unique = safe_names(names, [kind for _, kind in stylized])
        return [ImageFile(name, kind, content) for name, (content, kind) in zip(unique, stylized, strict=True)]

    async def _one(
        self,
        work: EngineWork,
        context: RequestContext,
        checked: CheckedImage,
        weights: Weights,
        parameters: StylizeParameters,
    ) -> tuple[bytes, str]:
        stylization = stylization_of(work.model)
        turns = self._large if plan_tiles(checked.height, checked.width, stylization).is_tiled else self._small
        num_bytes = BYTES_PER_PIXEL * checked.num_pixels
        async with turns.take(work.caller, checked.num_pixels):
            with context.reservation.beside(num_bytes, "the decoded image"):
                decoded = await self._decoder.photo(checked.body, caller=work.caller)
                photo = StylizedPhoto(decoded, stylization, parameters)
                if parameters.needs_network:
                    await self._stylize_tiles(work, context, photo, weights)
                result = photo.result()
                return await self._decoder.encode(result, parameters.quality, caller=work.caller), result.format

    async def _stylize_tiles(
        self, work: EngineWork, context: RequestContext, photo: StylizedPhoto, weights: Weights
    ) -> None:
        """Stylize the tiles of an image, a few at a time."""
        graph = "model"
        statistics: tuple[NDArray[np.float32], ...] = ()
        if photo.plan.is_tiled:
            whole = await off_loop(photo.read_downscaled)
            found = await work.infer("statistics", (whole, weights), ("mean", "deviation"))
            del whole
            graph, statistics = "tile", (found["mean"][0], found["deviation"][0])
            context.num_tiles += len(photo.plan.tiles)
        tiles = iter(photo.plan.tiles)

        async def worker() -> None:
            for tile in tiles:
                pixels = await off_loop(photo.read_tile, tile)
                arrays = await work.infer(graph, (pixels, weights, *statistics), ("painting",))
                await off_loop(photo.paste_tile, tile, arrays["painting"][0])

        await run_concurrently(worker() for _ in range(min(TILES_AT_ONCE, len(photo.plan.tiles))))


@contextmanager
def _naming(index: int, names: list[str]) -> Iterator[None]:
    """Add the name of the image to errors in the block, if there are several."""
    try:
        yield
    except ServiceError as error:
        if len(names) == 1 or error.status >= 499:
            raise
        which = f"Image {index + 1} of {len(names)}" + (f" ({shown(names[index])})" if names[index] else "")
        raise type(error)(f"{which}: {error.message}", parameter=error.parameter) from error


class Styles(QueryRoute):
    """`GET /v1/models/{model}/styles`; the thumbnails of a version are read once."""

    task = "style-transfer"
    verb = "styles"
    parameters = NoParameters
    answers = (StylesAnswer,)
    description = "In the order of the weights; thumbnails are data URLs."

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self._known: WeakKeyDictionary[ReadyModel, StylesAnswer] = WeakKeyDictionary()

    async def answer(self, request: TaskRequest) -> StylesAnswer:
        """List the styles of a model, with thumbnails."""
        await self.read(request, NoParameters)
        model = request.model
        styles = self._known.get(model)
        if styles is None:
            styles = await off_loop(_read_styles, model)
            self._known[model] = styles
        return styles


def _read_styles(model: ReadyModel) -> StylesAnswer:
    styles = []
    for style in stylization_of(model).styles:
        try:
            content = (model.folder / style.thumbnail).read_bytes()
            media_type = f"image/{sniff(content).lower()}"
        except (OSError, ImageError) as error:
            raise ModelFailed(f"{style.thumbnail} of {model.name}@{model.version} cannot be read.") from error
        url = f"data:{media_type};base64,{b64encode(content).decode('ascii')}"
        styles.append(ListedStyle(name=style.name, thumbnail=url))
    return StylesAnswer(model=model.name, version=model.version, styles=styles)


def stylization_of(model: ReadyModel) -> Stylization:
    """The stylization settings of a style-transfer model."""
    stylization = model.manifest.stylization
    assert stylization is not None  # the manifest of this task has one
    return stylization
