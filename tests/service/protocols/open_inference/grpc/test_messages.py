"""Requests and answers between protobuf messages and tensors: every datatype and shape, and everything refused."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import NUMPY_DTYPES
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter, ServiceError, Unsupported
from service.protocols.open_inference.execution import InferResult
from service.protocols.open_inference.grpc.messages import CONTENTS, read_request, write_result
from service.protocols.open_inference.grpc.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from service.protocols.open_inference.inputs import MAX_TENSORS
from service.protocols.open_inference.request import RequestedOutput
from service.protocols.open_inference.tensors import DATATYPES, ELEMENT_BYTES, Tensor
from tests.service.protocols.open_inference.manifests import ANY_MODEL

shapes = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def typed(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    """A datatype that has typed contents, a shape, and elements for it."""
    datatype = draw(st.sampled_from(sorted(CONTENTS)))
    shape = draw(shapes)
    element: st.SearchStrategy[Any]
    if datatype == "BYTES":
        element = st.binary(max_size=9)
    elif datatype == "BOOL":
        element = st.booleans()
    elif datatype.startswith("FP"):
        element = st.floats(width=32 if datatype == "FP32" else 64)
    else:
        limits = np.iinfo(NUMPY_DTYPES[datatype])
        element = st.integers(int(limits.min), int(limits.max))
    size = prod(shape)
    return datatype, shape, draw(st.lists(element, min_size=size, max_size=size))


def asking(datatype: str, shape: list[int], **fields: Any) -> ModelInferRequest:
    """A request with one input, `x`."""
    request = ModelInferRequest(**fields)
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


@given(typed())
def test_typed_contents_become_the_bytes_of_their_elements(given: tuple[str, list[int], list[Any]]) -> None:
    datatype, shape, elements = given
    request = asking(datatype, shape)
    getattr(request.inputs[0].contents, CONTENTS[datatype]).extend(elements)

    (tensor,) = read_request(ModelInferRequest.FromString(request.SerializeToString()), ANY_MODEL).inputs

    if datatype == "BYTES":
        raw = pack_strings(elements)
    else:
        raw = np.array(elements, NUMPY_DTYPES[datatype].newbyteorder("<")).tobytes()
    assert tensor == Tensor("x", datatype, tuple(shape), raw)


@given(st.data(), st.sampled_from(DATATYPES), shapes)
def test_raw_tensors_pass_unchanged_to_a_request_and_from_an_answer(
    data: st.DataObject, datatype: str, shape: list[int]
) -> None:
    if datatype == "BYTES":
        raw = pack_strings(data.draw(st.lists(st.binary(max_size=9), min_size=prod(shape), max_size=prod(shape))))
    else:
        size = prod(shape) * ELEMENT_BYTES[datatype]
        raw = data.draw(st.binary(min_size=size, max_size=size))
    request = asking(datatype, shape, raw_input_contents=[raw])

    (tensor,) = read_request(ModelInferRequest.FromString(request.SerializeToString()), ANY_MODEL).inputs
    written = write_result(InferResult("m", "3", "an id", ((RequestedOutput(name="x"), tensor),)))
    response = ModelInferResponse.FromString(written.SerializeToString())

    assert tensor == Tensor("x", datatype, tuple(shape), raw)
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "an id")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", datatype, shape)
    assert list(response.raw_output_contents) == [raw]
    assert not output.HasField("contents")


def test_requested_outputs_and_parameters_are_read() -> None:
    request = asking("UINT8", [2], id="7", raw_input_contents=[b"ab"])
    request.parameters["timeout"].int64_param = 5
    request.parameters["priority"].uint64_param = 2
    request.parameters["name"].string_param = "n"
    request.parameters["flag"].bool_param = False
    request.parameters["share"].double_param = 0.5
    request.outputs.add(name="scores").parameters["classification"].int64_param = 3
    request.outputs.add(name="rest")

    read = read_request(request, ANY_MODEL)

    assert read.id == "7"
    assert read.parameters == {"timeout": 5, "priority": 2, "name": "n", "flag": False, "share": 0.5}
    assert read.outputs == (RequestedOutput(name="scores", num_classes=3), RequestedOutput(name="rest"))


def both_forms() -> ModelInferRequest:
    request = asking("FP32", [1], raw_input_contents=[b"\0" * 4])
    request.inputs[0].contents.fp32_contents.append(1)
    return request


def too_few_raw() -> ModelInferRequest:
    request = asking("FP32", [1], raw_input_contents=[b"\0" * 4])
    request.inputs.add(name="y", datatype="FP32", shape=[1])
    return request


def contents(datatype: str, shape: list[int], **elements: Any) -> Callable[[], ModelInferRequest]:
    def build() -> ModelInferRequest:
        request = asking(datatype, shape)
        for name, values in elements.items():
            getattr(request.inputs[0].contents, name).extend(values)
        return request

    return build


def too_many() -> ModelInferRequest:
    request = ModelInferRequest()
    for _ in range(MAX_TENSORS + 1):
        request.outputs.add(name="y")
    return request


def empty_parameter() -> ModelInferRequest:
    request = asking("BOOL", [1], raw_input_contents=[b"\1"])
    request.parameters["odd"].Clear()
    return request


def classes(value: Any, kind: str) -> Callable[[], ModelInferRequest]:
    def build() -> ModelInferRequest:
        request = asking("BOOL", [1], raw_input_contents=[b"\1"])
        setattr(request.outputs.add(name="y").parameters["classification"], kind, value)
        return request

    return build


def input_in_shared_memory() -> ModelInferRequest:
    request = asking("FP32", [1])
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return request


def output_in_shared_memory() -> ModelInferRequest:
    request = asking("BOOL", [1], raw_input_contents=[b"\1"])
    request.outputs.add(name="y").parameters["shared_memory_region"].string_param = "r"
    return request


@pytest.mark.parametrize(
    ("build", "kind", "quoted"),
    [
        (both_forms, InvalidParameter, "'x' has contents, and the request raw_input_contents"),
        (too_few_raw, InvalidParameter, "2 inputs and 1 raw_input_contents"),
        (lambda: asking("FP32", [2], raw_input_contents=[b"\0" * 4]), InvalidParameter, "has 4 bytes"),
        (lambda: asking("BYTES", [1], raw_input_contents=[b"\5\0\0\0abc"]), InvalidParameter, "holds 0 whole elements"),
        (lambda: asking("FP32", [-1], raw_input_contents=[b"\0" * 4]), InvalidParameter, "whole numbers from 0 on"),
        (lambda: asking("FP8", [1], raw_input_contents=[b"\0"]), InvalidParameter, "known are BOOL"),
        (contents("FP16", [1], fp32_contents=[1]), InvalidParameter, "FP16 is accepted only as raw bytes"),
        (contents("BF16", [1], fp32_contents=[1]), InvalidParameter, "BF16 is accepted only as raw bytes"),
        (contents("FP32", [1], fp64_contents=[1]), InvalidParameter, "the elements of FP32 belong in fp32_contents"),
        (contents("INT8", [1], int_contents=[1], uint_contents=[1]), InvalidParameter, "has uint_contents"),
        (contents("FP32", [2, 2], fp32_contents=[1, 2, 3]), InvalidParameter, "has 3 elements in fp32_contents"),
        (contents("FP32", [2]), InvalidParameter, "has 0 elements in fp32_contents"),
        (contents("INT8", [2], int_contents=[1, 128]), InvalidParameter, "element 1 is 128, which INT8 cannot hold"),
        (contents("UINT16", [1], uint_contents=[65536]), InvalidParameter, "which UINT16 cannot hold"),
        (contents("FP32", [2**20, 2**20]), InvalidParameter, "must be at most"),
        (too_many, InvalidParameter, f"{MAX_TENSORS + 1} outputs"),
        (empty_parameter, InvalidParameter, "'odd' of the request has no value"),
        (classes(0, "int64_param"), InvalidParameter, "classification of 'y' is 0"),
        (classes("2", "string_param"), InvalidParameter, "classification of 'y' is '2'"),
        (classes(True, "bool_param"), InvalidParameter, "classification of 'y' is true"),
        (input_in_shared_memory, Unsupported, "'x' refers to shared memory"),
        (output_in_shared_memory, Unsupported, "'y' refers to shared memory"),
    ],
)
def test_what_does_not_fit_is_refused(
    build: Callable[[], ModelInferRequest], kind: type[ServiceError], quoted: str
) -> None:
    with pytest.raises(kind) as refused:
        read_request(build(), ANY_MODEL)

    assert quoted in refused.value.message
    assert refused.value.message.endswith(".")


def test_a_request_of_nothing_has_no_inputs() -> None:
    read = read_request(ModelInferRequest(), ANY_MODEL)

    assert (read.inputs, read.outputs, read.parameters) == ((), (), {})
