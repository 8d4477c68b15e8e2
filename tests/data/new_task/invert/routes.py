"""`POST /v1/models/{model}/invert`."""

from __future__ import annotations

from base64 import b64encode

from service.tasks.invert.process import blended
from service.tasks.invert.schema import InvertAnswer, InvertParameters

from service.tasks.image_files import encode_png
from service.tasks.task import ImagesRoute, TaskRequest


class Invert(ImagesRoute):
    """`POST /v1/models/{model}/invert`."""

    task = "image-inversion"
    verb = "invert"
    tensor_graph = "model"
    parameters = InvertParameters
    answers = (InvertAnswer,)

    async def answer(self, request: TaskRequest) -> InvertAnswer:
        """The negative of each image."""
        images, parameters = await self.read(request, InvertParameters)
        model, work = request.model, self.work(request)
        rows = await self.rows(request, work, images, "false")
        arrays = await self.infer(request, [row.reshape(-1).data for row in rows], ("inverted",), work=work)
        pngs = [
            encode_png(blended(row, inverted, parameters.strength))
            for row, inverted in zip(rows, arrays["inverted"], strict=True)
        ]
        texts = [b64encode(png).decode("ascii") for png in pngs]
        return InvertAnswer(model=model.name, version=model.version, images=texts)
