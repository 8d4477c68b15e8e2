"""`POST /v1/models/{model}/invert`."""

from __future__ import annotations

from base64 import b64encode

from service.tasks.invert.process import blended
from service.tasks.invert.schema import InvertAnswer, InvertParameters

from service.tasks.image_decoding import ImageDecoder
from service.tasks.image_files import encode_png
from service.tasks.task import Dependencies, ImagesRoute, TaskRequest


class Invert(ImagesRoute):
    """`POST /v1/models/{model}/invert`."""

    task = "image-inversion"
    verb = "invert"
    tensor_graph = "model"
    parameters = InvertParameters
    answers = (InvertAnswer,)

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self._decoder = ImageDecoder(dependencies.settings, dependencies.metrics, dependencies.threads)

    async def answer(self, request: TaskRequest) -> InvertAnswer:
        """The negative of each image."""
        images, parameters = await self.read(request, InvertParameters)
        model, row_shape = request.model, self.row_shape(request.model)
        rows = [await self._decoder.row(body, model.manifest, row_shape, "false") for body in images.encoded]
        arrays = await self.infer(request, [row.reshape(-1).data for row in rows], ("inverted",))
        pngs = [
            encode_png(blended(row, inverted, parameters.strength))
            for row, inverted in zip(rows, arrays["inverted"], strict=True)
        ]
        texts = [b64encode(png).decode("ascii") for png in pngs]
        return InvertAnswer(model=model.name, version=model.version, images=texts)
