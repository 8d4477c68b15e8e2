"""Writes the answer to an inference request: JSON, or JSON followed by raw tensors; and class strings for scores.

It knows neither HTTP nor models. Sources: inference_rest.md, extension_binary_data.md, extension_classification.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from models.manifest import NUMPY_DTYPES
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter
from service.protocols.open_inference.json_tensors import json_data
from service.protocols.open_inference.request import InferRequest, WantedOutput
from service.protocols.open_inference.tensors import Tensor
from service.schema import shown

_NO_SCORES = ("BOOL", "BF16", "BYTES")


@dataclass(frozen=True, slots=True)
class Reply:
    """A body in pieces; `header_bytes` is the length of its JSON where raw tensors follow."""

    pieces: tuple[bytes | memoryview, ...]
    header_bytes: int | None


def write_reply(
    model: str, version: str, request: InferRequest, answers: Sequence[tuple[WantedOutput, Tensor]]
) -> Reply:
    """Write the outputs in the order and the form that were asked for.

    Raises: InvalidParameter where JSON cannot say an output.
    """
    outputs: list[dict[str, Any]] = []
    raw: list[bytes | memoryview] = []
    for wanted, tensor in answers:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if request.wants_binary if wanted.is_binary is None else wanted.is_binary:
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
    """Turn scores [B,K] into the strings `score:index:label` [B,k] of the highest, best first.

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
