"""Checks the tensors of a request against a graph's inputs and lays them out as the engine takes them.

It knows neither how tensors were written nor what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.manifest import Graph, TensorSpec
from service.errors import InvalidParameter
from service.protocols.open_inference.tensors import Tensor
from service.schema import shown


@dataclass(frozen=True, slots=True)
class Rows:
    """The inputs in the graph's order; `row_shapes` is empty where the graph alone tells them."""

    payload: list[bytes | memoryview]
    num_rows: int
    row_shapes: tuple[tuple[int, ...], ...]


def check_inputs(graph: Graph, tensors: Sequence[Tensor]) -> Rows:
    """Check that there is one tensor for each input, of its datatype and shape, and that all have the same rows.

    Raises: InvalidParameter.
    """
    given = {tensor.name: tensor for tensor in tensors}
    names = [spec.name for spec in graph.inputs]
    if given.keys() != set(names) or len(given) < len(tensors):
        raise _wrong_names([tensor.name for tensor in tensors], names)
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


def _wrong_names(given: list[str], names: list[str]) -> InvalidParameter:
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    parts = [f"the inputs {_listed(missing)} are missing"] if missing else []
    parts += [f"the inputs {_listed(unknown)} are unknown"] if unknown else []
    parts += [] if parts else ["inputs are given more than once"]
    what = " and ".join(parts)
    return InvalidParameter(f"{what[0].upper()}{what[1:]}; the model takes {_listed(names)}.", parameter="inputs")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names))


def _check_one(spec: TensorSpec, tensor: Tensor) -> None:
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
    counts = {tensor.name: tensor.shape[0] for tensor in tensors}
    num_rows = tensors[0].shape[0]
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{shown(name)} {count}" for name, count in counts.items())
        raise InvalidParameter(f"The first axes differ: {told}; each input needs one row for every row of the others.")
    if num_rows == 0:
        raise InvalidParameter("The batch is empty; the first axis of every input must be at least 1.")
    return num_rows
