"""Which shapes the rows of a graph may have, and how large such rows are.

The manifest fixes a row's shape; where an axis after the batch is -1, each request states its size.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from msgspec.structs import replace

from models.manifest import Graph, Manifest, TensorSpec
from service.engine.transport.messages import RowShapes
from service.engine.transport.strings import Payload, split_tensors
from service.errors import InvalidParameter


class RowRules:
    """Validates rows; `stride`, `max_positions` and `min_size` bound the axes of an input that vary."""

    def __init__(
        self, inputs: tuple[TensorSpec, ...], stride: int = 1, max_positions: int | None = None, min_size: int = 1
    ) -> None:
        self.inputs = inputs
        self.stride = stride
        self.max_positions = max_positions
        self.min_size = min_size
        self.has_strings = any(spec.datatype == "BYTES" for spec in inputs)
        self.varies = any(size < 0 for spec in inputs for size in spec.row_shape)
        self._fixed_bytes = 0 if self.varies else sum(prod(s.row_shape) * s.dtype.itemsize for s in inputs)

    def row_bytes(self, row_shapes: RowShapes) -> int:
        """The bytes of one row over all inputs; a graph whose rows do not vary needs no shapes.

        Raises: InvalidParameter where the graph does not take such rows.
        """
        if not row_shapes and not self.varies:
            return self._fixed_bytes
        self.check(row_shapes)
        return sum(prod(shape) * spec.dtype.itemsize for spec, shape in zip(self.inputs, row_shapes, strict=True))

    def checker(self, row_shapes: RowShapes) -> Callable[[int, Payload], None]:
        """How to check the payloads of requests with these row shapes, as `check_payload` does.

        Raises: InvalidParameter where the graph does not take such rows.
        """
        if self.has_strings:
            return lambda num_rows, payload: self.check_payload(num_rows, row_shapes, payload)
        row_bytes = self.row_bytes(row_shapes)

        def check(num_rows: int, payload: Payload) -> None:
            if num_rows < 0 or len(payload) != num_rows * row_bytes:
                self.check_payload(num_rows, row_shapes, payload)

        return check

    def check_payload(self, num_rows: int, row_shapes: RowShapes, payload: Payload) -> None:
        """Check that a payload holds whole rows of all inputs.

        Raises: InvalidParameter.
        """
        if num_rows < 0:
            raise InvalidParameter(f"There are {num_rows} rows; there cannot be fewer than 0.")
        if self.has_strings:
            self.check(row_shapes)
            split_tensors(self.specs(row_shapes), num_rows, payload)
        elif len(payload) != num_rows * (row_bytes := self.row_bytes(row_shapes)):
            raise InvalidParameter(f"{len(payload)} bytes are not {num_rows} rows of {row_bytes} bytes.")

    def check(self, row_shapes: RowShapes) -> None:
        """Check one shape for each input, in the graph's order.

        Raises: InvalidParameter.
        """
        if len(row_shapes) != len(self.inputs):
            names = [spec.name for spec in self.inputs]
            raise InvalidParameter(f"There are {len(row_shapes)} row shapes; the graph needs one for each of {names}.")
        for spec, shape in zip(self.inputs, row_shapes, strict=True):
            self._check_one(spec, shape)

    def _check_one(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        expected = spec.row_shape
        if len(shape) != len(expected) or any(e not in (size, -1) for e, size in zip(expected, shape, strict=True)):
            raise InvalidParameter(
                f"A row of {spec.name!r} has the shape {list(shape)}; the graph takes {list(expected)} (-1: any)."
            )
        varying = [size for e, size in zip(expected, shape, strict=True) if e == -1]
        if any(size < self.min_size or size % self.stride for size in varying):
            kind = f"positive multiples of {self.stride}" if self.stride > 1 else f"at least {self.min_size}"
            raise InvalidParameter(f"A row of {spec.name!r} has the shape {list(shape)}; sizes must be {kind}.")
        if varying and self.max_positions is not None and prod(varying) > self.max_positions:
            raise InvalidParameter(
                f"A row of {spec.name!r} has the shape {list(shape)}; "
                f"the product of the sizes {varying} must be at most {self.max_positions}."
            )

    def specs(self, row_shapes: RowShapes) -> tuple[TensorSpec, ...]:
        """The inputs with every size fixed but the batch's."""
        return tuple(replace(spec, shape=(-1, *shape)) for spec, shape in zip(self.inputs, row_shapes, strict=True))


def num_elements(row_shapes: RowShapes) -> int:
    """The elements of one row over all inputs, at least 1."""
    return max(1, sum(prod(shape) for shape in row_shapes))


def max_rows(row_shapes: RowShapes, max_batch_size: int, max_batch_elements: int | None) -> int:
    """How many rows of this shape one batch may hold: bounded by rows and by elements, and at least one."""
    if max_batch_elements is None:
        return max_batch_size
    return max(1, min(max_batch_size, max_batch_elements // num_elements(row_shapes)))


def whole_rules(inputs: tuple[TensorSpec, ...]) -> RowRules:
    """The rules of requests that are computed whole: their tensors are the one row of a batch."""
    return RowRules(tuple(replace(spec, shape=(-1, *spec.shape)) for spec in inputs), min_size=0)


def rules_of(manifest: Manifest, graph: Graph) -> RowRules:
    """The rules of a graph: all graphs of a stylizer bound the size of images."""
    if not graph.is_batched:
        return whole_rules(graph.inputs)
    if manifest.task == "tensors":
        return RowRules(graph.inputs, min_size=0)
    stylization = manifest.stylization
    if manifest.task != "style-transfer" or stylization is None:
        return RowRules(graph.inputs)
    return RowRules(graph.inputs, stylization.stride, stylization.max_pixels)
