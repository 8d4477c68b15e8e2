"""Inputs are checked against the model before a single element is read, over HTTP as over gRPC."""

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from models.manifest import TensorSpec
from service.errors import InvalidParameter, PayloadTooLarge, ServiceError
from service.protocols.open_inference.description import Target
from service.protocols.open_inference.grpc.messages import read_request
from service.protocols.open_inference.grpc.open_inference_pb2 import ModelInferRequest
from service.protocols.open_inference.inputs import MAX_JSON_ELEMENTS, MAX_STRINGS, ModelInputs
from service.protocols.open_inference.request import parse_request
from tests.service.protocols.open_inference.manifests import graph_of

NUM_ELEMENTS = 200_000


def model_of(*inputs: TensorSpec, task: str = "tensors") -> ModelInputs:
    manifest = SimpleNamespace(graphs={"model": graph_of(inputs, is_batched=inputs[0].datatype != "BYTES")}, task=task)
    return ModelInputs(Target(SimpleNamespace(manifest=manifest), "model"), 64)  # type: ignore[arg-type]


NUMBERS = model_of(TensorSpec(name="x", datatype="FP32", shape=(-1, 3)))
TEXTS = model_of(TensorSpec(name="x", datatype="BYTES", shape=(-1,)))
IMAGES = model_of(TensorSpec(name="x", datatype="UINT8", shape=(-1, 8, 8, 1)), task="image-classification")


def as_json(name: str, datatype: str, shape: list[int], element: str) -> Any:
    data = ",".join([element] * NUM_ELEMENTS)
    head = json.dumps({"name": name, "datatype": datatype, "shape": shape})[:-1]
    text = f'{{"inputs": [{head}, "data": [{data}]}}]}}'.encode()
    return lambda model: parse_request(text, None, model)


def as_binary(name: str, datatype: str, shape: list[int], element: str) -> Any:
    raw = bytes(4 * NUM_ELEMENTS)
    tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [tensor]}).encode()
    return lambda model: parse_request(text + raw, len(text), model)


def as_message(name: str, datatype: str, shape: list[int], element: str) -> Any:
    request = ModelInferRequest()
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    if datatype == "BYTES":
        tensor.contents.bytes_contents.extend([b""] * NUM_ELEMENTS)
    else:
        tensor.contents.fp32_contents.extend([1.0] * NUM_ELEMENTS)
    return lambda model: read_request(request, model)


@pytest.mark.parametrize("form", [as_json, as_binary, as_message])
@pytest.mark.parametrize(
    ("model", "name", "datatype", "shape", "error"),
    [
        (NUMBERS, "x", "BYTES", [NUM_ELEMENTS], PayloadTooLarge),
        (NUMBERS, "x", "BYTES", [9], InvalidParameter),
        (NUMBERS, "y", "FP32", [NUM_ELEMENTS, 1], InvalidParameter),
        (NUMBERS, "x", "FP32", [NUM_ELEMENTS], InvalidParameter),
        (NUMBERS, "x", "FP32", [NUM_ELEMENTS, 1], InvalidParameter),
        (NUMBERS, "x", "FP32", [1] * 40, InvalidParameter),
        (TEXTS, "x", "BYTES", [NUM_ELEMENTS], PayloadTooLarge),
        (IMAGES, "x", "BYTES", [65], InvalidParameter),
        (IMAGES, "x", "BYTES", [8, 8], InvalidParameter),
    ],
    ids=range(9),
)
def test_no_element_is_read_of_what_the_model_does_not_take(
    form: Any, model: ModelInputs, name: str, datatype: str, shape: list[int], error: type[ServiceError]
) -> None:
    read = form(name, datatype, shape, '""' if datatype == "BYTES" else "1")
    tracemalloc.start()

    with pytest.raises(error):
        read(model)

    assert tracemalloc.get_traced_memory()[1] < 2 * 2**20  # the text of the JSON, but no object for each element
    tracemalloc.stop()


def test_strings_are_read_up_to_their_bound() -> None:
    text = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [MAX_STRINGS], "data": [""] * MAX_STRINGS}]}
    )

    assert parse_request(text.encode(), None, TEXTS).inputs[0].num_elements == MAX_STRINGS


def test_json_may_hold_one_row_of_any_size_and_raw_bytes_any_number_of_rows() -> None:
    wide = model_of(TensorSpec(name="x", datatype="UINT8", shape=(-1, 3 * MAX_JSON_ELEMENTS)))

    assert wide.json_bounds.max_values > 3 * MAX_JSON_ELEMENTS
    assert NUMBERS.json_bounds.max_values < 2 * MAX_JSON_ELEMENTS
    raw = bytes(12 * MAX_JSON_ELEMENTS)
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [MAX_JSON_ELEMENTS, 3],
        "parameters": {"binary_data_size": len(raw)},
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    assert parse_request(text + raw, len(text), NUMBERS).inputs[0].num_elements == 3 * MAX_JSON_ELEMENTS
