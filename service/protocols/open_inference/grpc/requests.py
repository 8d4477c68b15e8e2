"""Inference requests and answers between protobuf and the protocol's own form. It knows neither gRPC nor models.

Answers are always raw, as Triton's are. Sources: Triton's extension_parameters.md, extension_classification.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import InvalidParameter, Unsupported
from service.protocols.open_inference.execution import Answer
from service.protocols.open_inference.grpc.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from service.protocols.open_inference.grpc.tensors import tensor_from_contents, tensor_from_raw
from service.protocols.open_inference.request import MAX_TENSORS, NO_SHARED_MEMORY, InferRequest, WantedOutput
from service.schema import shown

_SHARED_MEMORY = "shared_memory_region"


def read_request(message: ModelInferRequest) -> InferRequest:
    """Read an inference request; the model that it names is the caller's affair.

    Raises: InvalidParameter; Unsupported where a tensor lies in shared memory.
    """
    if max(len(message.inputs), len(message.outputs)) > MAX_TENSORS:
        raise InvalidParameter(
            f"The request has {len(message.inputs)} inputs and {len(message.outputs)} outputs; "
            f"at most {MAX_TENSORS} of each are accepted."
        )
    for tensor in message.inputs:
        _require_own_memory(tensor.name, tensor.parameters)
    raw = list(message.raw_input_contents)
    if raw and len(raw) != len(message.inputs):
        raise InvalidParameter(
            f"The request has {len(message.inputs)} inputs and {len(raw)} raw_input_contents; it must have one of them "
            "for each input, or none."
        )
    if raw:
        inputs = tuple(tensor_from_raw(tensor, data) for tensor, data in zip(message.inputs, raw, strict=True))
    else:
        inputs = tuple(tensor_from_contents(tensor) for tensor in message.inputs)
    return InferRequest(
        inputs=inputs,
        outputs=tuple(_output(output) for output in message.outputs),
        id=message.id,
        parameters=parameter_values(message.parameters, "the request"),
    )


def write_answer(answer: Answer) -> ModelInferResponse:
    """Write an answer, its tensors raw."""
    response = ModelInferResponse(model_name=answer.model_name, model_version=answer.model_version, id=answer.id or "")
    for _, tensor in answer.outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(bytes(tensor.raw))
    return response


def _output(message: ModelInferRequest.InferRequestedOutputTensor) -> WantedOutput:
    _require_own_memory(message.name, message.parameters)
    num_classes = parameter_values(message.parameters, shown(message.name)).get("classification")
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise InvalidParameter(
            f"classification of {shown(message.name)} is {shown(num_classes)}; it must be a whole number from 1 on.",
            parameter="classification",
        )
    return WantedOutput(name=message.name, num_classes=num_classes or 0)


def parameter_values(messages: Mapping[str, Any], of: str) -> dict[str, Any]:
    """The values of parameters; `of` says in messages whose they are.

    Raises: InvalidParameter for one without a value.
    """
    values = {}
    for name, message in messages.items():
        choice = message.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidParameter(f"The parameter {shown(name)} of {of} has no value.", parameter=name)
        values[name] = getattr(message, choice)
    return values


def _require_own_memory(name: str, parameters: Mapping[str, Any]) -> None:
    if _SHARED_MEMORY in parameters:
        raise Unsupported(f"{shown(name)} is to be in shared memory. {NO_SHARED_MEMORY}")
