"""Checks a request's inputs against its model: first what they are said to be, before their elements are read.

It knows neither JSON nor protobuf.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import KeysView, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from models.manifest import Graph, TensorSpec
from service.errors import InvalidParameter, PayloadTooLarge
from service.json_size import JsonBounds
from service.protocols.open_inference.description import Target
from service.protocols.open_inference.encoded_images import check_column, takes_images
from service.protocols.open_inference.tensors import Declared, Tensor
from service.schema import listed, shown

MAX_TENSORS = 4096
"""Inputs or outputs in a request, unless the model has more."""
MAX_STRINGS = 2**16
"""Elements of BYTES in a request: each is an object here and in the engine."""
MAX_JSON_ELEMENTS = 2**22
"""Elements in the JSON of a request, unless one row of the model has more; raw bytes have no such limit."""
_MEMBERS_OF_A_TENSOR = 64  # names, shapes and parameters


class ModelInputs:
    """What a request may hold for a model, as far as it can be checked before elements are read."""

    def __init__(self, target: Target, max_images: int) -> None:
        self._target = target
        self._max_images = max_images

    @property
    def max_tensors(self) -> int:
        """How many inputs, or outputs, a request may name: as many as the model has, and some more to be told which."""
        graph = self._target.graph
        return MAX_TENSORS if graph is None else max(MAX_TENSORS, len(graph.inputs), len(graph.outputs))

    @cached_property
    def json_bounds(self) -> JsonBounds:
        """The most values in the JSON of a request."""
        graph = self._target.graph
        specs = () if graph is None else graph.inputs
        row_elements = sum(prod(max(size, 1) for size in spec.shape) for spec in specs)
        objects = 2 * self.max_tensors  # each tensor and its parameters
        most = max(MAX_JSON_ELEMENTS, row_elements) + _MEMBERS_OF_A_TENSOR * len(specs)
        return JsonBounds(most, objects, " Send larger tensors as raw bytes (binary_data_size).")

    @property
    def takes_strings(self) -> bool:
        """Whether an input may be BYTES."""
        graph, manifest = self._target.graph, self._target.model.manifest
        return graph is not None and any(
            spec.datatype == "BYTES" or takes_images(manifest, spec) for spec in graph.inputs
        )

    def check(self, declared: Sequence[Declared]) -> None:
        """Check names, datatypes and shapes.

        Raises: InvalidParameter; PayloadTooLarge for more strings than `MAX_STRINGS`.
        """
        check_distinct([each.name for each in declared], "inputs")
        if (num_strings := sum(prod(each.shape) for each in declared if each.datatype == "BYTES")) > MAX_STRINGS:
            raise PayloadTooLarge(
                f"The inputs have {num_strings} elements of BYTES; at most {MAX_STRINGS} are accepted."
            )
        if (graph := self._target.graph) is None:
            return  # of a text generator, whose only input is read by itself
        given = {each.name: each for each in declared}
        names = dict.fromkeys(spec.name for spec in graph.inputs)
        if given.keys() != names.keys():
            raise _wrong_names(given.keys(), names.keys())
        for spec in graph.inputs:
            each = given[spec.name]
            if each.datatype == "BYTES" and takes_images(self._target.model.manifest, spec):
                check_column(each.name, each.shape, self._max_images)
            else:
                _check_one(spec, each)


def check_distinct(names: Sequence[str], what: str) -> None:
    """Check that no name occurs twice.

    Raises: InvalidParameter.
    """
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise InvalidParameter(f"The {what} name {listed(repeated)} more than once.", parameter=what)


# --- as the engine takes them ---


@dataclass(frozen=True, slots=True)
class Rows:
    """The inputs in the graph's order; `row_shapes` is empty where the graph fixes them."""

    payload: list[bytes | memoryview]
    num_rows: int
    row_shapes: tuple[tuple[int, ...], ...]


def check_inputs(graph: Graph, tensors: Sequence[Tensor]) -> Rows:
    """Check that there is one tensor for each input, of its datatype and shape, and that all have the same rows.

    Raises: InvalidParameter.
    """
    given = {tensor.name: tensor for tensor in tensors}
    names = dict.fromkeys(spec.name for spec in graph.inputs)
    if given.keys() != names.keys() or len(given) < len(tensors):
        raise _wrong_names(given.keys(), names.keys())
    ordered = [given[name] for name in names]
    for spec, tensor in zip(graph.inputs, ordered, strict=True):
        _check_one(spec, tensor)
    payload = [tensor.raw for tensor in ordered]
    if not graph.is_batched:
        return Rows(payload, 1, tuple(tensor.shape for tensor in ordered))
    num_rows = _same_rows(ordered)
    is_open = any(size < 0 for spec in graph.inputs for size in spec.row_shape)
    has_strings = any(spec.datatype == "BYTES" for spec in graph.inputs)
    return Rows(payload, num_rows, tuple(t.shape[1:] for t in ordered) if is_open or has_strings else ())


def _wrong_names(given: KeysView[str], names: KeysView[str]) -> InvalidParameter:
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    parts = [f"the inputs {listed(missing)} are missing"] if missing else []
    parts += [f"the inputs {listed(unknown)} are unknown"] if unknown else []
    parts += [] if parts else ["inputs are given more than once"]
    what = " and ".join(parts)
    return InvalidParameter(f"{what[0].upper()}{what[1:]}; the model takes {listed([*names])}.", parameter="inputs")


def _check_one(spec: TensorSpec, tensor: Tensor | Declared) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidParameter(
            f"The datatype of {shown(spec.name)} is {tensor.datatype}; the model takes {spec.datatype}.",
            parameter=spec.name,
        )
    is_fit = len(tensor.shape) == len(spec.shape)
    if not is_fit or any(w not in (size, -1) for w, size in zip(spec.shape, tensor.shape, strict=True)):
        raise InvalidParameter(
            f"The shape of {shown(spec.name)} is {list(tensor.shape)}; the model takes {list(spec.shape)}, "
            "-1 for any size.",
            parameter=spec.name,
        )


def _same_rows(tensors: Sequence[Tensor]) -> int:
    num_rows = tensors[0].shape[0]
    if other := next((tensor for tensor in tensors if tensor.shape[0] != num_rows), None):
        differing = f"{shown(tensors[0].name)} {num_rows}, {shown(other.name)} {other.shape[0]}"
        raise InvalidParameter(f"The first axes differ: {differing}; all inputs must have the same number of rows.")
    return num_rows
