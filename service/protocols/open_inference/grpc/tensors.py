"""Tensors between protobuf messages and the protocol's own form: raw bytes, or typed contents.

It knows neither requests nor gRPC. Source: the comments of open_inference.proto.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from models.manifest import NUMPY_DTYPES
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter
from service.protocols.open_inference.grpc.open_inference_pb2 import ModelInferRequest
from service.protocols.open_inference.tensors import Tensor, check_datatype, check_shape, raw_tensor
from service.schema import shown

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of the contents that holds the elements of a datatype; FP16 and BF16 have none and travel raw."""


def tensor_from_raw(message: ModelInferRequest.InferInputTensor, raw: bytes) -> Tensor:
    """Make a tensor of its description and its element of `raw_input_contents`.

    Raises: InvalidParameter where they do not agree, or the tensor has contents too.
    """
    if message.HasField("contents"):
        raise InvalidParameter(
            f"{shown(message.name)} has contents, and the request raw_input_contents; use one of them for all inputs.",
            parameter=message.name,
        )
    return raw_tensor(message.name, message.datatype, list(message.shape), raw)


def tensor_from_contents(message: ModelInferRequest.InferInputTensor) -> Tensor:
    """Make a tensor that holds its elements itself.

    Raises: InvalidParameter where datatype, shape and contents do not agree.
    """
    name, datatype = message.name, message.datatype
    check_datatype(name, datatype)
    sizes = check_shape(name, list(message.shape))
    field = CONTENTS.get(datatype)
    if field is None:
        raise InvalidParameter(
            f"{shown(name)}: {datatype} travels as raw bytes only; use raw_input_contents.", parameter=name
        )
    if others := sorted({descriptor.name for descriptor, _ in message.contents.ListFields()} - {field}):
        raise InvalidParameter(
            f"{shown(name)} has {' and '.join(others)}; the elements of {datatype} belong in {field}.", parameter=name
        )
    elements = getattr(message.contents, field)
    if len(elements) != prod(sizes):
        raise InvalidParameter(
            f"{shown(name)} has {len(elements)} elements in {field}; the shape {list(sizes)} has {prod(sizes)}.",
            parameter=name,
        )
    return Tensor(name, datatype, sizes, _packed(name, datatype, elements))


def _packed(name: str, datatype: str, elements: Any) -> bytes:
    if datatype == "BYTES":
        return pack_strings(elements)
    dtype = NUMPY_DTYPES[datatype].newbyteorder("<")
    # Eight and sixteen bits come in a field of 32.
    wide = np.dtype(f"<{dtype.kind}4") if dtype.kind in "iu" and dtype.itemsize < 4 else dtype
    numbers = np.array(elements, wide)
    if dtype == wide:
        return numbers.tobytes()
    narrow = numbers.astype(dtype)
    if not (is_held := narrow == numbers).all():
        at = int(np.argmin(is_held))
        raise InvalidParameter(
            f"{shown(name)}: element {at} is {numbers[at]}, which {datatype} cannot hold.", parameter=name
        )
    return narrow.tobytes()
