"""Inference requests and answers as protobuf messages, their tensors raw or in typed contents.

It knows neither gRPC nor models. Answers are always raw, as Triton's are. Sources: the comments of
open_inference.proto, Triton's extension_parameters.md, extension_classification.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from models.manifest import NUMPY_DTYPES
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter, Unsupported
from service.protocols.open_inference.execution import InferResult
from service.protocols.open_inference.grpc.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from service.protocols.open_inference.inputs import ModelInputs
from service.protocols.open_inference.request import NO_SHARED_MEMORY, InferRequest, RequestedOutput
from service.protocols.open_inference.tensors import Declared, Tensor, declared_tensor, raw_tensor
from service.schema import shown

_SHARED_MEMORY = "shared_memory_region"
_PIECE_ELEMENTS = 2**15  # read at once; other threads wait meanwhile
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
"""The field of the contents that holds the elements of a datatype; FP16 and BF16 have none and must be raw."""


def read_request(message: ModelInferRequest, model: ModelInputs) -> InferRequest:
    """Read an inference request, apart from the model's name.

    Raises: InvalidParameter; PayloadTooLarge; Unsupported for a tensor in shared memory.
    """
    max_tensors = model.max_tensors
    if max(len(message.inputs), len(message.outputs)) > max_tensors:
        raise InvalidParameter(
            f"The request has {len(message.inputs)} inputs and {len(message.outputs)} outputs; "
            f"at most {max_tensors} of each are accepted."
        )
    for tensor in message.inputs:
        _refuse_shared_memory(tensor.name, tensor.parameters)
    declared = [declared_tensor(tensor.name, tensor.datatype, tensor.shape) for tensor in message.inputs]
    model.check(declared)
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidParameter(
            f"The request has {len(message.inputs)} inputs and {len(raw)} raw_input_contents; it must have one of them "
            "for each input, or none."
        )
    if raw:
        inputs = tuple(map(tensor_from_raw, message.inputs, declared, raw))
    else:
        inputs = tuple(map(tensor_from_contents, message.inputs, declared))
    return InferRequest(
        inputs=inputs,
        outputs=tuple(_output(output) for output in message.outputs),
        id=message.id,
        parameters=parameter_values(message.parameters, "the request"),
    )


def write_result(result: InferResult) -> ModelInferResponse:
    """Write an answer with raw tensors."""
    response = ModelInferResponse(model_name=result.model_name, model_version=result.model_version, id=result.id or "")
    for _, tensor in result.outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(bytes(tensor.raw))
    return response


def _output(message: ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    _refuse_shared_memory(message.name, message.parameters)
    num_classes = parameter_values(message.parameters, shown(message.name)).get("classification")
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise InvalidParameter(
            f"classification of {shown(message.name)} is {shown(num_classes)}; it must be a whole number from 1 on.",
            parameter="classification",
        )
    return RequestedOutput(name=message.name, num_classes=num_classes or 0)


def parameter_values(messages: Mapping[str, Any], of: str) -> dict[str, Any]:
    """The values of parameters; error messages say that they are parameters `of` something.

    Raises: InvalidParameter for one without a value.
    """
    values = {}
    for name, message in messages.items():
        choice = message.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidParameter(f"The parameter {shown(name)} of {of} has no value.", parameter=name)
        values[name] = getattr(message, choice)
    return values


def _refuse_shared_memory(name: str, parameters: Mapping[str, Any]) -> None:
    if _SHARED_MEMORY in parameters:
        raise Unsupported(f"{shown(name)} refers to shared memory. {NO_SHARED_MEMORY}")


# --- Tensors ---


def tensor_from_raw(message: ModelInferRequest.InferInputTensor, declared: Declared, raw: bytes) -> Tensor:
    """Make a tensor from its description and its element of `raw_input_contents`.

    Raises: InvalidParameter where they do not agree, or the tensor has contents too.
    """
    if message.HasField("contents"):
        raise InvalidParameter(
            f"{shown(message.name)} has contents, and the request raw_input_contents; use one of them for all inputs.",
            parameter=message.name,
        )
    return raw_tensor(declared, raw)


def tensor_from_contents(message: ModelInferRequest.InferInputTensor, declared: Declared) -> Tensor:
    """Make a tensor that holds its elements itself.

    Raises: InvalidParameter where datatype, shape and contents do not agree.
    """
    name, datatype, sizes = declared.name, declared.datatype, declared.shape
    field = CONTENTS.get(datatype)
    if field is None:
        raise InvalidParameter(
            f"{shown(name)}: {datatype} is accepted only as raw bytes; use raw_input_contents.", parameter=name
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
    numbers = np.empty(len(elements), wide)
    for start in range(0, len(elements), _PIECE_ELEMENTS):
        end = start + _PIECE_ELEMENTS
        numbers[start:end] = elements[start:end]
    if dtype == wide:
        return numbers.tobytes()
    narrow = numbers.astype(dtype)
    if not (is_held := narrow == numbers).all():
        at = int(np.argmin(is_held))
        raise InvalidParameter(
            f"{shown(name)}: element {at} is {numbers[at]}, which {datatype} cannot hold.", parameter=name
        )
    return narrow.tobytes()
