"""Encoded images sent as BYTES in place of pixels: decoded as the model's task would, they become the UINT8 input.

It knows neither routes nor the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.manifest import Graph, Manifest, TensorSpec
from service.errors import InvalidParameter, ServiceError
from service.http.request_context import RequestContext
from service.protocols.open_inference.tensors import Tensor, unpack_strings
from service.schema import shown
from service.settings import Settings
from service.tasks.image_decoding import ImageDecoder, Pixels
from service.tasks.registry import all_tasks


class EncodedImages:
    """Decodes the images of requests."""

    def __init__(self, settings: Settings, decoder: ImageDecoder) -> None:
        self._settings = settings
        self._decoder = decoder

    async def decode_all(
        self, manifest: Manifest, graph: Graph, tensors: Sequence[Tensor], context: RequestContext
    ) -> Sequence[Tensor]:
        """The tensors, with encoded images decoded to pixels [B,H,W,C].

        Raises: InvalidParameter, naming the image that cannot be decoded.
        """
        pixels = {spec.name: spec for spec in graph.inputs if takes_images(manifest, spec)}
        return [
            await self._decoded(manifest, pixels[tensor.name], tensor, context)
            if tensor.datatype == "BYTES" and tensor.name in pixels
            else tensor
            for tensor in tensors
        ]

    async def _decoded(self, manifest: Manifest, spec: TensorSpec, tensor: Tensor, context: RequestContext) -> Tensor:
        check_column(tensor.name, tensor.shape, self._settings.max_images)
        rows = []
        for index, string in enumerate(unpack_strings(tensor.name, tensor.raw, tensor.num_elements)):
            try:
                rows.append(await self._pixels(manifest, spec, bytes(string), context.origin))
                context.reservation.grow(2 * rows[-1].nbytes, "the decoded images")  # once more when they are stacked
            except ServiceError as error:
                if error.status >= 499:
                    raise
                raise InvalidParameter(
                    f"{shown(tensor.name)}, image {index}: {error.message}", parameter=tensor.name
                ) from error
        if len(shapes := {row.shape for row in rows}) > 1:
            sizes = ", ".join(sorted(f"{shape[1]}x{shape[0]}" for shape in shapes))
            raise InvalidParameter(f"The images of {shown(tensor.name)} differ in size: {sizes}; send one size.")
        stacked = np.stack(rows)
        return Tensor(tensor.name, spec.datatype, stacked.shape, stacked.reshape(-1).data)

    async def _pixels(self, manifest: Manifest, spec: TensorSpec, body: bytes, caller: str) -> Pixels:
        if -1 not in spec.row_shape:
            return await self._decoder.row(body, manifest, spec.row_shape, caller=caller)
        max_pixels = self._settings.max_image_pixels
        if manifest.stylization is not None:
            max_pixels = min(max_pixels, manifest.stylization.max_pixels)
        return (await self._decoder.photo(body, max_pixels=max_pixels, caller=caller)).colours


def check_column(name: str, shape: tuple[int, ...], max_images: int) -> None:
    """Check the shape of encoded images.

    Raises: InvalidParameter.
    """
    is_column = len(shape) in (1, 2) and shape[1:] in ((), (1,))
    if not is_column or not 1 <= shape[0] <= max_images:
        raise InvalidParameter(
            f"The shape of {shown(name)} is {list(shape)}; encoded images are a BYTES tensor of "
            f"the shape [B] or [B, 1], B up to {max_images}.",
            parameter=name,
        )


def takes_images(manifest: Manifest, spec: TensorSpec) -> bool:
    """Whether an input is pixels [B,H,W,C] of a task on images, so that encoded images can replace them."""
    task = all_tasks().get(manifest.task)
    return (
        task is not None
        and task.takes_images
        and spec.datatype == "UINT8"
        and len(spec.row_shape) == 3
        and spec.row_shape[2] in (1, 3)
    )
