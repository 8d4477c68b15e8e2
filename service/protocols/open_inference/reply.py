"""Makes the answer to an inference request: which outputs, classes in place of scores, JSON or raw tensors.

It knows neither HTTP nor gRPC. Sources: inference_rest.md, extension_binary_data.md, extension_classification.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.manifest import NUMPY_DTYPES, Graph, TensorSpec
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter
from service.protocols.open_inference.request import InferRequest, RequestedOutput
from service.protocols.open_inference.tensors import Tensor, json_data
from service.schema import listed, shown

_NO_SCORES = ("BOOL", "BF16", "BYTES")


def requested_outputs(graph: Graph, requested: tuple[RequestedOutput, ...]) -> tuple[RequestedOutput, ...]:
    """The requested outputs; if there are none, all of the graph.

    Raises: InvalidParameter for an output that the graph does not have, or one that is requested twice.
    """
    if not requested:
        return tuple(RequestedOutput(name=spec.name) for spec in graph.outputs)
    names = [spec.name for spec in graph.outputs]
    left = set(names)
    for output in requested:
        if output.name not in left:
            why = "requested twice" if output.name in names else "unknown"
            raise InvalidParameter(
                f"The output {shown(output.name)} is {why}; the model has {listed(names)}.", parameter="outputs"
            )
        left.remove(output.name)
    return requested


def output_tensors(
    graph: Graph,
    requested: Sequence[RequestedOutput],
    arrays: Mapping[str, NDArray[Any]],
    labels: Sequence[str] | None,
) -> tuple[tuple[RequestedOutput, Tensor], ...]:
    """The tensors in the order of the request; the best classes in place of scores where requested.

    Raises: InvalidParameter where classes are requested of a tensor without scores.
    """
    specs = {spec.name: spec for spec in graph.outputs}
    answers = []
    for output in requested:
        tensor = _tensor(specs[output.name], arrays[output.name])
        if output.num_classes:
            is_labelled = labels is not None and tensor.shape[-1:] == (len(labels),)
            tensor = classify(tensor, output.num_classes, labels if is_labelled else None)
        answers.append((output, tensor))
    return tuple(answers)


def _tensor(spec: TensorSpec, array: NDArray[Any]) -> Tensor:
    if spec.datatype == "BYTES":
        raw: bytes | memoryview = pack_strings(array.reshape(-1).tolist())
    else:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return Tensor(spec.name, spec.datatype, array.shape, raw)


@dataclass(frozen=True, slots=True)
class Reply:
    """A body in pieces; `header_bytes` is the length of its JSON where raw tensors follow."""

    pieces: tuple[bytes | memoryview, ...]
    header_bytes: int | None = None
    status: int = 200


def write_reply(
    model: str, version: str, request: InferRequest, answers: Sequence[tuple[RequestedOutput, Tensor]]
) -> Reply:
    """Write the outputs in the requested order and form.

    Raises: InvalidParameter for an output that JSON cannot hold.
    """
    outputs: list[dict[str, Any]] = []
    raw: list[bytes | memoryview] = []
    for requested, tensor in answers:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if request.wants_binary if requested.is_binary is None else requested.is_binary:
            described["parameters"] = {"binary_data_size": len(tensor.raw)}
            raw.append(tensor.raw)
        else:
            described["data"] = json_data(tensor)
        outputs.append(described)
    named = {"id": request.id} if request.id is not None else {}
    head = {"model_name": model, "model_version": version, **named, "outputs": outputs}
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply((text, *raw), len(text) if raw else None)


def classify(tensor: Tensor, num_classes: int, labels: Sequence[str] | None) -> Tensor:
    """Replace scores [B,K] by the strings `score:index:label` [B,k] of the highest, best first.

    Raises: InvalidParameter where the tensor holds no scores.
    """
    if tensor.datatype in _NO_SCORES or not tensor.shape or tensor.num_elements == 0:
        raise InvalidParameter(
            f"{shown(tensor.name)} is {tensor.datatype} of the shape {list(tensor.shape)}; "
            "classification needs numbers with a last axis of classes.",
            parameter="classification",
        )
    dtype = NUMPY_DTYPES[tensor.datatype].newbyteorder("<")
    scores = np.frombuffer(tensor.raw, dtype).reshape(-1, tensor.shape[-1])
    best = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :num_classes]
    strings = [
        f"{float(row[index]):f}:{index}" + (f":{labels[index]}" if labels and index < len(labels) else "")
        for row, indices in zip(scores, best, strict=True)
        for index in indices
    ]
    shape = (*tensor.shape[:-1], best.shape[1])
    return Tensor(tensor.name, "BYTES", shape, pack_strings(strings))
