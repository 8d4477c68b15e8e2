"""Makes a request of a body that is one raw tensor and nothing else (`Inference-Header-Content-Length: 0`).

The model tells what it is: of its only input, one row. Source: extension_binary_data.md, "raw binary request".
"""

from __future__ import annotations

from math import prod

from models.manifest import TensorSpec
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter
from service.protocols.open_inference.naming import Target
from service.protocols.open_inference.pictures import takes_pictures
from service.protocols.open_inference.request import InferRequest
from service.protocols.open_inference.tensors import ELEMENT_BYTES, Tensor, raw_tensor
from service.schema import shown


def raw_request(target: Target, body: bytes) -> InferRequest:
    """The request whose only input is the body; all outputs are wanted raw.

    Raises: InvalidParameter where the model has several inputs, or its input's size does not follow from the body's.
    """
    graph = target.graph
    if graph is None or len(graph.inputs) != 1:
        count = "no tensors" if graph is None else f"{len(graph.inputs)} inputs"
        raise InvalidParameter(f"{target.name!r} takes {count}; a raw request needs a model of one input.")
    spec = graph.inputs[0]
    sizes = spec.row_shape if graph.is_batched else spec.shape
    rows = (1,) if graph.is_batched else ()
    return InferRequest(inputs=(_tensor(target, spec, rows, sizes, body),), parameters={"binary_data_output": True})


def _tensor(target: Target, spec: TensorSpec, rows: tuple[int, ...], sizes: tuple[int, ...], body: bytes) -> Tensor:
    if spec.datatype == "BYTES":
        if any(size not in (1, -1) for size in sizes):
            raise InvalidParameter(f"{shown(spec.name)} takes several elements; a raw request holds one, as it is.")
        return Tensor(spec.name, "BYTES", (*rows, *(1 for _ in sizes)), pack_strings([body]))
    shape = _shape(spec, sizes, len(body))
    if shape is not None:
        return raw_tensor(spec.name, spec.datatype, (*rows, *shape), body)
    if takes_pictures(target.model.manifest, spec):
        return Tensor(spec.name, "BYTES", (1,), pack_strings([body]))
    raise InvalidParameter(
        f"The body has {len(body)} bytes, of which {shown(spec.name)}, {spec.datatype} {list(sizes)}, cannot be made.",
        parameter=spec.name,
    )


def _shape(spec: TensorSpec, sizes: tuple[int, ...], num_bytes: int) -> tuple[int, ...] | None:
    """The sizes that the bytes fill, one of which may follow from their number."""
    known_bytes = prod(size for size in sizes if size >= 0) * ELEMENT_BYTES[spec.datatype]
    num_open = sum(size < 0 for size in sizes)
    if num_open > 1 or (num_open == 1 and (known_bytes == 0 or num_bytes % known_bytes)):
        return None
    if num_open == 0:
        return sizes if num_bytes == known_bytes else None
    return tuple(num_bytes // known_bytes if size < 0 else size for size in sizes)
